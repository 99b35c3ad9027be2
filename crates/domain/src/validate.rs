//! Rules that drafts are checked by, and their names.
//!
//! A draft is cleaned first (trimmed; an empty optional text is none), then checked by garde; every broken rule
//! is reported at once.

#![expect(clippy::trivially_copy_pass_by_ref, reason = "garde hands custom rules their context by reference")]

use std::collections::HashSet;

use chrono::{Datelike, NaiveDate};

use crate::error::{FieldError, ValidationErrors};
use crate::ids::PositionNo;

/// Longest name, in characters.
pub const MAX_NAME: usize = 100;
/// Longest e-mail address, in characters.
pub const MAX_EMAIL: usize = 254;
/// Longest telephone number, in characters.
pub const MAX_PHONE: usize = 40;
/// Longest free text (notes, schedules), in characters.
pub const MAX_TEXT: usize = 4000;
/// Most positions that one musician is qualified for.
pub const MAX_QUALIFICATIONS: usize = 100;

/// A draft that can be cleaned and then checked.
pub(crate) trait Draft: garde::Validate<Context = ()> + Sized {
    /// Trims texts and turns empty optional ones into none.
    fn clean(&mut self);

    /// The draft as it may be used.
    fn checked(mut self) -> Result<Self, ValidationErrors> {
        self.clean();
        match self.validate() {
            Ok(()) => Ok(self),
            Err(report) => Err(ValidationErrors(report.iter().map(field_error).collect())),
        }
    }
}

fn field_error((path, error): &(garde::error::Path, garde::error::Error)) -> FieldError {
    // A rule of ours says `name|message`; garde has no place of its own for a name.
    let (rule, message) = match error.message().split_once('|') {
        Some((name, message)) => (Rule::named(name), message),
        None => (Rule::Format, error.message()),
    };
    FieldError { field: camel_case(&path.to_string()), rule: rule.as_str(), message: message.to_owned() }
}

fn camel_case(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut upper = false;
    for c in path.chars() {
        if c == '_' {
            upper = true;
        } else if upper {
            out.extend(c.to_uppercase());
            upper = false;
        } else {
            out.push(c);
        }
    }
    out
}

macro_rules! rules {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// The name of a rule: stable, for programs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Rule {
            $($(#[$doc])* $variant,)*
        }

        impl Rule {
            pub(crate) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            fn named(name: &str) -> Self {
                match name {
                    $($name => Self::$variant,)*
                    _ => Self::Format,
                }
            }
        }
    };
}

rules! {
    /// Too short, too long, or too many.
    Length => "length",
    /// A number out of its bounds.
    Range => "range",
    /// Characters that cannot be shown.
    Characters => "characters",
    /// Not an e-mail address.
    Email => "email",
    /// The same thing twice.
    Repeated => "repeated",
    /// Names something that does not exist.
    UnknownReference => "unknown_reference",
    /// Must be given.
    Required => "required",
    /// Of the wrong shape.
    Format => "format",
    /// One of the platform's own names.
    Reserved => "reserved",
    /// Not allowed by the subscription.
    Subscription => "subscription",
}

impl Rule {
    /// Tells garde that this rule is broken.
    pub(crate) fn broken(self, message: impl std::fmt::Display) -> garde::Error {
        garde::Error::new(format!("{}|{message}", self.as_str()))
    }
}

/// What may hold a text: the text itself, an optional one, a change of an optional one.
pub(crate) trait Text {
    fn text(&self) -> Option<&str>;
    fn trim_text(&mut self);
}

impl Text for String {
    fn text(&self) -> Option<&str> {
        Some(self)
    }

    fn trim_text(&mut self) {
        let trimmed = self.trim();
        if trimmed.len() != self.len() {
            *self = trimmed.to_owned();
        }
    }
}

impl<T: Text> Text for Option<T> {
    fn text(&self) -> Option<&str> {
        self.as_ref().and_then(Text::text)
    }

    fn trim_text(&mut self) {
        if let Some(inner) = self {
            inner.trim_text();
        }
    }
}

