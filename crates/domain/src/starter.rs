//! What a new orchestra starts with: instruments, positions, lists and mail templates by tier.

use crate::language::Language;
use crate::subscription::Tier;

mod mails;

pub use mails::VARIABLES;

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

/// An instrument with its positions, level 1 first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// The instrument.
    pub instrument: &'static str,
    /// Its positions.
    pub positions: &'static [&'static str],
    /// Whether the smallest tier, which allows 10 instruments, starts with it.
    core: bool,
}

const fn section(instrument: &'static str, core: bool, positions: &'static [&'static str]) -> Section {
    Section { instrument, positions, core }
}

/// In the order of the score.
const SECTIONS: [Section; 14] = [
    section(
        "Violin",
        true,
        &[
            "Förste konsertmästare",
            "Andre konsertmästare",
            "Stämledare violin 2",
            "Tutti violin 1",
            "Tutti violin 2",
        ],
    ),
    section("Viola", true, &["Stämledare", "Alternerande stämledare", "Tutti"]),
    section("Cello", true, &["Solocellist", "Alternerande stämledare", "Tutti"]),
    section("Kontrabas", true, &["Stämledare", "Tutti"]),
    section("Flöjt", true, &["Soloflöjt", "Stämledare flöjt 2", "Piccolaflöjt"]),
    section("Oboe", false, &["Solooboe", "Stämledare oboe 2", "Engelskt horn"]),
    section("Klarinett", true, &["Soloklarinett", "Stämledare klarinett 2", "Essklarinett", "Basklarinett"]),
    section("Fagott", false, &["Solofagott", "Stämledare fagott 2", "Kontrafagott"]),
    section("Valthorn", false, &["Solovalthorn", "Stämledare valthorn 2", "Valthorn 3", "Valthorn 4"]),
    section("Trumpet", true, &["Solotrumpet", "Stämledare trumpet 2", "Trumpet 3", "Kornet"]),
    section("Trombon", false, &["Solotrombon", "Trombon 2", "Bastrombon"]),
    section("Tuba", false, &["Solotuba"]),
    section("Slagverk", false, &["Soloslagverk", "Slagverk 2", "Puka"]),
    section("Harpa", false, &["Soloharpa", "Harpa 2"]),
];

/// The sections that an orchestra of this tier starts with, in the order of the score.
#[must_use]
pub fn sections(tier: Tier) -> Vec<Section> {
    SECTIONS.into_iter().filter(|section| section.core || tier != Tier::Small).collect()
}

/// The mails that an orchestra of this tier starts with: Swedish ones, and English ones but for the smallest.
#[must_use]
pub fn mail_templates(tier: Tier) -> Vec<MailTemplate> {
    let languages: &[Language] =
        if tier == Tier::Small { &[Language::Sv] } else { &[Language::Sv, Language::En] };
    languages
        .iter()
        .flat_map(|language| MailType::ALL.map(|mail_type| mails::template(mail_type, *language)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn counts(tier: Tier) -> (usize, usize, usize) {
        let sections = sections(tier);
        let positions = sections.iter().map(|section| section.positions.len()).sum();
        (sections.len(), positions, mail_templates(tier).len())
    }

    #[test]
    fn the_small_tier_starts_with_seven_instruments_and_the_others_with_the_whole_score() {
        assert_eq!(counts(Tier::Small), (7, 24, 4));
        assert_eq!(counts(Tier::Medium), (14, 43, 8));
        assert_eq!(counts(Tier::Institution), (14, 43, 8));
        let small: Vec<_> = sections(Tier::Small).iter().map(|section| section.instrument).collect();
        assert_eq!(small, ["Violin", "Viola", "Cello", "Kontrabas", "Flöjt", "Klarinett", "Trumpet"]);
    }

    #[test]
    fn no_name_is_given_twice() {
        let mut names = HashSet::new();
        for section in SECTIONS {
            assert!(names.insert(section.instrument));
            let positions: HashSet<_> = section.positions.iter().collect();
            assert_eq!(positions.len(), section.positions.len());
        }
    }

    #[test]
    fn mails_use_known_variables_only_and_ask_with_a_link() {
        for template in mail_templates(Tier::Medium) {
            let text = format!("{}\n{}", template.subject, template.body);
            for part in text.split("{{").skip(1) {
                let (variable, _) = part.split_once("}}").expect("a closed variable");
                assert!(VARIABLES.contains(&variable), "{variable}");
            }
            let asks = matches!(template.mail_type, MailType::Request | MailType::Reminder);
            assert_eq!(template.body.contains("{{responseLink}}"), asks, "{:?}", template.mail_type);
            assert!(!template.subject.contains('\n'));
        }
    }
}
