//! Rendering and parsing.

use std::fmt;
use std::str::FromStr;

use stagesub_tenancy::TenantCode;

use crate::kind::Kind;

/// An id as people see it: tenant code, kind, number (`GOT-MUS-001`).
///
/// The number has at least three digits and grows past 999. There is one spelling: `GOT-MUS-1`,
/// `GOT-MUS-0001` and `got-mus-001` are no ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DisplayId {
    code: TenantCode,
    kind: Kind,
    no: i64,
}

impl DisplayId {
    /// An id; `no` counts from 1.
    ///
    /// # Panics
    /// If `no` is below 1, which no counter gives.
    #[must_use]
    pub fn new(code: TenantCode, kind: Kind, no: i64) -> Self {
        assert!(no >= 1, "numbers of ids count from 1");
        Self { code, kind, no }
    }

    /// Parses an id that must be of this tenant and kind, and gives its number.
    ///
    /// # Errors
    /// [`MismatchedDisplayId`], which tells apart what is wrong; a caller that answers 404 need not.
    pub fn parse_for(text: &str, code: &TenantCode, kind: Kind) -> Result<i64, MismatchedDisplayId> {
        let id: Self = text.parse()?;
        if id.code != *code {
            return Err(MismatchedDisplayId::OtherTenant);
        }
        if id.kind != kind {
            return Err(MismatchedDisplayId::OtherKind { expected: kind, found: id.kind });
        }
        Ok(id.no)
    }

    /// The tenant's code.
    #[must_use]
    pub fn code(&self) -> &TenantCode {
        &self.code
    }

    /// What it names.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The number.
    #[must_use]
    pub fn no(&self) -> i64 {
        self.no
    }
}

impl fmt::Display for DisplayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{:03}", self.code, self.kind, self.no)
    }
}

impl FromStr for DisplayId {
    type Err = InvalidDisplayId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('-');
        let (Some(code), Some(kind), Some(digits), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidDisplayId);
        };
        let code = code.parse().map_err(|_| InvalidDisplayId)?;
        let kind = kind.parse().map_err(|_| InvalidDisplayId)?;
        let canonical = digits.len() >= 3
            && digits.bytes().all(|b| b.is_ascii_digit())
            && (digits.len() == 3 || !digits.starts_with('0'));
        let no: i64 = digits.parse().map_err(|_| InvalidDisplayId)?;
        if canonical && no >= 1 { Ok(Self { code, kind, no }) } else { Err(InvalidDisplayId) }
    }
}

/// The text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id looks like GOT-MUS-001")]
pub struct InvalidDisplayId;

/// The text is not an id of this tenant and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MismatchedDisplayId {
    /// Not an id at all.
    #[error(transparent)]
    Invalid(#[from] InvalidDisplayId),
    /// Another tenant's.
    #[error("the id belongs to another orchestra")]
    OtherTenant,
    /// Of another kind.
    #[error("the id names a {found}, not a {expected}")]
    OtherKind {
        /// What was wanted.
        expected: Kind,
        /// What it is.
        found: Kind,
    },
}