/// Trims an optional text; an empty one is none.
pub(crate) fn empty_is_none(text: &mut Option<String>) {
    text.trim_text();
    if text.as_deref() == Some("") {
        *text = None;
    }
}

/// Trims a change of an optional text; an empty one empties the field.
#[expect(clippy::option_option, reason = "a change tells leaving a field from emptying it")]
pub(crate) fn empty_empties(change: &mut Option<Option<String>>) {
    if let Some(text) = change {
        empty_is_none(text);
    }
}

fn bounded(text: &str, min: usize, max: usize) -> garde::Result {
    let length = text.chars().count();
    if (min..=max).contains(&length) {
        Ok(())
    } else if min == 0 {
        Err(Rule::Length.broken(format_args!("at most {max} characters")))
    } else {
        Err(Rule::Length.broken(format_args!("{min} to {max} characters")))
    }
}

fn one_line(text: &str) -> garde::Result {
    if text.chars().any(char::is_control) {
        return Err(Rule::Characters.broken("no control characters"));
    }
    Ok(())
}

/// 1 to [`MAX_NAME`] characters on one line.
pub(crate) fn name<T: Text>(value: &T, _: &()) -> garde::Result {
    value.text().map_or(Ok(()), |text| bounded(text, 1, MAX_NAME).and_then(|()| one_line(text)))
}

/// 1 to 200 characters on one line: what an orchestra calls itself.
pub(crate) fn long_name<T: Text>(value: &T, _: &()) -> garde::Result {
    value.text().map_or(Ok(()), |text| bounded(text, 1, 200).and_then(|()| one_line(text)))
}

/// At most [`MAX_PHONE`] characters on one line, as written.
pub(crate) fn phone<T: Text>(value: &T, _: &()) -> garde::Result {
    value.text().map_or(Ok(()), |text| bounded(text, 0, MAX_PHONE).and_then(|()| one_line(text)))
}

/// At most [`MAX_TEXT`] characters; lines and tabs are allowed.
pub(crate) fn free_text<T: Text>(value: &T, _: &()) -> garde::Result {
    let Some(text) = value.text() else { return Ok(()) };
    bounded(text, 0, MAX_TEXT)?;
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err(Rule::Characters.broken("no control characters except line ends and tabs"));
    }
    Ok(())
}

/// An e-mail address at a domain with a dot in its name.
pub(crate) fn email<T: Text>(value: &T, _: &()) -> garde::Result {
    let Some(text) = value.text() else { return Ok(()) };
    bounded(text, 1, MAX_EMAIL)?;
    let parsed = garde::rules::email::parse_email(text).is_ok();
    let dotted =
        text.rsplit_once('@').is_some_and(|(_, domain)| domain.contains('.') && !domain.starts_with('['));
    if parsed && dotted { Ok(()) } else { Err(Rule::Email.broken("an e-mail address like name@example.com")) }
}

fn ranged(value: Option<i32>, min: i32, max: i32) -> garde::Result {
    match value {
        Some(value) if !(min..=max).contains(&value) => {
            Err(Rule::Range.broken(format_args!("{min} to {max}")))
        }
        _ => Ok(()),
    }
}

/// A number that may be left out, or left as it is.
pub(crate) trait Number {
    fn number(&self) -> Option<i32>;
}

impl Number for i32 {
    fn number(&self) -> Option<i32> {
        Some(*self)
    }
}

impl<T: Number> Number for Option<T> {
    fn number(&self) -> Option<i32> {
        self.as_ref().and_then(Number::number)
    }
}

/// A week of a year.
pub(crate) fn week<T: Number>(value: &T, _: &()) -> garde::Result {
    ranged(value.number(), 1, 53)
}

/// A day that an orchestra may plan for: the years 1900 to 2999, which every store and client can hold.
pub(crate) fn day<T: Day>(value: &T, (): &()) -> garde::Result {
    match value.day() {
        Some(day) if !(1900..3000).contains(&day.year()) => {
            Err(Rule::Range.broken("a day in the years 1900 to 2999"))
        }
        _ => Ok(()),
    }
}

