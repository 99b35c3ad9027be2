//! What a new orchestra starts with: instruments, positions, lists and mail templates by tier.

use crate::language::Language;

/// What a mail is sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MailType {
    /// Asking.
    Request,
    /// Asking again.
    Reminder,
    /// Confirming a yes.
    Confirmation,
    /// Telling that the place is taken.
    PositionFilled,
}

impl MailType {
    /// Every type.
    pub const ALL: [Self; 4] = [Self::Request, Self::Reminder, Self::Confirmation, Self::PositionFilled];

    /// The word as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Reminder => "reminder",
            Self::Confirmation => "confirmation",
            Self::PositionFilled => "position_filled",
        }
    }
}

/// A mail's text with `{{variables}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailTemplate {
    /// What for.
    pub mail_type: MailType,
    /// In which language.
    pub language: Language,
    /// Subject line.
    pub subject: String,
    /// Body.
    pub body: String,
}
