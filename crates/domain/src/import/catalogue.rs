//! Finding the positions that a row's words name.

use std::collections::{BTreeSet, HashMap};

use crate::error::StoreError;
use crate::ids::{InstrumentNo, PositionNo};
use crate::import::header::Column;
use crate::import::row::{CellError, ParsedRow};
use crate::page::Page;
use crate::ports::UnitOfWork;
use crate::ports::instruments::{InstrumentFilter, PositionFilter};

/// The orchestra's instruments and positions by name. Names are compared without regard to case and spacing.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    instruments: HashMap<String, Instrument>,
    /// Every position of a name, with its instrument.
    positions: HashMap<String, Vec<(InstrumentNo, PositionNo)>>,
}

#[derive(Debug)]
struct Instrument {
    no: InstrumentNo,
    name: String,
}

/// What a row's words name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    /// The positions, in the order of their numbers.
    pub(crate) positions: Vec<PositionNo>,
    /// Instruments that were named without a position.
    pub(crate) without_position: Vec<String>,
}

impl Catalogue {
    /// Reads all of it, page by page.
    pub(crate) async fn load(uow: &mut dyn UnitOfWork) -> Result<Self, StoreError> {
        let mut catalogue = Self::default();
        let mut page = Page::first();
        loop {
            let found = uow.instruments().list(&InstrumentFilter::default(), page).await?;
            for instrument in found.items {
                catalogue.add_instrument(instrument.no, instrument.name);
            }
            match found.next {
                Some(after) => page.after = Some(after),
                None => break,
            }
        }
        page = Page::first();
        loop {
            let found = uow.positions().list(&PositionFilter::default(), page).await?;
            for position in found.items {
                catalogue.add_position(position.instrument, position.no, &position.name);
            }
            match found.next {
                Some(after) => page.after = Some(after),
                None => return Ok(catalogue),
            }
        }
    }

    fn add_instrument(&mut self, no: InstrumentNo, name: String) {
        self.instruments.insert(key(&name), Instrument { no, name });
    }

    fn add_position(&mut self, instrument: InstrumentNo, no: PositionNo, name: &str) {
        self.positions.entry(key(name)).or_default().push((instrument, no));
    }

