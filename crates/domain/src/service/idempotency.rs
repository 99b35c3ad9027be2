//! Asking twice: the first request is done, the second is told what the first was.
//!
//! The one family that knows no entity: it goes around the use case that creates something, in the same unit.

use chrono::{DateTime, Utc};

use crate::error::UseCaseError;
use crate::idempotency::{Asked, KeptAnswer};
use crate::ports::UnitOfWork;
use crate::ports::idempotency::Claim;

/// Claims the request's key before anything is made. An answer: the request was made before, and this unit has
/// nothing to do. None: go on, and [`keep`] the answer before the commit.
///
/// # Errors
/// [`UseCaseError::KeyReused`]: the key names another request. [`UseCaseError::KeyUnderway`]: that request is at
/// work still.
pub async fn claim(
    uow: &mut dyn UnitOfWork,
    asked: &Asked,
    now: DateTime<Utc>,
) -> Result<Option<KeptAnswer>, UseCaseError> {
    match uow.idempotency().claim(asked, now).await? {
        Claim::Claimed => Ok(None),
        Claim::Answered { fingerprint, answer } if fingerprint == asked.fingerprint => Ok(Some(answer)),
        Claim::Answered { .. } => Err(UseCaseError::KeyReused),
        Claim::Underway => Err(UseCaseError::KeyUnderway),
    }
}

/// Stores what the request is answered, in the unit that made what it tells of.
pub async fn keep(
    uow: &mut dyn UnitOfWork,
    asked: &Asked,
    answer: &KeptAnswer,
    now: DateTime<Utc>,
) -> Result<(), UseCaseError> {
    Ok(uow.idempotency().keep(asked, answer, now).await?)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use uuid::Uuid;

    use super::*;
    use crate::error::StoreError;
    use crate::idempotency::{Fingerprint, KEPT_FOR};
    use crate::ports::MockUnitOfWork;
    use crate::ports::idempotency::MockIdempotencyStore;
    use crate::service::fixture::moment;
    use crate::testing::InMemoryUnit;

    fn asked(user: u128, key: &str, what: u8) -> Asked {
        Asked {
            user: Uuid::from_u128(user),
            key: key.parse().expect("a key"),
            fingerprint: Fingerprint::new([what; 32]),
        }
    }

    fn answer(body: &str) -> KeptAnswer {
        KeptAnswer {
            status: 201,
            location: Some("/api/v1/instruments/GOT-INST-001".to_owned()),
            content_type: "application/json".to_owned(),
            body: body.as_bytes().to_vec(),
        }
    }

    #[tokio::test]
    async fn the_second_request_gets_the_first_ones_answer() {
        let orchestra = InMemoryUnit::default();
        let first = asked(1, "k", 1);
        let mut unit = orchestra.begin();
        assert_eq!(claim(&mut unit, &first, moment(0)).await.expect("claimed"), None);
        keep(&mut unit, &first, &answer("made"), moment(0)).await.expect("kept");
        Box::new(unit).commit().await.expect("committed");
        let again = claim(&mut orchestra.begin(), &first, moment(0)).await.expect("told");
        assert_eq!(again, Some(answer("made")));
    }

    #[tokio::test]
    async fn a_request_that_failed_keeps_nothing() {
        let orchestra = InMemoryUnit::default();
        let first = asked(1, "k", 1);
        assert_eq!(claim(&mut orchestra.begin(), &first, moment(0)).await.expect("claimed"), None);
        assert_eq!(claim(&mut orchestra.begin(), &first, moment(0)).await.expect("claimed"), None);
    }

    #[tokio::test]
    async fn a_key_is_one_persons_one_requests_and_one_days() {
        let orchestra = InMemoryUnit::default();
        let first = asked(1, "k", 1);
        let mut unit = orchestra.begin();
        claim(&mut unit, &first, moment(0)).await.expect("claimed");
        keep(&mut unit, &first, &answer("made"), moment(0)).await.expect("kept");
        Box::new(unit).commit().await.expect("committed");

        let other_person = claim(&mut orchestra.begin(), &asked(2, "k", 1), moment(0)).await;
        assert_eq!(other_person.expect("claimed"), None);
        let other_request = claim(&mut orchestra.begin(), &asked(1, "k", 2), moment(0)).await;
        assert!(matches!(other_request, Err(UseCaseError::KeyReused)));
        let late = moment(0) + KEPT_FOR;
        let in_time = claim(&mut orchestra.begin(), &first, late - TimeDelta::seconds(1)).await;
        assert_eq!(in_time.expect("told"), Some(answer("made")));
        assert_eq!(claim(&mut orchestra.begin(), &asked(1, "k", 2), late).await.expect("claimed"), None);
    }

    #[tokio::test]
    async fn a_request_that_is_still_at_work_is_told_and_a_failure_stays_one() {
        for (claimed, is_told) in
            [(Ok(Claim::Underway), true), (Err(StoreError::Contended("deadlock".into())), false)]
        {
            let mut unit = MockUnitOfWork::new();
            let claimed = std::sync::Mutex::new(Some(claimed));
            unit.expect_idempotency().returning(move || {
                let mut store = MockIdempotencyStore::new();
                let claimed = claimed.lock().expect("no test panics here").take().expect("asked once");
                store.expect_claim().return_once(move |_, _| claimed);
                Box::new(store)
            });
            let told = claim(&mut unit, &asked(1, "k", 1), moment(0)).await.expect_err("not claimed");
            assert_eq!(matches!(told, UseCaseError::KeyUnderway), is_told, "{told:?}");
        }
    }
}
