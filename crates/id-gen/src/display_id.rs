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

    /// The text of an id, without one.
    ///
    /// # Panics
    /// As [`DisplayId::new`].
    #[must_use]
    pub fn render(code: &TenantCode, kind: Kind, no: i64) -> String {
        assert!(no >= 1, "numbers of ids count from 1");
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(no);
        let zeros = "000".get(digits.len()..).unwrap_or("");
        [code.as_str(), "-", kind.code(), "-", zeros, digits].concat()
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
        f.write_str(&Self::render(&self.code, self.kind, self.no))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code(text: &str) -> TenantCode {
        text.parse().expect("a code")
    }

    #[test]
    fn number_has_three_digits_and_grows_past_999() {
        for (no, text) in [
            (1, "GOT-MUS-001"),
            (42, "GOT-MUS-042"),
            (999, "GOT-MUS-999"),
            (1_000, "GOT-MUS-1000"),
            (i64::MAX, "GOT-MUS-9223372036854775807"),
        ] {
            let id = DisplayId::new(code("GOT"), Kind::Musician, no);
            assert_eq!(id.to_string(), text);
            assert_eq!(text.parse(), Ok(id));
        }
    }

    #[test]
    fn other_spellings_are_no_ids() {
        for text in [
            "",
            "GOT-MUS-1",
            "GOT-MUS-01",
            "GOT-MUS-0001",
            "GOT-MUS-01000",
            "GOT-MUS-000",
            "GOT-MUS--01",
            "GOT-MUS-+01",
            "GOT-MUS- 01",
            "GOT-MUS-001 ",
            " GOT-MUS-001",
            "got-mus-001",
            "GOT-mus-001",
            "GOT-XXX-001",
            "GOT-001",
            "GOT-MUS",
            "GOT-MUS-",
            "GOT-MUS-001-1",
            "GOT_MUS_001",
            "GÖT-MUS-001",
            "GOT-MUS-٠٠١",
            "GOT-MUS-9223372036854775808",
        ] {
            assert_eq!(text.parse::<DisplayId>(), Err(InvalidDisplayId), "{text:?}");
        }
    }

    #[test]
    fn id_of_another_tenant_or_kind_is_told_from_no_id() {
        let parse = |text| DisplayId::parse_for(text, &code("GOT"), Kind::Musician);
        assert_eq!(parse("GOT-MUS-012"), Ok(12));
        assert_eq!(parse("STO-MUS-012"), Err(MismatchedDisplayId::OtherTenant));
        // Whose it is comes first: what kind of thing another tenant has is none of the asker's business.
        assert_eq!(parse("STO-POS-012"), Err(MismatchedDisplayId::OtherTenant));
        let other_kind = MismatchedDisplayId::OtherKind { expected: Kind::Musician, found: Kind::Position };
        assert_eq!(parse("GOT-POS-012"), Err(other_kind));
        assert_eq!(parse("12"), Err(MismatchedDisplayId::Invalid(InvalidDisplayId)));
    }

    #[test]
    #[should_panic(expected = "count from 1")]
    fn number_zero_is_never_rendered() {
        let _ = DisplayId::new(code("GOT"), Kind::Musician, 0);
    }

    fn any_kind() -> impl Strategy<Value = Kind> {
        prop::sample::select(Kind::ALL.as_slice())
    }

    proptest! {
        #[test]
        fn rendered_id_parses_to_itself(text in "[A-Z0-9]{2,6}", kind in any_kind(), no in 1_i64..) {
            let id = DisplayId::new(code(&text), kind, no);
            prop_assert_eq!(id.to_string().parse(), Ok(id.clone()));
            prop_assert_eq!(DisplayId::parse_for(&id.to_string(), &code(&text), kind), Ok(no));
        }

        #[test]
        fn whatever_parses_is_spelled_as_it_renders(text in "[A-Zg0-9]{1,7}-(MUS|INST|mus|XX)-[-+0-9]{0,6}") {
            if let Ok(id) = text.parse::<DisplayId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }

        #[test]
        fn parsing_never_panics(text in any::<String>()) {
            let _ = text.parse::<DisplayId>();
        }
    }
}
