//! Which column is what.

use crate::import::FileError;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Column {
    /// First name.
    FirstName,
    /// Last name.
    LastName,
    /// Both, split at the last space, or at a comma with the last name first.
    FullName,
    /// Address.
    Email,
    /// Telephone number; of several such columns the first that is filled in counts.
    Phone,
    /// One or more instruments.
    Instrument,
    /// One or more positions.
    Position,
    /// Language.
    Language,
    /// Notes.
    Notes,
    /// Whether they live where the orchestra plays.
    LocalResidence,
}

/// Names that are understood, as they are compared: letters and digits in lower case without diacritics.
const ALIASES: &[(Column, &[&str])] = &[
    (Column::FirstName, &["fornamn", "firstname", "givenname", "tilltalsnamn"]),
    (Column::LastName, &["efternamn", "lastname", "surname", "familyname"]),
    (Column::FullName, &["namn", "name", "fullname", "fullstandigtnamn", "musiker", "musician"]),
    (
        Column::Email,
        &[
            "epost",
            "epostadress",
            "mail",
            "mailadress",
            "email",
            "emailadress",
            "emailaddress",
            "mejl",
            "mejladress",
        ],
    ),
    (
        Column::Phone,
        &[
            "telefon",
            "telefonnummer",
            "telefonnr",
            "tel",
            "tfn",
            "mobil",
            "mobilnummer",
            "mobilnr",
            "mobiltelefon",
            "phone",
            "phonenumber",
            "telephone",
            "mobile",
            "mobilephone",
            "cell",
            "cellphone",
        ],
    ),
    (Column::Instrument, &["instrument", "instruments"]),
    (
        Column::Position,
        &[
            "position",
            "positioner",
            "positions",
            "stamma",
            "stammor",
            "part",
            "parts",
            "plats",
            "befattning",
            "chair",
        ],
    ),
    (Column::Language, &["sprak", "language", "lang", "preferredlanguage"]),
    (
        Column::Notes,
        &[
            "anteckning",
            "anteckningar",
            "notes",
            "note",
            "kommentar",
            "kommentarer",
            "comment",
            "comments",
            "ovrigt",
        ],
    ),
    (
        Column::LocalResidence,
        &["lokal", "lokalt", "borlokalt", "bostadsort", "local", "localresidence", "liveslocally"],
    ),
];

/// A file's header, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    names: Vec<String>,
    columns: Vec<Option<Column>>,
    ignored: Vec<String>,
}

impl Header {
    /// Reads a header's cells.
    ///
    /// # Errors
    /// [`FileError::MissingColumns`] with every column that is missing, [`FileError::RepeatedColumn`].
    pub fn parse<'c>(cells: impl IntoIterator<Item = &'c str>) -> Result<Self, FileError> {
        let names: Vec<String> = cells.into_iter().map(|cell| cell.trim().to_owned()).collect();
        let columns = names.iter().map(|name| meaning(name)).collect();
        let mut header = Self { names, columns, ignored: Vec::new() };
        header.settle_names()?;
        header.require()?;
        header.ignored = header
            .names
            .iter()
            .zip(&header.columns)
            .filter(|(name, column)| column.is_none() && !name.is_empty())
            .map(|(name, _)| name.clone())
            .collect();
        Ok(header)
    }

    /// Columns that nothing is taken from, as the file names them.
    #[must_use]
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// How many cells a row has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is no column, which [`Header::parse`] refuses.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// What the file calls a column; the plain English name when it has none.
    #[must_use]
    pub fn name_of(&self, column: Column) -> &str {
        match self.places_of(column).next() {
            Some(place) => &self.names[place],
            None => plain(column),
        }
    }

    /// What the file calls the column at a place.
    #[must_use]
    pub fn name_at(&self, place: usize) -> &str {
        self.names.get(place).map_or("", String::as_str)
    }

    /// Where a column is: several places for telephone numbers, at most one otherwise.
    pub(crate) fn places_of(&self, column: Column) -> impl Iterator<Item = usize> {
        self.columns.iter().enumerate().filter(move |(_, is)| **is == Some(column)).map(|(place, _)| place)
    }

    pub(crate) fn has(&self, column: Column) -> bool {
        self.columns.contains(&Some(column))
    }

    /// `namn` beside `efternamn` alone is the first name; beside both it says nothing new.
    fn settle_names(&mut self) -> Result<(), FileError> {
        if self.has(Column::FullName) && self.has(Column::LastName) {
            let means = if self.has(Column::FirstName) { None } else { Some(Column::FirstName) };
            for column in &mut self.columns {
                if *column == Some(Column::FullName) {
                    *column = means;
                }
            }
        }
        for (column, _) in ALIASES.iter().filter(|(column, _)| *column != Column::Phone) {
            let mut places = self.places_of(*column);
            if let (Some(first), Some(second)) = (places.next(), places.next()) {
                return Err(FileError::RepeatedColumn {
                    first: self.names[first].clone(),
                    second: self.names[second].clone(),
                });
            }
        }
        Ok(())
    }

    fn require(&self) -> Result<(), FileError> {
        let mut missing = Vec::new();
        if !self.has(Column::FullName) {
            if !self.has(Column::FirstName) {
                missing.push("a first name (förnamn, first name; or namn, name for both names)".to_owned());
            }
            if !self.has(Column::LastName) {
                missing.push("a last name (efternamn, last name)".to_owned());
            }
        }
        if !self.has(Column::Email) {
            missing.push("an address (e-post, epost, mail, e-mail)".to_owned());
        }
        if missing.is_empty() { Ok(()) } else { Err(FileError::MissingColumns { missing }) }
    }
}

