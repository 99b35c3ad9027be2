//! Taking numbers: the counter's port.

use async_trait::async_trait;
use stagesub_tenancy::BoxError;

use crate::kind::Kind;

/// A run of consecutive numbers, first to last, that nobody else has been given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// The first number.
    pub first: i64,
    /// How many.
    pub count: u32,
}

impl Reserved {
    /// The numbers in order.
    #[must_use]
    pub fn numbers(self) -> impl ExactSizeIterator<Item = i64> {
        let first = self.first;
        (0..self.count).map(move |offset| first + i64::from(offset))
    }
}

/// One counter per tenant and kind, within the tenant's unit of work.
///
/// Numbers belong to the transaction that reserved them: once committed they are never given again, not
/// after a delete either; rolled back they may be. Gaps are fine.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait SequenceStore: Send {
    /// Reserves `count` (at least 1) consecutive numbers of `kind`. Holds the counter's row until the
    /// transaction ends, so reserve late and many at once.
    async fn reserve(&mut self, kind: Kind, count: u32) -> Result<Reserved, SequenceError>;
}

/// No number was given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SequenceError {
    /// Another transaction was in the way: a deadlock, or a lock that was not to be had. The same request may
    /// succeed when made again.
    #[error("another change holds the id counter")]
    Contended(#[source] BoxError),
    /// The counter cannot be reached.
    #[error("the id counter is unavailable")]
    Unavailable(#[source] BoxError),
    /// The tenant has no counter of this kind. It is made with the tenant: starting at 1 in its absence would give
    /// numbers out again.
    #[error("the id counter of {kind} is missing")]
    Missing {
        /// Of which kind.
        kind: Kind,
    },
    /// The statement failed: a defect of this program or of the schema.
    #[error("the id counter failed")]
    Failed(#[source] BoxError),
}

#[cfg(test)]
mod tests {
    use mockall::predicate::eq;

    use super::*;

    #[tokio::test]
    async fn many_numbers_are_reserved_at_once_and_are_consecutive() {
        let mut store = MockSequenceStore::new();
        store
            .expect_reserve()
            .with(eq(Kind::Musician), eq(3))
            .once()
            .returning(|_, count| Ok(Reserved { first: 998, count }));
        let store: &mut dyn SequenceStore = &mut store;
        let reserved = store.reserve(Kind::Musician, 3).await.expect("reserved");
        assert_eq!(reserved.numbers().collect::<Vec<_>>(), [998, 999, 1000]);
        assert_eq!(reserved.numbers().len(), 3);
    }

    #[tokio::test]
    async fn counter_that_cannot_be_reached_gives_no_number() {
        let mut store = MockSequenceStore::new();
        store.expect_reserve().once().returning(|_, _| Err(SequenceError::Unavailable("down".into())));
        assert!(matches!(store.reserve(Kind::File, 1).await, Err(SequenceError::Unavailable(_))));
    }
}
