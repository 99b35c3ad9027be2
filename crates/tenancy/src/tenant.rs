//! The tenant: who it is and whether it may be served now.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::subdomain::Subdomain;

/// Opaque identity of a tenant. A version 7 UUID when the platform made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantId(Uuid);

impl TenantId {
    /// Wraps an id that is known to name a tenant.
    #[must_use]
    pub const fn from_uuid(id: Uuid) -> Self {
        Self(id)
    }

    /// The id as it is stored.
    #[must_use]
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for TenantId {
    type Err = InvalidTenantId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidTenantId)
    }
}

/// The text is not a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tenant id is a UUID")]
pub struct InvalidTenantId;

/// Prefix of the ids that a tenant's people see (`GOT` in `GOT-MUS-001`).
///
/// Two to six of `A-Z0-9`, unique on the platform, never changed and never reused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TenantCode(String);

impl TenantCode {
    /// Shortest code, in characters.
    pub const MIN_LEN: usize = 2;
    /// Longest code, in characters.
    pub const MAX_LEN: usize = 6;

    /// The code as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TenantCode {
    type Err = InvalidTenantCode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (Self::MIN_LEN..=Self::MAX_LEN).contains(&text.len());
        if fits && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidTenantCode)
        }
    }
}

/// The text is not a tenant code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tenant code is 2 to 6 characters of A-Z and 0-9")]
pub struct InvalidTenantCode;

/// Where a tenant stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantStatus {
    /// Being made: code and subdomain are reserved, its database is not ready.
    Provisioning,
    /// In use.
    Active,
    /// Locked by an administrator of the platform.
    Suspended,
    /// On its way out: exports only.
    Closing,
}

impl TenantStatus {
    /// The word as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Closing => "closing",
        }
    }
}

impl FromStr for TenantStatus {
    type Err = UnknownTenantStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Provisioning, Self::Active, Self::Suspended, Self::Closing]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or(UnknownTenantStatus)
    }
}

/// The text names no status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tenant's status is provisioning, active, suspended or closing")]
pub struct UnknownTenantStatus;

/// Version of a tenant's cached record. Grows with every change of the record; compared, never computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ConfigVersion(pub i64);

/// What the platform knows of a tenant without opening its database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its identity.
    pub id: TenantId,
    /// Prefix of its ids.
    pub code: TenantCode,
    /// Its name, as people write it.
    pub name: String,
    /// Its host label.
    pub subdomain: Subdomain,
    /// Where it stands in its life.
    pub status: TenantStatus,
    /// End of the trial, if it has one.
    pub trial_ends_at: Option<DateTime<Utc>>,
    /// End of the paid subscription, if it has one.
    pub subscription_ends_at: Option<DateTime<Utc>>,
    /// Version of this record.
    pub version: ConfigVersion,
}

impl Tenant {
    /// Whether people may use this tenant at `now`.
    ///
    /// A tenant whose trial and subscription both have no end is open-ended; otherwise it is served until
    /// the later of the two.
    ///
    /// # Errors
    /// The first reason, in this order: its status, then its dates.
    pub fn access_at(&self, now: DateTime<Utc>) -> Result<(), AccessRefusal> {
        match self.status {
            TenantStatus::Active => {}
            TenantStatus::Provisioning => return Err(AccessRefusal::Provisioning),
            TenantStatus::Suspended => return Err(AccessRefusal::Suspended),
            TenantStatus::Closing => return Err(AccessRefusal::Closing),
        }
        match self.trial_ends_at.max(self.subscription_ends_at) {
            Some(end) if end <= now => Err(AccessRefusal::Expired { since: end }),
            _ => Ok(()),
        }
    }
}

/// Why a tenant that exists is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccessRefusal {
    /// Its database is not ready yet.
    #[error("the tenant is being set up")]
    Provisioning,
    /// An administrator of the platform locked it.
    #[error("the tenant is suspended")]
    Suspended,
    /// It is on its way out.
    #[error("the tenant is closing")]
    Closing,
    /// Trial and subscription are over.
    #[error("the tenant's subscription ended at {since}")]
    Expired {
        /// The later of the two ends.
        since: DateTime<Utc>,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn code_is_two_to_six_capitals_or_digits() {
        for text in ["GO", "GOT", "GOT123", "42"] {
            assert_eq!(text.parse::<TenantCode>().expect(text).as_str(), text);
        }
        for text in ["", "G", "GOTEBOR", "got", "GÖT", "G T", "G-T", "GOT\n", "ＧＯＴ"] {
            assert_eq!(text.parse::<TenantCode>(), Err(InvalidTenantCode), "{text:?}");
        }
    }

    #[test]
    fn every_status_is_parsed_from_its_word() {
        for status in
            [TenantStatus::Provisioning, TenantStatus::Active, TenantStatus::Suspended, TenantStatus::Closing]
        {
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        assert_eq!("ACTIVE".parse::<TenantStatus>(), Err(UnknownTenantStatus));
    }

    #[test]
    fn id_is_a_uuid() {
        assert_eq!("1".parse::<TenantId>(), Err(InvalidTenantId));
        assert_eq!("".parse::<TenantId>(), Err(InvalidTenantId));
    }

    #[test]
    fn status_is_refused_before_the_dates() {
        let ended = crate::testing::tenant(1, "GOT", "gbg");
        let ended =
            Tenant { status: TenantStatus::Suspended, trial_ends_at: Some(DateTime::UNIX_EPOCH), ..ended };
        assert_eq!(ended.access_at(DateTime::UNIX_EPOCH), Err(AccessRefusal::Suspended));
    }

    proptest! {
        #[test]
        fn rendered_id_parses_to_itself(bits in any::<u128>()) {
            let id = TenantId::from_uuid(Uuid::from_u128(bits));
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
}
