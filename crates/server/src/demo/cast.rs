//! The demo's orchestras and their people, all invented.

use chrono::NaiveDate;
use stagesub_domain::project::ProjectStatus;
use stagesub_domain::subscription::Tier;

/// The platform administrator's login address.
pub const SUPERADMIN_EMAIL: &str = "superadmin@stagesub.example";

/// An orchestra of the demo.
#[derive(Debug)]
pub struct Orchestra {
    /// Its name.
    pub name: &'static str,
    /// Prefix of its ids.
    pub code: &'static str,
    /// Its host label.
    pub subdomain: &'static str,
    /// What it subscribes to.
    pub tier: Tier,
    /// Whether it has a database of its own.
    pub dedicated: bool,
    /// Its administrator: first and last name.
    pub admin: (&'static str, &'static str),
    /// Its musicians.
    pub musicians: &'static [Player],
    /// Its projects.
    pub projects: &'static [Production],
}

impl Orchestra {
    /// Login address of its administrator.
    #[must_use]
    pub fn admin_email(&self) -> String {
        format!("admin@{}.example", self.subdomain)
    }
}

/// A musician: first name, last name, instrument, position.
#[derive(Debug)]
pub struct Player(pub &'static str, pub &'static str, pub &'static str, pub &'static str);

impl Player {
    /// Their address.
    #[must_use]
    pub fn email(&self, subdomain: &str) -> String {
        format!("{}.{}@musiker.{subdomain}.example", ascii(self.0), ascii(self.1))
    }
}

/// A project.
#[derive(Debug)]
pub struct Production {
    /// Its name.
    pub name: &'static str,
    /// Its first day.
    pub start: NaiveDate,
    /// ISO week of that day.
    pub week: i32,
    /// Whether it is under way.
    pub status: ProjectStatus,
    /// What is played, where and when.
    pub concert: &'static str,
}

/// Lower case, with å, ä, ö and é as addresses have them.
fn ascii(name: &str) -> String {
    name.to_lowercase()
        .chars()
        .filter_map(|c| match c {
            'å' | 'ä' => Some('a'),
            'ö' => Some('o'),
            'é' => Some('e'),
            'a'..='z' | '-' => Some(c),
            _ => None,
        })
        .collect()
}

const fn day(year: i32, month: u32, day: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(year, month, day).expect("a date of the calendar")
}

/// The orchestras, in the order they are made.
pub const ORCHESTRAS: [Orchestra; 3] = [
    Orchestra {
        name: "Götaälvens Symfoniorkester",
        code: "GOT",
        subdomain: "got",
        tier: Tier::Institution,
        dedicated: false,
        admin: ("Astrid", "Lindhe"),
        musicians: &GOT,
        projects: &[
            Production {
                name: "Älvsymfonin",
                start: day(2027, 2, 8),
                week: 6,
                status: ProjectStatus::Active,
                concert: "Stora salen, 11 februari 19.00 och 12 februari 18.00",
            },
            Production {
                name: "Vårkonsert i hamnen",
                start: day(2027, 4, 19),
                week: 16,
                status: ProjectStatus::Planned,
                concert: "Magasinet, 24 april 15.00",
            },
        ],
    },
    Orchestra {
        name: "Sjöstadens Kammarorkester",
        code: "SJO",
        subdomain: "sjo",
        tier: Tier::Small,
        dedicated: false,
        admin: ("Bertil", "Sundgren"),
        musicians: &SJO,
        projects: &[
            Production {
                name: "Stråkserenader",
                start: day(2027, 1, 25),
                week: 4,
                status: ProjectStatus::Active,
                concert: "Rådhuset, 30 januari 16.00",
            },
            Production {
                name: "Midsommar på bryggan",
                start: day(2027, 6, 21),
                week: 25,
                status: ProjectStatus::Planned,
                concert: "Bryggan, 24 juni 20.00",
            },
        ],
    },
    Orchestra {
        name: "Norrskenets Filharmoni",
        code: "NOR",
        subdomain: "norr",
        tier: Tier::Institution,
        dedicated: true,
        admin: ("Cecilia", "Storfors"),
        musicians: &NOR,
        projects: &[
            Production {
                name: "Midnattssol",
                start: day(2027, 5, 31),
                week: 22,
                status: ProjectStatus::Planned,
                concert: "Fjällhallen, 5 juni 21.00",
            },
            Production {
                name: "Polarnatt",
                start: day(2027, 1, 11),
                week: 2,
                status: ProjectStatus::Active,
                concert: "Fjällhallen, 14 januari 19.00",
            },
        ],
    },
];

const GOT: [Player; 20] = [
    Player("Elin", "Åkerblom", "Violin", "Förste konsertmästare"),
    Player("Otto", "Granath", "Violin", "Andre konsertmästare"),
    Player("Saga", "Hellqvist", "Violin", "Stämledare violin 2"),
    Player("Viktor", "Månsby", "Violin", "Tutti violin 1"),
    Player("Lovisa", "Öhrling", "Violin", "Tutti violin 2"),
    Player("Nils", "Brännmark", "Viola", "Stämledare"),
    Player("Tuva", "Rosenlund", "Viola", "Tutti"),
    Player("Hugo", "Fjellander", "Cello", "Solocellist"),
    Player("Maja", "Westerdal", "Cello", "Tutti"),
    Player("Axel", "Stenhammar", "Kontrabas", "Stämledare"),
    Player("Ines", "Kvarnström", "Flöjt", "Soloflöjt"),
    Player("Folke", "Ljungmark", "Flöjt", "Piccolaflöjt"),
    Player("Ronja", "Palmsten", "Oboe", "Solooboe"),
    Player("Edvin", "Sjödahl", "Klarinett", "Soloklarinett"),
    Player("Märta", "Dalevi", "Fagott", "Solofagott"),
    Player("Sixten", "Hornwall", "Valthorn", "Solovalthorn"),
    Player("Signe", "Tägtström", "Trumpet", "Solotrumpet"),
    Player("Albin", "Norrby", "Trombon", "Bastrombon"),
    Player("Ella", "Åsgård", "Slagverk", "Puka"),
    Player("Irma", "Vallgren", "Harpa", "Soloharpa"),
];

