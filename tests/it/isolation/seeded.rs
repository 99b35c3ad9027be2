//! A lab whose two tenants have the same rows, at least one in every table.

use chrono::{DateTime, NaiveDate, Utc};
use stagesub_domain::actor::Actor;
use stagesub_domain::audit::{AuditAction, AuditEntry};
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
use stagesub_tenancy::Access;
use uuid::Uuid;

use crate::tenant_tx::lab::Lab;

pub(crate) async fn lab() -> Lab {
    let lab = Lab::start(2).await;
    let units = lab.units();
    for scope in &lab.scopes {
        let mut unit = units.begin(scope, Access::Write).await.expect("the tenant is served");
        seed(&mut *unit).await;
        unit.commit().await.expect("what was written is kept");
    }
    lab
}

async fn seed(unit: &mut dyn UnitOfWork) {
    let at = DateTime::<Utc>::UNIX_EPOCH;
    unit.starter().insert_foundation(&Settings::default(), Tier::Small.limits(), 1).await.unwrap();
    let template = MailTemplate {
        mail_type: MailType::Request,
        language: Language::Sv,
        subject: "Vill du spela?".to_owned(),
        body: "Hej {{firstName}}!".to_owned(),
    };
    unit.starter().insert_templates(vec![template]).await.unwrap();
    let instrument = Instrument {
        no: InstrumentNo::new(1),
        name: "Violin".to_owned(),
        display_order: Some(1),
        archived_at: None,
        created_at: at,
        updated_at: at,
    };
    unit.instruments().insert(vec![instrument]).await.unwrap();
    let position = Position {
        no: PositionNo::new(1),
        instrument: InstrumentNo::new(1),
        name: "Tutti violin 1".to_owned(),
        hierarchy_level: 4,
        created_at: at,
        updated_at: at,
    };
    unit.positions().insert(vec![position]).await.unwrap();
    let list = RankingList {
        no: RankingListNo::new(1),
        position: PositionNo::new(1),
        list_type: ListType::A,
        description: None,
        created_at: at,
    };
    unit.ranking_lists().insert(vec![list]).await.unwrap();
    let musician = Musician {
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
    };
    unit.musicians().insert(vec![musician]).await.unwrap();
    let project = Project {
        no: ProjectNo::new(1),
        name: "Mahler 2".to_owned(),
        start_date: NaiveDate::from_ymd_opt(2026, 11, 23).expect("a day"),
        week_number: 48,
        rehearsal_schedule: None,
        concert_info: None,
        notes: None,
        status: ProjectStatus::Planned,
        created_at: at,
        updated_at: at,
    };
    unit.projects().insert(&project).await.unwrap();
    let entry = AuditEntry {
        actor: Actor::system(),
        at,
        action: AuditAction::Provision,
        model: "tenant",
        record_id: None,
        changes: None,
    };
    unit.audit().record(&entry).await.unwrap();
    let asked = Asked {
        user: Uuid::from_u128(1),
        key: "en-nyckel".parse().expect("a key"),
        fingerprint: Fingerprint::new([1; 32]),
    };
    let answer = KeptAnswer {
        status: 201,
        location: Some("/api/v1/instruments/AAA-INST-001".to_owned()),
        content_type: "application/json".to_owned(),
        body: b"{}".to_vec(),
    };
    unit.idempotency().claim(&asked, at).await.unwrap();
    unit.idempotency().keep(&asked, &answer, at).await.unwrap();
}
