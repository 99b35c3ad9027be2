//! What creating requests were answered.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use stagesub_domain::error::StoreError;
use stagesub_domain::idempotency::{Asked, Fingerprint, KEPT_FOR, KeptAnswer, is_over};
use stagesub_domain::ports::IdempotencyStore;
use stagesub_domain::ports::idempotency::Claim;

use super::{corrupt, store_error};
use crate::error::{LOCK_NOT_AVAILABLE, sqlstate};
use crate::tx::TenantTx;

/// How often a claim begins anew because the row it met was gone when it looked at it.
const TRIES: u32 = 5;

/// Answers that are too old and go with one claim, at most: an orchestra that asks has few, and never waits long.
const REMOVED_AT_ONCE: i64 = 20;

pub(crate) struct PgIdempotency<'w> {
    pub(crate) tx: &'w mut TenantTx,
}

#[async_trait]
impl IdempotencyStore for PgIdempotency<'_> {
    async fn claim(&mut self, asked: &Asked, now: DateTime<Utc>) -> Result<Claim, StoreError> {
        for _ in 0..TRIES {
            match self.insert(asked, now).await {
                Ok(true) => {
                    self.remove_old(now).await?;
                    return Ok(Claim::Claimed);
                }
                Ok(false) => {}
                Err(error) if sqlstate(&error).as_deref() == Some(LOCK_NOT_AVAILABLE) => {
                    return Ok(Claim::Underway);
                }
                Err(error) => return Err(store_error(error)),
            }
            match self.find(asked).await? {
                Some((at, _)) if is_over(at, now) => self.remove(asked, now).await?,
                Some((_, claim)) => return Ok(claim),
                // Somebody else found it too old, and removed it since.
                None => {}
            }
        }
        Err(StoreError::Contended("the key was claimed and removed again and again".into()))
    }

    async fn keep(
        &mut self,
        asked: &Asked,
        answer: &KeptAnswer,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        let kept = sqlx::query!(
            "UPDATE tenant.idempotency_key
             SET status = $4, location = $5, content_type = $6, body = $7, updated_at = $8
             WHERE tenant_id = $1 AND user_id = $2 AND key = $3",
            tenant,
            asked.user,
            asked.key.as_str(),
            i32::from(answer.status),
            answer.location,
            answer.content_type,
            answer.body,
            now
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?
        .rows_affected();
        if kept == 1 { Ok(()) } else { Err(StoreError::Failed("the key was not claimed".into())) }
    }
}

impl PgIdempotency<'_> {
    /// Whether the key was free. Waits for a transaction that has it; at READ COMMITTED the next statement then
    /// sees what that one left.
    async fn insert(&mut self, asked: &Asked, now: DateTime<Utc>) -> Result<bool, sqlx::Error> {
        let tenant = self.tx.tenant().as_uuid();
        let inserted = sqlx::query!(
            "INSERT INTO tenant.idempotency_key (tenant_id, user_id, key, fingerprint, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $5)
             ON CONFLICT (tenant_id, user_id, key) DO NOTHING",
            tenant,
            asked.user,
            asked.key.as_str(),
            &asked.fingerprint.as_bytes()[..],
            now
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(inserted.rows_affected() == 1)
    }

    /// The request that has the key, and when it was made.
    async fn find(&mut self, asked: &Asked) -> Result<Option<(DateTime<Utc>, Claim)>, StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        let row = sqlx::query!(
            "SELECT fingerprint, status, location, content_type, body, created_at
             FROM tenant.idempotency_key
             WHERE tenant_id = $1 AND user_id = $2 AND key = $3",
            tenant,
            asked.user,
            asked.key.as_str()
        )
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(store_error)?;
        let Some(row) = row else { return Ok(None) };
        let unsound = || corrupt("idempotency_key", asked.user);
        // Only the transaction that claimed it ever sees it without its answer.
        let (Some(status), Some(content_type), Some(body)) = (row.status, row.content_type, row.body) else {
            return Err(unsound());
        };
        let answer = KeptAnswer {
            status: u16::try_from(status).map_err(|_| unsound())?,
            location: row.location,
            content_type,
            body,
        };
        let fingerprint = <[u8; Fingerprint::LEN]>::try_from(row.fingerprint).map_err(|_| unsound())?;
        let claim = Claim::Answered { fingerprint: Fingerprint::new(fingerprint), answer };
        Ok(Some((row.created_at, claim)))
    }

    /// Removes the key's own row if it is too old still.
    async fn remove(&mut self, asked: &Asked, now: DateTime<Utc>) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        sqlx::query!(
            "DELETE FROM tenant.idempotency_key
             WHERE tenant_id = $1 AND user_id = $2 AND key = $3 AND created_at <= $4",
            tenant,
            asked.user,
            asked.key.as_str(),
            now - KEPT_FOR
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        Ok(())
    }

    /// Removes some rows that are too old, passing over those that somebody else is at: nobody waits for it, so
    /// it can lock nobody out.
    async fn remove_old(&mut self, now: DateTime<Utc>) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        sqlx::query!(
            "DELETE FROM tenant.idempotency_key AS k
             USING (
                 SELECT o.user_id, o.key
                 FROM tenant.idempotency_key AS o
                 WHERE o.tenant_id = $1 AND o.created_at <= $2
                 ORDER BY o.created_at
                 LIMIT $3
                 FOR UPDATE SKIP LOCKED
             ) AS old
             WHERE k.tenant_id = $1 AND k.user_id = old.user_id AND k.key = old.key",
            tenant,
            now - KEPT_FOR,
            REMOVED_AT_ONCE
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        Ok(())
    }
}
