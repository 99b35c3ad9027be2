//! Who acts, for whom and when.

use chrono::{DateTime, Utc};
use serde_json::Value;
use stagesub_id_gen::{DisplayId, Kind};
use stagesub_tenancy::TenantCode;

use crate::actor::Actor;
use crate::audit::{AuditAction, AuditEntry};

/// What every changing use case is told of its caller.
#[derive(Debug, Clone, Copy)]
pub struct Act<'a> {
    /// Who acts.
    pub actor: &'a Actor,
    /// Prefix of the orchestra's ids.
    pub code: &'a TenantCode,
    /// When: the one moment that all rows of this change carry.
    pub now: DateTime<Utc>,
}

impl Act<'_> {
    /// An id as people see it.
    #[must_use]
    pub fn id(&self, kind: Kind, no: i64) -> String {
        DisplayId::new(self.code.clone(), kind, no).to_string()
    }

    /// An audit entry of this act.
    #[must_use]
    pub fn entry(
        &self,
        action: AuditAction,
        model: &'static str,
        record_id: Option<String>,
        changes: Option<Value>,
    ) -> AuditEntry {
        AuditEntry { actor: self.actor.clone(), at: self.now, action, model, record_id, changes }
    }
}
