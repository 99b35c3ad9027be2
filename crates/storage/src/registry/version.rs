//! The version that every change of the registry takes, and that caches follow.

use sqlx::PgConnection;
use stagesub_domain::error::StoreError;

use crate::repo::store_error;

/// Takes the registry's next version. Its row is the first lock of every change, so that changes are in
/// commit order and cannot lock each other out.
pub(super) async fn next_version(conn: &mut PgConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar!(
        "UPDATE registry.version SET version = version + 1, updated_at = now() RETURNING version"
    )
    .fetch_one(conn)
    .await
    .map_err(store_error)
}
