//! The orchestra's sample: a row in every table.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use stagesub_domain::actor::Actor;
use stagesub_domain::audit::{AuditAction, AuditEntry};
use stagesub_domain::error::StoreError;
use stagesub_domain::idempotency::{Asked, Fingerprint, KeptAnswer};
use stagesub_domain::ids::{InstrumentNo, MusicianNo, PositionNo, ProjectNo, RankingListNo};
use stagesub_domain::instrument::{Instrument, ListType, Position, RankingList};
use stagesub_domain::language::Language;
use stagesub_domain::musician::Musician;
use stagesub_domain::ports::UnitOfWork;
use stagesub_domain::project::{Project, ProjectStatus};
use stagesub_domain::settings::Settings;
use stagesub_domain::starter::{MailTemplate, MailType};
use stagesub_domain::subscription::Tier;
use stagesub_tenancy::{Access, BoxError, TenantScope, UnitOfWorkFactory as _};
use uuid::Uuid;

use super::Sample;
use crate::factory::TenantDb;
use crate::unit::PgUnitOfWorkFactory;

/// An orchestra of one musician.
#[derive(Debug, Clone, Copy, Default)]
pub struct OrchestraSample;

#[async_trait]
impl Sample for OrchestraSample {
    async fn seed(&self, db: &TenantDb, scope: &TenantScope) -> Result<(), BoxError> {
        let mut unit = PgUnitOfWorkFactory::new(db.clone()).begin(scope, Access::Write).await?;
        seed(&mut *unit).await?;
        unit.commit().await?;
        Ok(())
    }
}

/// Gives a tenant that has none a row in every table, with the same numbers and names for each tenant.
///
/// # Errors
/// The repositories'; [`StoreError::Conflict`] for a tenant that has rows.
pub async fn seed(unit: &mut dyn UnitOfWork) -> Result<(), StoreError> {
    let at = DateTime::<Utc>::UNIX_EPOCH;
    unit.starter().insert_foundation(&Settings::default(), Tier::Small.limits(), 1).await?;
    let template = MailTemplate {
        mail_type: MailType::Request,
        language: Language::Sv,
        subject: "Vill du spela?".to_owned(),
        body: "Hej {{firstName}}!".to_owned(),
    };
    unit.starter().insert_templates(vec![template]).await?;
    let instrument = Instrument {
        no: InstrumentNo::new(1),
        name: "Violin".to_owned(),
        display_order: Some(1),
        archived_at: None,
        created_at: at,
        updated_at: at,
    };
    unit.instruments().insert(vec![instrument]).await?;
    let position = Position {
        no: PositionNo::new(1),
        instrument: InstrumentNo::new(1),
        name: "Tutti violin 1".to_owned(),
        hierarchy_level: 4,
        created_at: at,
        updated_at: at,
    };
    unit.positions().insert(vec![position]).await?;
    let list = RankingList {
        no: RankingListNo::new(1),
        position: PositionNo::new(1),
        list_type: ListType::A,
        description: None,
        created_at: at,
    };
    unit.ranking_lists().insert(vec![list]).await?;
    unit.musicians().insert(vec![musician(at)]).await?;
    unit.projects().insert(&project(at)).await?;
    let entry = AuditEntry {
        actor: Actor::system(),
        at,
        action: AuditAction::Provision,
        model: "tenant",
        record_id: None,
        changes: None,
    };
    unit.audit().record(&entry).await?;
    let asked = Asked {
        user: Uuid::from_u128(1),
        key: "en-nyckel".parse().map_err(|source| StoreError::Failed(Box::new(source)))?,
        fingerprint: Fingerprint::new([1; 32]),
    };
    let answer = KeptAnswer {
        status: 201,
        location: Some("/api/v1/instruments/AAA-INST-001".to_owned()),
        content_type: "application/json".to_owned(),
        body: b"{}".to_vec(),
    };
    unit.idempotency().claim(&asked, at).await?;
    unit.idempotency().keep(&asked, &answer, at).await
}

fn musician(at: DateTime<Utc>) -> Musician {
    Musician {
        no: MusicianNo::new(1),
        first_name: "Åsa".to_owned(),
        last_name: "Berg".to_owned(),
        email: "asa@example.se".to_owned(),
        phone: None,
        preferred_language: Language::Sv,
        local_residence: true,
        notes: None,
        is_active: true,
        archived_at: None,
        qualifications: vec![PositionNo::new(1)],
        created_at: at,
        updated_at: at,
    }
}

fn project(at: DateTime<Utc>) -> Project {
    Project {
        no: ProjectNo::new(1),
        name: "Mahler 2".to_owned(),
        start_date: at.date_naive(),
        week_number: 1,
        rehearsal_schedule: None,
        concert_info: None,
        notes: None,
        status: ProjectStatus::Planned,
        created_at: at,
        updated_at: at,
    }
}