const fn plain(column: Column) -> &'static str {
    match column {
        Column::FirstName => "first name",
        Column::LastName => "last name",
        Column::FullName => "name",
        Column::Email => "e-mail",
        Column::Phone => "phone",
        Column::Instrument => "instrument",
        Column::Position => "position",
        Column::Language => "language",
        Column::Notes => "notes",
        Column::LocalResidence => "local residence",
    }
}

fn meaning(name: &str) -> Option<Column> {
    let key = key(name);
    ALIASES.iter().find(|(_, names)| names.contains(&key.as_str())).map(|(column, _)| *column)
}

/// Letters and digits in lower case, without diacritics, whether composed or not.
fn key(name: &str) -> String {
    name.chars()
        .flat_map(char::to_lowercase)
        .filter_map(|c| match c {
            'å' | 'ä' | 'à' | 'á' => Some('a'),
            'ö' | 'ø' | 'ó' => Some('o'),
            'é' | 'è' => Some('e'),
            'ü' => Some('u'),
            // Combining marks are no letters, so a decomposed `a` with its ring is an `a` too.
            c if c.is_ascii_alphanumeric() => Some(c),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Header, FileError> {
        Header::parse(line.split(';'))
    }

    #[test]
    fn swedish_and_english_names_are_understood_however_they_are_written() {
        for line in [
            "Förnamn;Efternamn;E-post",
            "FORNAMN; efternamn ;epost",
            "fo\u{308}rnamn;EFTERNAMN;e post",
            "First name;last_name;E-mail address",
            "firstName;lastName;email",
        ] {
            let header = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(
                header.has(Column::FirstName) && header.has(Column::LastName) && header.has(Column::Email)
            );
            assert!(header.ignored().is_empty());
        }
    }

    #[test]
    fn optional_columns_are_found_and_others_reported() {
        let header = parse("namn;mejl;Telefon;Mobil;Instrument;Stämma;Språk;Anteckningar;Bor lokalt;Kost;")
            .expect("a header");
        assert_eq!(header.places_of(Column::Phone).collect::<Vec<_>>(), [2, 3]);
        assert!(header.has(Column::Position) && header.has(Column::LocalResidence));
        assert_eq!(header.ignored(), ["Kost"]);
        assert_eq!(header.name_of(Column::Position), "Stämma");
    }

    #[test]
    fn what_is_missing_is_told_at_once_with_the_names_that_are_understood() {
        let error = parse("adress;ort").expect_err("no such columns").to_string();
        for name in ["förnamn", "efternamn", "e-post"] {
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_name_beside_a_last_name_is_the_first_name() {
        let header = parse("namn;efternamn;epost").expect("a header");
        assert_eq!(header.places_of(Column::FirstName).collect::<Vec<_>>(), [0]);
        let header = parse("namn;förnamn;efternamn;epost").expect("a header");
        assert_eq!(header.ignored(), ["namn"]);
    }

    #[test]
    fn two_columns_of_one_meaning_are_refused_by_name() {
        assert!(matches!(
            parse("namn;epost;Mail"),
            Err(FileError::RepeatedColumn { first, second }) if first == "epost" && second == "Mail"
        ));
    }

    #[test]
    fn every_alias_is_written_as_it_is_compared() {
        for (_, names) in ALIASES {
            for name in *names {
                assert_eq!(&key(name), name);
            }
        }
    }
}
