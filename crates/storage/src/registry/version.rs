//! The version that every change of the registry takes, and that caches follow.

use sqlx::PgConnection;
#[cfg(feature = "orchestra")]
use stagesub_domain::error::StoreError;

#[cfg(feature = "orchestra")]
use crate::repo::store_error;

/// Takes the registry's next version. Its row is the first lock of every change, so that changes are in
/// commit order and cannot lock each other out.
///
/// Nodes are told when the transaction commits, and of nothing if it does not: the version and never data,
/// since whoever may connect may listen.
pub(super) async fn take(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"WITH taken AS (
            UPDATE registry.version SET version = version + 1, updated_at = now() RETURNING version
        )
        SELECT taken.version AS "version!"
        FROM taken
        CROSS JOIN LATERAL pg_notify('stagesub_registry', taken.version::text) AS told"#
    )
    .fetch_one(conn)
    .await
}

/// Has nodes ask although nothing changed, when the transaction commits.
pub(super) async fn have_asked(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT version AS "version!" FROM registry.version
        CROSS JOIN LATERAL pg_notify('stagesub_registry', version::text) AS told"#
    )
    .fetch_one(conn)
    .await?;
    Ok(())
}

/// [`take`], for the domain's ports.
#[cfg(feature = "orchestra")]
pub(super) async fn next_version(conn: &mut PgConnection) -> Result<i64, StoreError> {
    take(conn).await.map_err(store_error)
}
