//! One row of the file: its cells as a musician's fields.

use std::sync::Arc;

use crate::import::header::{Column, Header};
use crate::language::Language;
use crate::musician::NewMusician;
use crate::validate::Draft as _;

/// A row and where it begins.
#[derive(Debug)]
pub struct Row {
    /// The number of its first line in the file, from 1.
    pub line: u64,
    /// What it says, or what is wrong with it.
    pub content: Result<ParsedRow, RowFault>,
}

/// What a row says. An empty cell says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedRow {
    /// First name.
    pub first_name: String,
    /// Last name.
    pub last_name: String,
    /// Address.
    pub email: String,
    /// Telephone number.
    pub phone: Option<String>,
    /// Language.
    pub language: Option<Language>,
    /// Whether they live where the orchestra plays.
    pub local_residence: Option<bool>,
    /// Notes.
    pub notes: Option<String>,
    /// One or more instruments, as written.
    pub instrument: Option<String>,
    /// One or more positions, as written.
    pub position: Option<String>,
    /// What the file calls its columns.
    pub header: Arc<Header>,
}

/// Why a row gave no musician.
#[derive(Debug)]
#[non_exhaustive]
pub enum RowFault {
    /// Its cells break rules: all that do.
    Cells(Vec<CellError>),
    /// It cannot be read, and nothing after it was.
    EndOfReading {
        /// Why, for people.
        reason: String,
    },
    /// The file failed, and nothing after this was read.
    Io(std::io::Error),
}

/// One cell that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellError {
    /// What the file calls the column; `None` when the row as a whole is wrong.
    pub column: Option<String>,
    /// What the rule asks, for people.
    pub reason: String,
}

impl ParsedRow {
    /// Reads the cells of a row; `None` when all of them are blank.
    pub(crate) fn read(cells: &csv::StringRecord, header: &Arc<Header>) -> Option<Result<Self, RowFault>> {
        if cells.iter().all(|cell| cell.trim().is_empty()) {
            return None;
        }
        Some(Self::read_filled(cells, header).map_err(RowFault::Cells))
    }

    fn read_filled(cells: &csv::StringRecord, header: &Arc<Header>) -> Result<Self, Vec<CellError>> {
        right_length(cells, header)?;
        let cell = |column| {
            header
                .places_of(column)
                .filter_map(|place| cells.get(place))
                .map(str::trim)
                .find(|t| !t.is_empty())
        };
        let mut errors = Vec::new();
        let mut refuse = |column, reason: &str| {
            let column = Some(header.name_of(column).to_owned());
            errors.push(CellError { column, reason: reason.to_owned() });
        };
        let language = cell(Column::Language).and_then(|text| {
            let language = language(text);
            if language.is_none() {
                refuse(Column::Language, "a language is sv or en");
            }
            language
        });
        let local_residence = cell(Column::LocalResidence).and_then(|text| {
            let answer = yes_or_no(text);
            if answer.is_none() {
                refuse(Column::LocalResidence, "an answer is ja or nej");
            }
            answer
        });
        let (first_name, last_name) = if header.has(Column::FullName) {
            let parts = cell(Column::FullName).and_then(split_name);
            if parts.is_none() {
                refuse(Column::FullName, "a first and a last name");
            }
            parts.unwrap_or_else(|| ("-".to_owned(), "-".to_owned()))
        } else {
            let named = |column| cell(column).unwrap_or_default().to_owned();
            (named(Column::FirstName), named(Column::LastName))
        };
        let row = Self {
            first_name,
            last_name,
            email: cell(Column::Email).unwrap_or_default().to_owned(),
            phone: cell(Column::Phone).map(str::to_owned),
            language,
            local_residence,
            notes: cell(Column::Notes).map(str::to_owned),
            instrument: cell(Column::Instrument).map(str::to_owned),
            position: cell(Column::Position).map(str::to_owned),
            header: Arc::clone(header),
        };
        row.break_rules(&mut errors);
        if errors.is_empty() { Ok(row) } else { Err(errors) }
    }

    /// The rules are those of a musician who is entered by hand.
    fn break_rules(&self, errors: &mut Vec<CellError>) {
        let Err(broken) = self.draft().checked() else { return };
        for error in broken.0 {
            let column = match error.field.as_str() {
                "firstName" | "lastName" if self.header.has(Column::FullName) => Column::FullName,
                "firstName" => Column::FirstName,
                "lastName" => Column::LastName,
                "phone" => Column::Phone,
                "notes" => Column::Notes,
                _ => Column::Email,
            };
            let column = Some(self.header.name_of(column).to_owned());
            errors.push(CellError { column, reason: error.message });
        }
    }

