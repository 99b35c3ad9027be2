//! Ranking lists.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use stagesub_domain::error::StoreError;
use stagesub_domain::instrument::RankingList;
use stagesub_domain::ports::RankingListRepository;

use super::store_error;
use crate::tx::TenantTx;

pub(crate) struct PgRankingLists<'w> {
    pub(crate) tx: &'w mut TenantTx,
}

#[async_trait]
impl RankingListRepository for PgRankingLists<'_> {
    async fn insert(&mut self, lists: Vec<RankingList>) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        let numbers: Vec<i64> = lists.iter().map(|l| l.no.get()).collect();
        let positions: Vec<i64> = lists.iter().map(|l| l.position.get()).collect();
        let types: Vec<String> = lists.iter().map(|l| l.list_type.as_str().to_owned()).collect();
        let descriptions: Vec<Option<String>> = lists.iter().map(|l| l.description.clone()).collect();
        let created: Vec<DateTime<Utc>> = lists.iter().map(|l| l.created_at).collect();
        sqlx::query!(
            "INSERT INTO tenant.ranking_list
                 (tenant_id, no, position_no, list_type, description, created_at, updated_at)
             SELECT $1, u.no, u.position_no, u.list_type, u.description, u.created_at, u.created_at
             FROM UNNEST($2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::timestamptz[])
                 AS u (no, position_no, list_type, description, created_at)",
            tenant,
            &numbers,
            &positions,
            &types,
            &descriptions as &[Option<String>],
            &created
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        Ok(())
    }
}
