//! Drafts of tenants and people, as administrators of the platform state them.

use chrono::{DateTime, Utc};
use garde::Validate;
use serde_json::Value;
use uuid::Uuid;

use crate::error::ValidationErrors;
use crate::ports::registry::NewMember;
use crate::subscription::Tier;
use crate::validate::{self, Draft, Text};

/// A person to be given an account.
#[derive(Clone, PartialEq, Eq, Validate)]
pub struct PersonDraft {
    /// Identity to use if nobody has this address yet, made by the caller.
    #[garde(skip)]
    pub id: Uuid,
    /// Login address: at most 254 characters, compared without regard to case.
    #[garde(custom(validate::email))]
    pub email: String,
    /// First name: 1 to 100 characters.
    #[garde(custom(validate::name))]
    pub first_name: String,
    /// Last name: 1 to 100 characters.
    #[garde(custom(validate::name))]
    pub last_name: String,
    /// PHC string of the password; `None` for a person who is given one later.
    #[garde(skip)]
    pub password_hash: Option<String>,
}

impl std::fmt::Debug for PersonDraft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PersonDraft").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Draft for PersonDraft {
    fn clean(&mut self) {
        self.email.trim_text();
        self.first_name.trim_text();
        self.last_name.trim_text();
    }
}

impl PersonDraft {
    /// Checks it for the registry.
    pub fn into_member(self) -> Result<NewMember, ValidationErrors> {
        let Self { id, email, first_name, last_name, password_hash } = self.checked()?;
        Ok(NewMember { id, email, first_name, last_name, password_hash })
    }
}

/// An orchestra to be made.
#[derive(Debug, Clone, PartialEq, Eq, Validate)]
pub struct TenantDraft {
    /// Name: 1 to 200 characters.
    #[garde(custom(validate::long_name))]
    pub name: String,
    /// Host label, in lower case.
    #[garde(skip)]
    pub subdomain: String,
    /// Prefix of its ids: 2 to 6 of `A-Z0-9`; proposed from the name when left out.
    #[garde(skip)]
    pub code: Option<String>,
    /// What it subscribes to.
    #[garde(skip)]
    pub tier: Tier,
    /// Whether it gets a database of its own; for the institution tier only.
    #[garde(skip)]
    pub dedicated: bool,
    /// Its first administrator.
    #[garde(dive)]
    pub admin: Option<PersonDraft>,
}

impl Draft for TenantDraft {
    fn clean(&mut self) {
        self.name.trim_text();
        self.subdomain.trim_text();
        validate::empty_is_none(&mut self.code);
        if let Some(admin) = &mut self.admin {
            admin.clean();
        }
    }
}

/// Changes of limits by hand; `None` leaves one as it is, `Some(None)` makes it unlimited.
///
/// A limit is 0 to 1,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitChange {
    /// Musicians.
    pub musicians: Option<Option<i32>>,
    /// Active projects.
    pub active_projects: Option<Option<i32>>,
    /// Instruments.
    pub instruments: Option<Option<i32>>,
}

/// Changes of a tenant; `None` leaves a field as it is, `Some(None)` empties it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Validate)]
pub struct TenantChangeDraft {
    /// Name.
    #[garde(custom(validate::long_name))]
    pub name: Option<String>,
    /// Host label.
    #[garde(skip)]
    pub subdomain: Option<String>,
    /// Tier; its limits replace those of the tier before, and not those that were set by hand.
    #[garde(skip)]
    pub tier: Option<Tier>,
    /// Limits by hand.
    #[garde(skip)]
    pub limits: LimitChange,
    /// End of the trial.
    #[garde(skip)]
    pub trial_ends_at: Option<Option<DateTime<Utc>>>,
    /// End of the paid subscription.
    #[garde(skip)]
    pub subscription_ends_at: Option<Option<DateTime<Utc>>>,
    /// Branding: an object of `logo`, `primaryColour` and `fontFamily`, as far as the tier has them.
    #[garde(skip)]
    pub custom_branding: Option<Option<Value>>,
    /// Mail domain (institution only).
    #[garde(skip)]
    pub email_domain: Option<Option<String>>,
}

impl Draft for TenantChangeDraft {
    fn clean(&mut self) {
        self.name.trim_text();
        self.subdomain.trim_text();
        validate::empty_empties(&mut self.email_domain);
    }
}
