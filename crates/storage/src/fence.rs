//! Admitting a tenant to a database: the fence row that `app.enter` and readers ask for.

use sqlx::{Connection, PgConnection};
use stagesub_tenancy::{BoxError, PlacementEpoch, TenantId};

use crate::target::ConnectionTarget;

/// A tenant was not admitted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdmitError {
    /// The database cannot be reached as the migrator.
    #[error("the database {database} cannot be reached")]
    Unreachable {
        /// Which, without secrets.
        database: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The database serves the tenant at another epoch, or is moving it away.
    #[error("the database serves the tenant at another epoch already")]
    OtherEpoch,
    /// The statement failed.
    #[error("the tenant's fence could not be written")]
    Failed(#[source] BoxError),
}

/// Lets transactions of `tenant` at `epoch` begin in the database. Idempotent; never goes back to an older
/// epoch and never reopens one that was ended.
///
/// `migrator` is the migrator's login on that database: it acts as the owner, whom the fence table does not
/// bind; the application can only read its own row.
pub async fn admit_tenant(
    migrator: &ConnectionTarget,
    tenant: TenantId,
    epoch: PlacementEpoch,
) -> Result<(), AdmitError> {
    let mut connection =
        PgConnection::connect_with(&migrator.to_connect_options()).await.map_err(|source| {
            AdmitError::Unreachable { database: migrator.describe(), source: Box::new(source) }
        })?;
    let admitted = admit(&mut connection, tenant, epoch).await;
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "the migrator's connection did not close cleanly");
    }
    admitted
}

async fn admit(
    connection: &mut PgConnection,
    tenant: TenantId,
    epoch: PlacementEpoch,
) -> Result<(), AdmitError> {
    let failed = |source: sqlx::Error| AdmitError::Failed(Box::new(source));
    let mut transaction = connection.begin().await.map_err(failed)?;
    sqlx::query("SET LOCAL ROLE stagesub_owner").execute(&mut *transaction).await.map_err(failed)?;
    sqlx::query!(
        "INSERT INTO app.tenant_fence AS f (tenant_id, state, epoch) VALUES ($1, 'active', $2)
         ON CONFLICT (tenant_id) DO UPDATE SET state = 'active', epoch = excluded.epoch, updated_at = now()
         WHERE f.epoch < excluded.epoch",
        tenant.as_uuid(),
        epoch.0
    )
    .execute(&mut *transaction)
    .await
    .map_err(failed)?;
    let fence =
        sqlx::query!("SELECT state, epoch FROM app.tenant_fence WHERE tenant_id = $1", tenant.as_uuid())
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed)?;
    // A commit whose connection was lost is a failure like another: admitting again is admitting once.
    transaction.commit().await.map_err(failed)?;
    if fence.state == "active" && fence.epoch == epoch.0 { Ok(()) } else { Err(AdmitError::OtherEpoch) }
}
