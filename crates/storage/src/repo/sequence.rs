//! Counters that ids are numbered from.

use async_trait::async_trait;
use stagesub_id_gen::{Kind, Reserved, SequenceError, SequenceStore};

use crate::error::{Failure, classify};
use crate::tx::TenantTx;

pub(crate) struct PgSequences<'w> {
    pub(crate) tx: &'w mut TenantTx,
}

#[async_trait]
impl SequenceStore for PgSequences<'_> {
    async fn reserve(&mut self, kind: Kind, count: u32) -> Result<Reserved, SequenceError> {
        let tenant = self.tx.tenant().as_uuid();
        let last = sqlx::query_scalar!(
            "UPDATE tenant.id_counter
             SET last = last + $3, updated_at = now()
             WHERE tenant_id = $1 AND kind = $2
             RETURNING last",
            tenant,
            kind.code(),
            i64::from(count)
        )
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(sequence_error)?;
        match last {
            Some(last) => Ok(Reserved { first: last - i64::from(count) + 1, count }),
            None => Err(SequenceError::Missing { kind }),
        }
    }
}

/// What a failure of the counter means, by the same table as that of any other row.
fn sequence_error(error: sqlx::Error) -> SequenceError {
    match classify(&error) {
        Failure::Contended => SequenceError::Contended(Box::new(error)),
        Failure::ConnectionLost | Failure::TimedOut | Failure::Exhausted | Failure::StaleEpoch => {
            SequenceError::Unavailable(Box::new(error))
        }
        Failure::Constraint(_) | Failure::Statement => SequenceError::Failed(Box::new(error)),
    }
}