const SJO: [Player; 20] = [
    Player("Agnes", "Mårdh", "Violin", "Förste konsertmästare"),
    Player("Ludvig", "Strandell", "Violin", "Andre konsertmästare"),
    Player("Freja", "Holmgård", "Violin", "Stämledare violin 2"),
    Player("Isak", "Björkdal", "Violin", "Tutti violin 1"),
    Player("Wilma", "Skoglar", "Violin", "Tutti violin 1"),
    Player("Malte", "Ekenäs", "Violin", "Tutti violin 2"),
    Player("Stina", "Lönnblad", "Violin", "Tutti violin 2"),
    Player("Gustav", "Renmark", "Viola", "Stämledare"),
    Player("Hedda", "Viklander", "Viola", "Alternerande stämledare"),
    Player("Love", "Ahlskog", "Viola", "Tutti"),
    Player("Tage", "Norling", "Cello", "Solocellist"),
    Player("Sigrid", "Berghamn", "Cello", "Alternerande stämledare"),
    Player("Olle", "Sandmark", "Cello", "Tutti"),
    Player("Ebba", "Sjölind", "Kontrabas", "Stämledare"),
    Player("Frans", "Algotsson", "Kontrabas", "Tutti"),
    Player("Livia", "Häggdahl", "Flöjt", "Soloflöjt"),
    Player("Ture", "Östling", "Flöjt", "Stämledare flöjt 2"),
    Player("Nora", "Brolund", "Klarinett", "Soloklarinett"),
    Player("Vera", "Hedvall", "Klarinett", "Basklarinett"),
    Player("Algot", "Trumstad", "Trumpet", "Solotrumpet"),
];

const NOR: [Player; 20] = [
    Player("Aino", "Kallavaara", "Violin", "Förste konsertmästare"),
    Player("Elias", "Snöbohm", "Violin", "Andre konsertmästare"),
    Player("Kerstin", "Fjällsten", "Violin", "Stämledare violin 2"),
    Player("Matti", "Isakainen", "Violin", "Tutti violin 1"),
    Player("Rut", "Lappmark", "Violin", "Tutti violin 2"),
    Player("Henrik", "Älvsborn", "Viola", "Stämledare"),
    Player("Siri", "Renström", "Viola", "Tutti"),
    Player("Jon", "Tundberg", "Cello", "Solocellist"),
    Player("Alva", "Midvinter", "Cello", "Tutti"),
    Player("Per", "Gruvstad", "Kontrabas", "Stämledare"),
    Player("Linnéa", "Skarhed", "Flöjt", "Soloflöjt"),
    Player("Anton", "Vintersjö", "Oboe", "Engelskt horn"),
    Player("Helmi", "Torneå", "Klarinett", "Soloklarinett"),
    Player("Birger", "Malmfält", "Klarinett", "Basklarinett"),
    Player("Eira", "Polstjerna", "Fagott", "Kontrafagott"),
    Player("Karl", "Dundretun", "Valthorn", "Solovalthorn"),
    Player("Ylva", "Norrbäck", "Trumpet", "Kornet"),
    Player("Arvid", "Stormyr", "Trombon", "Solotrombon"),
    Player("Bodil", "Järnsjö", "Tuba", "Solotuba"),
    Player("Sven", "Åskdal", "Slagverk", "Soloslagverk"),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use chrono::Datelike;
    use stagesub_tenancy::{Subdomain, TenantCode};

    use super::*;

    #[test]
    fn codes_and_subdomains_are_valid_and_the_first_is_known_to_others() {
        for orchestra in &ORCHESTRAS {
            assert!(orchestra.code.parse::<TenantCode>().is_ok(), "{}", orchestra.code);
            assert!(orchestra.subdomain.parse::<Subdomain>().is_ok(), "{}", orchestra.subdomain);
        }
        assert_eq!((ORCHESTRAS[0].code, ORCHESTRAS[0].subdomain), ("GOT", "got"));
        assert_eq!(ORCHESTRAS.each_ref().map(|orchestra| orchestra.dedicated), [false, false, true]);
    }

    #[test]
    fn only_an_institution_has_a_database_of_its_own() {
        assert!(ORCHESTRAS.iter().all(|it| !it.dedicated || it.tier == Tier::Institution));
    }

    #[test]
    fn addresses_are_plain_and_unique() {
        for orchestra in &ORCHESTRAS {
            let addresses: HashSet<String> =
                orchestra.musicians.iter().map(|player| player.email(orchestra.subdomain)).collect();
            assert_eq!(addresses.len(), 20);
            assert!(addresses.iter().all(|address| address.is_ascii()), "{addresses:?}");
        }
        assert_eq!(ORCHESTRAS[0].musicians[0].email("got"), "elin.akerblom@musiker.got.example");
    }

    #[test]
    fn projects_begin_in_the_week_they_say() {
        for production in ORCHESTRAS.iter().flat_map(|orchestra| orchestra.projects) {
            assert_eq!(
                production.start.iso_week().week().cast_signed(),
                production.week,
                "{}",
                production.name
            );
        }
    }
}
