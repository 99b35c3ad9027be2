//! The orchestra's repositories: each port of `stagesub_domain::ports` on one tenant transaction.
//!
//! Every statement says `WHERE tenant_id = $1` with the transaction's tenant although row-level security
//! says it too: two fences that must agree.

mod audit;
mod error;
mod hot_lists;
mod idempotency;
mod instruments;
mod musicians;
mod positions;
mod projects;
mod quotas;
mod ranking_lists;
mod sequence;
mod settings;
mod starter;

pub use error::CONSTRAINTS;
pub use hot_lists::PgHotLists;

pub(crate) use audit::PgAuditLog;
pub(crate) use error::store_error;
pub(crate) use idempotency::PgIdempotency;
pub(crate) use instruments::PgInstruments;
pub(crate) use musicians::PgMusicians;
pub(crate) use positions::PgPositions;
pub(crate) use projects::PgProjects;
pub(crate) use quotas::PgQuotas;
pub(crate) use ranking_lists::PgRankingLists;
pub(crate) use sequence::PgSequences;
pub(crate) use settings::PgSettings;
pub(crate) use starter::PgStarter;

use stagesub_domain::error::StoreError;
use stagesub_domain::page::{Page, Paged};

/// A search text as a pattern that finds it anywhere, taken literally.
fn contains(search: Option<&str>) -> Option<String> {
    search.map(|text| {
        let mut pattern = String::with_capacity(text.len() + 2);
        pattern.push('%');
        for character in text.chars() {
            if matches!(character, '%' | '_' | '\\') {
                pattern.push('\\');
            }
            pattern.push(character);
        }
        pattern.push('%');
        pattern
    })
}

/// One more row than the page holds is read: whether it came tells whether there is a next page.
fn read_limit(page: Page) -> i64 {
    i64::from(page.limit()) + 1
}

/// Cuts what [`read_limit`] read into a page.
fn paged<R, T>(
    rows: Vec<R>,
    page: Page,
    number: impl Fn(&T) -> i64,
    map: impl Fn(R) -> Result<T, StoreError>,
) -> Result<Paged<T>, StoreError> {
    let limit = usize::try_from(page.limit()).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    let items = rows.into_iter().take(limit).map(map).collect::<Result<Vec<T>, _>>()?;
    let next = if more { items.last().map(number) } else { None };
    Ok(Paged { items, next })
}

/// A stored row that breaks a rule of its type.
fn corrupt(table: &'static str, id: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt { table, id: id.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_text_is_taken_literally() {
        assert_eq!(contains(Some("50%_a\\b")).as_deref(), Some("%50\\%\\_a\\\\b%"));
        assert_eq!(contains(None), None);
    }

    #[test]
    fn a_page_has_a_next_one_only_when_a_row_more_was_there() {
        let page = Page::new(None, 2).unwrap();
        let full = paged(vec![1_i64, 2, 3], page, |no| *no, Ok).unwrap();
        assert_eq!((full.items, full.next), (vec![1, 2], Some(2)));
        let last = paged(vec![1_i64, 2], page, |no| *no, Ok).unwrap();
        assert_eq!((last.items, last.next), (vec![1, 2], None));
    }
}
