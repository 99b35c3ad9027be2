//! A new orchestra's first rows.

use async_trait::async_trait;
use stagesub_domain::error::StoreError;
use stagesub_domain::ports::StarterRepository;
use stagesub_domain::settings::Settings;
use stagesub_domain::starter::MailTemplate;
use stagesub_domain::subscription::{Limits, Resource};
use stagesub_id_gen::Kind;

use super::store_error;
use crate::tx::TenantTx;

pub(crate) struct PgStarter<'w> {
    pub(crate) tx: &'w mut TenantTx,
}

#[async_trait]
impl StarterRepository for PgStarter<'_> {
    async fn is_done(&mut self) -> Result<bool, StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM tenant.settings WHERE tenant_id = $1) AS "exists!""#,
            tenant
        )
        .fetch_one(&mut *self.tx)
        .await
        .map_err(store_error)
    }

    async fn insert_foundation(
        &mut self,
        settings: &Settings,
        limits: Limits,
        limits_version: i64,
    ) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        sqlx::query!(
            "INSERT INTO tenant.settings
                 (tenant_id, reminder_percentage, ranking_conflict_strategy, language, timezone,
                  default_response_hours)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (tenant_id) DO NOTHING",
            tenant,
            settings.reminder_percentage,
            settings.ranking_conflict_strategy,
            settings.language.as_str(),
            settings.timezone,
            settings.default_response_hours
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        let resources: Vec<String> = Resource::ALL.iter().map(|r| r.as_str().to_owned()).collect();
        let allowed: Vec<Option<i32>> = Resource::ALL.iter().map(|r| limits.of(*r)).collect();
        sqlx::query!(
            "INSERT INTO tenant.quota (tenant_id, resource, used, allowed, limits_version)
             SELECT $1, u.resource, 0, u.allowed, $4
             FROM UNNEST($2::text[], $3::integer[]) AS u (resource, allowed)
             ON CONFLICT (tenant_id, resource) DO NOTHING",
            tenant,
            &resources,
            &allowed as &[Option<i32>],
            limits_version
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        let kinds: Vec<String> = Kind::ALL.iter().map(|kind| kind.code().to_owned()).collect();
        sqlx::query!(
            "INSERT INTO tenant.id_counter (tenant_id, kind, last)
             SELECT $1, u.kind, 0 FROM UNNEST($2::text[]) AS u (kind)
             ON CONFLICT (tenant_id, kind) DO NOTHING",
            tenant,
            &kinds
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        Ok(())
    }

    async fn insert_templates(&mut self, templates: Vec<MailTemplate>) -> Result<(), StoreError> {
        let tenant = self.tx.tenant().as_uuid();
        let types: Vec<String> = templates.iter().map(|t| t.mail_type.as_str().to_owned()).collect();
        let languages: Vec<String> = templates.iter().map(|t| t.language.as_str().to_owned()).collect();
        let subjects: Vec<String> = templates.iter().map(|t| t.subject.clone()).collect();
        let bodies: Vec<String> = templates.iter().map(|t| t.body.clone()).collect();
        sqlx::query!(
            "INSERT INTO tenant.email_template (tenant_id, mail_type, language, subject, body)
             SELECT $1, u.mail_type, u.language, u.subject, u.body
             FROM UNNEST($2::text[], $3::text[], $4::text[], $5::text[]) AS u (mail_type, language, subject, body)
             ON CONFLICT (tenant_id, mail_type, language) DO NOTHING",
            tenant,
            &types,
            &languages,
            &subjects,
            &bodies
        )
        .execute(&mut *self.tx)
        .await
        .map_err(store_error)?;
        Ok(())
    }
}