    /// A new musician from this row, without qualifications.
    pub(crate) fn draft(&self) -> NewMusician {
        NewMusician {
            first_name: self.first_name.clone(),
            last_name: self.last_name.clone(),
            email: self.email.clone(),
            phone: self.phone.clone(),
            preferred_language: self.language,
            local_residence: self.local_residence.unwrap_or(false),
            notes: self.notes.clone(),
            is_active: true,
            qualifications: Vec::new(),
        }
    }
}

/// Missing cells are refused, since nobody can tell which are missing; blank ones too many are what
/// spreadsheets leave behind.
fn right_length(cells: &csv::StringRecord, header: &Header) -> Result<(), Vec<CellError>> {
    let expected = header.len();
    let excess_is_blank = cells.iter().skip(expected).all(|cell| cell.trim().is_empty());
    if cells.len() >= expected && excess_is_blank {
        return Ok(());
    }
    let column = (cells.len() < expected).then(|| header.name_at(cells.len()).to_owned());
    let reason = format!("the row has {} cells, the header {expected}", cells.len());
    Err(vec![CellError { column, reason }])
}

/// `Anna Maria Berg` and `Berg, Anna Maria`.
fn split_name(text: &str) -> Option<(String, String)> {
    let (first, last) = match text.split_once(',') {
        Some((last, first)) => (first, last),
        None => text.rsplit_once(char::is_whitespace)?,
    };
    let (first, last) = (first.trim(), last.trim());
    (!first.is_empty() && !last.is_empty()).then(|| (first.to_owned(), last.to_owned()))
}

fn language(text: &str) -> Option<Language> {
    match text.to_lowercase().as_str() {
        "sv" | "sv-se" | "se" | "swe" | "svenska" | "swedish" => Some(Language::Sv),
        "en" | "en-gb" | "en-us" | "eng" | "engelska" | "english" => Some(Language::En),
        _ => None,
    }
}

fn yes_or_no(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "ja" | "j" | "yes" | "y" | "x" | "1" | "sant" | "true" => Some(true),
        "nej" | "n" | "no" | "-" | "0" | "falskt" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &str, row: &str) -> Option<Result<ParsedRow, RowFault>> {
        let header = Arc::new(Header::parse(header.split(';')).expect("a header"));
        ParsedRow::read(&row.split(';').collect(), &header)
    }

    fn refused(header: &str, row: &str) -> Vec<(String, String)> {
        match read(header, row) {
            Some(Err(RowFault::Cells(errors))) => {
                errors.into_iter().map(|e| (e.column.unwrap_or_default(), e.reason)).collect()
            }
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn full_names_are_split() {
        for (name, first, last) in [
            ("Anna Berg", "Anna", "Berg"),
            ("Anna Maria  Berg", "Anna Maria", "Berg"),
            ("von Platen, Åsa", "Åsa", "von Platen"),
        ] {
            assert_eq!(split_name(name), Some((first.to_owned(), last.to_owned())));
        }
        assert_eq!(split_name("Cher"), None);
        assert_eq!(split_name("Berg, "), None);
    }

    #[test]
    fn cells_become_fields_and_empty_ones_say_nothing() {
        let row = read(
            "förnamn;efternamn;epost;telefon;mobil;språk;lokal;notes",
            " Åsa ;Berg;asa@gso.se;;070-1;Engelska;Ja;  ",
        )
        .expect("filled in")
        .expect("right");
        assert_eq!((row.first_name.as_str(), row.phone.as_deref()), ("Åsa", Some("070-1")));
        assert_eq!((row.language, row.local_residence), (Some(Language::En), Some(true)));
        assert_eq!(row.notes, None);
    }

    #[test]
    fn all_wrong_cells_are_named_by_the_files_own_columns() {
        let errors = refused("Namn;E-post;Språk;Lokal", "Cher;cher@x;norska;kanske");
        let columns: Vec<_> = errors.iter().map(|(column, _)| column.as_str()).collect();
        assert_eq!(columns, ["Språk", "Lokal", "Namn", "E-post"]);
    }

    #[test]
    fn rows_of_another_length_are_refused_unless_the_excess_is_blank() {
        assert_eq!(
            refused("namn;epost;telefon", "Anna Berg;anna@gso.se"),
            [("telefon".to_owned(), "the row has 2 cells, the header 3".to_owned())]
        );
        assert_eq!(refused("namn;epost", "Anna Berg;anna@gso.se;x")[0].0, "");
        assert!(read("namn;epost", "Anna Berg;anna@gso.se;;").expect("filled in").is_ok());
    }

    #[test]
    fn blank_rows_are_no_rows() {
        assert!(read("namn;epost", " ; ").is_none());
        assert!(read("namn;epost", "").is_none());
    }
}