    /// The positions that a row names: within its instruments if it names some, otherwise by a name that only
    /// one instrument has. `Viola: Tutti` names both at once.
    pub(crate) fn find(&self, row: &ParsedRow) -> Result<Named, Vec<CellError>> {
        let mut errors = Vec::new();
        let mut refuse = |column, reason: String| {
            errors.push(CellError { column: Some(row.header.name_of(column).to_owned()), reason });
        };
        let mut instruments = Vec::new();
        for word in words(row.instrument.as_deref(), |word| self.instruments.contains_key(word)) {
            match self.instruments.get(&key(word)) {
                Some(instrument) => instruments.push(instrument),
                None => refuse(Column::Instrument, format!("no instrument is called {}", quoted(word))),
            }
        }
        let instruments_are_known = row.instrument.is_none() || !instruments.is_empty();

        let mut positions = BTreeSet::new();
        let mut with_position = BTreeSet::new();
        for word in words(row.position.as_deref(), |word| self.positions.contains_key(word)) {
            match self.find_position(word, &instruments) {
                Ok((instrument, position)) => {
                    positions.insert(position);
                    with_position.insert(instrument);
                }
                // Without its instrument nothing can be said of the position.
                Err(reason) if instruments_are_known => refuse(Column::Position, reason),
                Err(_) => {}
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let without_position = instruments
            .iter()
            .filter(|instrument| !with_position.contains(&instrument.no))
            .map(|instrument| instrument.name.clone())
            .collect();
        Ok(Named { positions: positions.into_iter().collect(), without_position })
    }

    fn find_position(
        &self,
        word: &str,
        instruments: &[&Instrument],
    ) -> Result<(InstrumentNo, PositionNo), String> {
        let (word, within) = match word.split_once(':') {
            Some((instrument, position)) if !self.positions.contains_key(&key(word)) => {
                let instrument = self.instruments.get(&key(instrument));
                let Some(instrument) = instrument else {
                    return Err(format!("no instrument and position are called {}", quoted(word)));
                };
                (position.trim(), vec![instrument])
            }
            _ => (word, instruments.to_vec()),
        };
        let candidates: Vec<_> = self
            .positions
            .get(&key(word))
            .into_iter()
            .flatten()
            .filter(|(instrument, _)| within.is_empty() || within.iter().any(|one| one.no == *instrument))
            .collect();
        match candidates.as_slice() {
            [one] => Ok(**one),
            [] if within.is_empty() => Err(format!("no position is called {}", quoted(word))),
            [] => {
                let names: Vec<_> = within.iter().map(|one| one.name.as_str()).collect();
                Err(format!("{} has no position called {}", names.join(", "), quoted(word)))
            }
            _ => Err(format!("several instruments have a position called {}: say which", quoted(word))),
        }
    }
}

/// The words of a cell: all of it if that is a name as it stands, otherwise parted at `,`, `/` and `|`.
fn words(cell: Option<&str>, is_name: impl Fn(&str) -> bool) -> Vec<&str> {
    match cell {
        None => Vec::new(),
        Some(cell) if is_name(&key(cell)) => vec![cell],
        Some(cell) => {
            cell.split([',', '/', '|', '\n']).map(str::trim).filter(|word| !word.is_empty()).collect()
        }
    }
}

fn key(name: &str) -> String {
    name.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

/// The word in quotes, cut to what fits in a sentence.
fn quoted(word: &str) -> String {
    let mut cut: String = word.chars().take(60).collect();
    if cut.len() < word.len() {
        cut.push('…');
    }
    format!("\"{cut}\"")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::import::header::Header;

    fn catalogue() -> Catalogue {
        let mut catalogue = Catalogue::default();
        for (no, name) in [(1, "Violin"), (2, "Viola"), (3, "Tenor/Bas")] {
            catalogue.add_instrument(InstrumentNo::new(no), name.to_owned());
        }
        for (no, instrument, name) in
            [(1, 1, "Tutti violin 1"), (2, 1, "Tutti"), (3, 2, "Tutti"), (4, 2, "Stämledare"), (5, 3, "1/2")]
        {
            catalogue.add_position(InstrumentNo::new(instrument), PositionNo::new(no), name);
        }
        catalogue
    }

    fn find(instrument: &str, position: &str) -> Result<(Vec<i64>, Vec<String>), Vec<CellError>> {
        let header = Header::parse(["namn", "epost", "Instrument", "Stämma"]).expect("a header");
        let cells = ["Anna Berg", "anna@gso.se", instrument, position].into_iter().collect();
        let row = ParsedRow::read(&cells, &Arc::new(header)).expect("filled in").expect("right");
        let named = catalogue().find(&row)?;
        Ok((named.positions.iter().map(|no| no.get()).collect(), named.without_position))
    }

    #[test]
    fn names_are_found_without_regard_to_case_and_spacing() {
        assert_eq!(find("VIOLA", " stämledare "), Ok((vec![4], vec![])));
        assert_eq!(find("violin", "tutti  VIOLIN 1"), Ok((vec![1], vec![])));
    }

    #[test]
    fn a_position_alone_is_enough_when_one_instrument_has_it() {
        assert_eq!(find("", "Tutti violin 1"), Ok((vec![1], vec![])));
        let errors = find("", "Tutti").expect_err("ambiguous");
        assert_eq!(errors[0].column.as_deref(), Some("Stämma"));
        assert!(errors[0].reason.contains("several"));
    }

    #[test]
    fn several_names_are_parted_and_names_with_a_bar_stay_whole() {
        assert_eq!(find("", "Stämledare / Tutti violin 1"), Ok((vec![1, 4], vec![])));
        assert_eq!(find("", "Violin: Tutti | Viola: Tutti"), Ok((vec![2, 3], vec![])));
        assert_eq!(find("Tenor/Bas", "1/2"), Ok((vec![5], vec![])));
    }

    #[test]
    fn an_instrument_without_position_is_told() {
        assert_eq!(find("Violin", ""), Ok((vec![], vec!["Violin".to_owned()])));
        assert_eq!(find("Violin, Viola", "Stämledare"), Ok((vec![4], vec!["Violin".to_owned()])));
    }

    #[test]
    fn unknown_names_are_refused_with_their_column() {
        let errors = find("Gitarr", "Solo").expect_err("unknown");
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].column.as_deref(), Some("Instrument"));
        let errors = find("Violin", "Stämledare").expect_err("of another instrument");
        assert_eq!(errors[0].reason, "Violin has no position called \"Stämledare\"");
    }
}
