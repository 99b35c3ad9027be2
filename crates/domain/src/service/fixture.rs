//! What the tests of use cases share.

use chrono::{DateTime, Utc};
use serde_json::Value;
use stagesub_tenancy::TenantCode;

use crate::actor::Actor;
use crate::audit::AuditAction;
use crate::service::context::Act;
use crate::subscription::Limits;
use crate::testing::InMemoryUnit;

pub(crate) const UNLIMITED: Limits = Limits { musicians: None, active_projects: None, instruments: None };

/// One who acts.
pub(crate) struct Stage {
    actor: Actor,
    code: TenantCode,
    now: DateTime<Utc>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self { actor: Actor::system(), code: "GOT".parse().expect("a code"), now: moment(0) }
    }

    pub(crate) fn act(&self) -> Act<'_> {
        Act { actor: &self.actor, code: &self.code, now: self.now }
    }

    /// The same, some days later.
    pub(crate) fn later(days: i64) -> Self {
        Self { now: moment(days), ..Self::new() }
    }
}

pub(crate) fn moment(day: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + day * 86_400, 0).expect("within range")
}

/// The audit log as (action, record, changes).
pub(crate) fn audit(unit: &InMemoryUnit) -> Vec<(AuditAction, Option<String>, Option<Value>)> {
    let rows = unit.rows();
    rows.audit.iter().map(|entry| (entry.action, entry.record_id.clone(), entry.changes.clone())).collect()
}

/// The actions of the audit log.
pub(crate) fn actions(unit: &InMemoryUnit) -> Vec<AuditAction> {
    audit(unit).into_iter().map(|(action, ..)| action).collect()
}
