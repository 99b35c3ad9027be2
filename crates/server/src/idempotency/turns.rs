//! Requests with one key, one after the other.
//!
//! The database keeps them apart whatever this does: the second waits for the first on its row, with a connection
//! that does nothing else. On one node it need not come to that: who waits here holds no connection, so that a
//! client that asks again and again takes none from its own orchestra.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stagesub_domain::error::UseCaseError;
use stagesub_domain::idempotency::{Asked, IdempotencyKey};
use stagesub_tenancy::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

/// Most that wait for one key; one more is told at once that the first is at work still.
const MOST_WAITING: usize = 32;

/// The keys of requests that this node works on.
pub struct KeyTurns {
    wait: Duration,
    wanted: Mutex<HashMap<Name, Wanted>>,
}

/// A key is one person's in one orchestra.
type Name = (TenantId, Uuid, IdempotencyKey);

struct Wanted {
    turn: Arc<Semaphore>,
    /// Those who have it or wait for it.
    by: usize,
}

impl fmt::Debug for KeyTurns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyTurns").field("wait", &self.wait).finish_non_exhaustive()
    }
}

impl KeyTurns {
    /// No key is at work. A request waits for its key for at most `wait`.
    #[must_use]
    pub fn new(wait: Duration) -> Arc<Self> {
        Arc::new(Self { wait, wanted: Mutex::default() })
    }

    /// Waits until no other request of this node has the key.
    ///
    /// # Errors
    /// [`UseCaseError::KeyUnderway`]: it took too long, or too many wait.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue.
    pub async fn enter(self: &Arc<Self>, tenant: TenantId, asked: &Asked) -> Result<KeyTurn, UseCaseError> {
        let name = (tenant, asked.user, asked.key.clone());
        let turn = {
            let mut all = self.lock();
            let wanted = all
                .entry(name.clone())
                .or_insert_with(|| Wanted { turn: Arc::new(Semaphore::new(1)), by: 0 });
            if wanted.by > MOST_WAITING {
                return Err(UseCaseError::KeyUnderway);
            }
            wanted.by += 1;
            Arc::clone(&wanted.turn)
        };
        let mut place = KeyTurn { turn: None, keys: Arc::clone(self), name };
        match tokio::time::timeout(self.wait, turn.acquire_owned()).await {
            Ok(Ok(turn)) => place.turn = Some(turn),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => return Err(UseCaseError::KeyUnderway),
        }
        Ok(place)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Wanted>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key, or a place in its queue, until it is dropped.
pub struct KeyTurn {
    turn: Option<OwnedSemaphorePermit>,
    keys: Arc<KeyTurns>,
    name: Name,
}

impl fmt::Debug for KeyTurn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyTurn").finish_non_exhaustive()
    }
}

impl Drop for KeyTurn {
    fn drop(&mut self) {
        drop(self.turn.take());
        let mut all = self.keys.lock();
        if let Some(wanted) = all.get_mut(&self.name) {
            wanted.by -= 1;
            if wanted.by == 0 {
                all.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use stagesub_domain::idempotency::Fingerprint;

    use super::*;

    const TENANT: TenantId = TenantId::from_uuid(Uuid::from_u128(1));

    fn asked(user: u128, key: &str) -> Asked {
        let key = key.parse().unwrap();
        Asked { user: Uuid::from_u128(user), key, fingerprint: Fingerprint::new([0; Fingerprint::LEN]) }
    }

    #[tokio::test(start_paused = true)]
    async fn one_key_is_worked_on_once_and_others_are_not_held_up() {
        let keys = KeyTurns::new(Duration::from_secs(5));
        let first = keys.enter(TENANT, &asked(1, "a")).await.unwrap();
        let again = asked(1, "a");
        let mut second = Box::pin(keys.enter(TENANT, &again));
        assert!(futures::poll!(second.as_mut()).is_pending());
        for other in [asked(1, "b"), asked(2, "a")] {
            keys.enter(TENANT, &other).await.unwrap();
        }
        keys.enter(TenantId::from_uuid(Uuid::from_u128(2)), &again).await.unwrap();
        drop(first);
        drop(second.await.unwrap());
        assert!(keys.lock().is_empty(), "what nobody wants takes no memory");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_told_in_bounded_time_and_number() {
        let keys = KeyTurns::new(Duration::from_secs(5));
        let asked = asked(1, "a");
        let first = keys.enter(TENANT, &asked).await.unwrap();
        let mut waiting: Vec<_> = (0..MOST_WAITING).map(|_| Box::pin(keys.enter(TENANT, &asked))).collect();
        for one in &mut waiting {
            assert!(futures::poll!(one.as_mut()).is_pending());
        }
        assert!(matches!(keys.enter(TENANT, &asked).await, Err(UseCaseError::KeyUnderway)));
        for one in waiting {
            assert!(matches!(one.await, Err(UseCaseError::KeyUnderway)));
        }
        drop(first);
        assert!(keys.lock().is_empty());
    }
}