/// A day that may be left as it is.
pub(crate) trait Day {
    fn day(&self) -> Option<NaiveDate>;
}

impl Day for NaiveDate {
    fn day(&self) -> Option<NaiveDate> {
        Some(*self)
    }
}

impl Day for Option<NaiveDate> {
    fn day(&self) -> Option<NaiveDate> {
        *self
    }
}

/// A rank within a section.
pub(crate) fn hierarchy_level<T: Number>(value: &T, _: &()) -> garde::Result {
    ranged(value.number(), 1, 99)
}

/// A place in the score's order.
pub(crate) fn display_order<T: Number>(value: &T, _: &()) -> garde::Result {
    ranged(value.number(), 0, 9999)
}

/// At most [`MAX_QUALIFICATIONS`] positions, none twice.
pub(crate) fn qualifications(value: &[PositionNo], (): &()) -> garde::Result {
    if value.len() > MAX_QUALIFICATIONS {
        return Err(Rule::Length.broken(format_args!("at most {MAX_QUALIFICATIONS} positions")));
    }
    let mut seen = HashSet::with_capacity(value.len());
    if value.iter().all(|no| seen.insert(*no)) {
        Ok(())
    } else {
        Err(Rule::Repeated.broken("each position once"))
    }
}

/// The same rule for a change.
#[expect(clippy::ref_option, reason = "garde hands custom rules a reference to the field")]
pub(crate) fn changed_qualifications(value: &Option<Vec<PositionNo>>, unused: &()) -> garde::Result {
    value.as_deref().map_or(Ok(()), |list| qualifications(list, unused))
}

/// An address as it is compared: two that differ in case only are one. The rule for addresses lets ASCII
/// letters in only, so this agrees with the store's `lower()` whatever its collation.
#[must_use]
pub fn email_key(email: &str) -> String {
    email.trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs a claim over a table and names the row that broke it.
    fn cases<I: std::fmt::Debug, O: PartialEq + std::fmt::Debug>(
        table: impl IntoIterator<Item = (I, O)>,
        claim: impl Fn(&I) -> O,
    ) {
        for (input, expected) in table {
            assert_eq!(claim(&input), expected, "for {input:?}");
        }
    }

    #[test]
    fn addresses_need_a_dotted_domain() {
        cases(
            [
                ("anna@gso.se", true),
                ("anna.andersson+vik@musik.gso.se", true),
                ("anna@gso", false),
                ("anna", false),
                ("@gso.se", false),
                ("anna@@gso.se", false),
                ("anna @gso.se", false),
                ("anna@[127.0.0.1]", false),
                ("", false),
            ],
            |address| email(&(*address).to_owned(), &()).is_ok(),
        );
    }

    #[test]
    fn names_are_bounded_in_characters_not_bytes() {
        assert!(name(&"å".repeat(100), &()).is_ok());
        assert!(name(&"å".repeat(101), &()).is_err());
        assert!(name(&String::new(), &()).is_err());
        assert!(name(&"Åsa\u{0}".to_owned(), &()).is_err());
        assert!(name(&"Åsa\nBerg".to_owned(), &()).is_err());
    }

    #[test]
    fn free_text_keeps_lines_and_refuses_other_controls() {
        assert!(free_text(&Some("rad 1\r\nrad 2\t!".to_owned()), &()).is_ok());
        assert!(free_text(&Some("\u{7}".to_owned()), &()).is_err());
        assert!(free_text(&Some(Some("x".repeat(4001))), &()).is_err());
        assert!(free_text(&None::<String>, &()).is_ok());
    }

    #[test]
    fn paths_become_camel_case() {
        cases(
            [
                ("first_name", "firstName".to_owned()),
                ("admin.first_name", "admin.firstName".to_owned()),
                ("qualifications[2]", "qualifications[2]".to_owned()),
            ],
            |path| camel_case(path),
        );
    }

    proptest! {
        #[test]
        fn the_key_of_an_address_is_its_own_key(address in "\\PC{0,40}") {
            let key = email_key(&address);
            prop_assert_eq!(email_key(&key), key);
        }
    }
}
