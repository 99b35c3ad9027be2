//! What is written down of every change.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::actor::Actor;

/// One entry of an audit log.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// Who.
    pub actor: Actor,
    /// When.
    pub at: DateTime<Utc>,
    /// What was done.
    pub action: AuditAction,
    /// The kind of thing it was done to (`musician`, `tenant`).
    pub model: &'static str,
    /// Its id, as people see it.
    pub record_id: Option<String>,
    /// `{"before": .., "after": ..}` with the fields that changed, or what else there is to say.
    pub changes: Option<Value>,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuditAction {
    /// Something new.
    Create,
    /// Fields changed.
    Update,
    /// Put away, kept for history.
    Archive,
    /// Taken back from the archive.
    Restore,
    /// Gone.
    Delete,
    /// Many rows from a file.
    Import,
    /// A new orchestra's first contents.
    Provision,
    /// A tenant locked.
    Suspend,
    /// A tenant unlocked.
    Resume,
    /// A sign-in.
    Login,
    /// A refused sign-in.
    LoginFailed,
    /// A new password.
    SetPassword,
    /// A person who may sign in no more.
    Disable,
    /// A person who may sign in again.
    Enable,
    /// Attacks on the platform's isolation, to prove it.
    Prove,
}

impl AuditAction {
    /// The word as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Archive => "archive",
            Self::Restore => "restore",
            Self::Delete => "delete",
            Self::Import => "import",
            Self::Provision => "provision",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Login => "login",
            Self::LoginFailed => "login_failed",
            Self::SetPassword => "set_password",
            Self::Disable => "disable",
            Self::Enable => "enable",
            Self::Prove => "prove",
        }
    }
}
