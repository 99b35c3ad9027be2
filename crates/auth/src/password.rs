//! Hashing and verifying passwords, behind a bound on how many at once.
//!
//! One hash takes 19 MiB and tens of milliseconds of a core. Without a bound, 64 sign-ins at once took a
//! gigabyte and six seconds each, so hashing runs as wide as the cores, a short queue waits for a bounded
//! time, and what comes on top is refused at once.

mod policy;
mod stored;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, Version};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

pub use self::policy::{PASSWORD_CHARS, PASSWORD_MAX_BYTES, check_password};
use self::stored::{Checked, check};

/// How hashes are made, and how many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HasherSettings {
    /// Memory of one hash, in KiB.
    pub memory_kib: u32,
    /// Passes over that memory.
    pub passes: u32,
    /// Hashes computed at one time.
    pub width: NonZeroUsize,
    /// Hashes that may wait for their turn; one more is refused at once.
    pub max_waiting: usize,
    /// How long one waits for its turn before it is refused.
    pub max_wait: Duration,
}

impl Default for HasherSettings {
    /// argon2id with 19 MiB and two passes, as wide as the cores; eight waiting for each core, two seconds at
    /// most.
    fn default() -> Self {
        let width = available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self {
            memory_kib: 19 * 1024,
            passes: 2,
            width,
            max_waiting: width.get().saturating_mul(8),
            max_wait: Duration::from_secs(2),
        }
    }
}

/// Makes and verifies password hashes: argon2id, written as PHC strings.
///
/// Also verifies the bcrypt hashes of an earlier system, and says when a hash is to be replaced.
pub struct PasswordHasher {
    argon: Argon2<'static>,
    dummy: Arc<SecretString>,
    width: usize,
    places: usize,
    /// One permit for each hash that runs or waits.
    entered: Arc<Semaphore>,
    /// One permit for each hash that runs.
    running: Arc<Semaphore>,
    max_wait: Duration,
}

impl fmt::Debug for PasswordHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordHasher")
            .field("params", self.argon.params())
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

/// What a [`PasswordHasher`] does now, for metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HasherStats {
    /// Hashes that are computed.
    pub running: usize,
    /// Hashes that wait for their turn.
    pub waiting: usize,
}

/// What comparing a password with a stored hash gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// It is the password.
    Match {
        /// The hash is weaker than new ones are, so it is to be replaced.
        needs_rehash: bool,
    },
    /// It is another, or there is no hash.
    NoMatch,
    /// The stored text is no hash that this platform reads; nobody can sign in with it.
    Unusable,
}

impl PasswordHasher {
    /// Makes a hasher. Computes one hash, so it takes as long as one.
    ///
    /// # Errors
    /// [`PasswordError::Failed`] when argon2 cannot work with these costs.
    pub fn new(settings: HasherSettings) -> Result<Self, PasswordError> {
        let params = Params::new(settings.memory_kib, settings.passes, 1, None)
            .map_err(|source| PasswordError::Failed(Box::new(source)))?;
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let dummy = make(&argon, &SecretString::from("nobody's password"))?;
        let most = Semaphore::MAX_PERMITS;
        let width = settings.width.get().min(most);
        let places = width.saturating_add(settings.max_waiting).min(most);
        Ok(Self {
            argon,
            dummy: Arc::new(dummy),
            width,
            places,
            entered: Arc::new(Semaphore::new(places)),
            running: Arc::new(Semaphore::new(width)),
            max_wait: settings.max_wait,
        })
    }

    /// What it does now.
    #[must_use]
    pub fn stats(&self) -> HasherStats {
        let running = self.width.saturating_sub(self.running.available_permits());
        let entered = self.places.saturating_sub(self.entered.available_permits());
        HasherStats { running, waiting: entered.saturating_sub(running) }
    }

    /// Hashes a new password. The caller has checked it against [`check_password`].
    ///
    /// # Errors
    /// [`PasswordError::Overloaded`] when too many wait or the wait was too long; [`PasswordError::Failed`]
    /// when the system has no randomness or no memory.
    ///
    /// # Cancel safety
    /// A hash that has begun runs to its end and keeps its place until then.
    pub async fn hash(&self, password: &SecretString) -> Result<SecretString, PasswordError> {
        let (argon, password) = (self.argon.clone(), password.clone());
        self.run(move || make(&argon, &password)).await?
    }

    /// Compares a password with a stored hash. With no stored hash it compares with a hash of nobody's, so
    /// that the time taken does not tell whether the person exists.
    ///
    /// # Errors
    /// [`PasswordError::Overloaded`] when too many wait or the wait was too long; [`PasswordError::Failed`]
    /// when the hashing itself failed.
    ///
    /// # Cancel safety
    /// As [`hash`](Self::hash).
    pub async fn verify(
        &self,
        password: &SecretString,
        stored: Option<&SecretString>,
    ) -> Result<Verification, PasswordError> {
        let argon = self.argon.clone();
        let dummy = Arc::clone(&self.dummy);
        let (password, stored) = (password.clone(), stored.cloned());
        self.run(move || {
            let waste = || check(&argon, &password, &dummy);
            match stored {
                None => {
                    waste();
                    Verification::NoMatch
                }
                Some(stored) => match check(&argon, &password, &stored) {
                    Checked::Match { needs_rehash } => Verification::Match { needs_rehash },
                    Checked::NoMatch => Verification::NoMatch,
                    Checked::Unusable => {
                        waste();
                        Verification::Unusable
                    }
                },
            }
        })
        .await
    }

    /// This hasher with its queue full for good.
    #[cfg(test)]
    pub(crate) fn without_places(self) -> Self {
        self.entered.forget_permits(Semaphore::MAX_PERMITS);
        self
    }

    /// Runs `work` off the async threads when its turn comes.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let entered = Arc::clone(&self.entered).try_acquire_owned().map_err(|_| PasswordError::Overloaded)?;
        let turn = tokio::time::timeout(self.max_wait, Arc::clone(&self.running).acquire_owned())
            .await
            .map_err(|_| PasswordError::Overloaded)?
            .map_err(|source| PasswordError::Failed(Box::new(source)))?;
        // Both permits move into the closure: when the caller is cancelled the hash still runs, and its
        // memory and core count until it has ended.
        tokio::task::spawn_blocking(move || {
            let _held = (entered, turn);
            work()
        })
        .await
        .map_err(|source| PasswordError::Failed(Box::new(source)))
    }
}

fn make(argon: &Argon2<'_>, password: &SecretString) -> Result<SecretString, PasswordError> {
    let hash: PasswordHash = argon
        .hash_password(password.expose_secret().as_bytes())
        .map_err(|source| PasswordError::Failed(Box::new(source)))?;
    Ok(SecretString::from(hash.to_string()))
}

/// A password was not hashed or compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordError {
    /// Too many at once; the same call may succeed in a moment.
    #[error("too many passwords are being checked")]
    Overloaded,
    /// The hashing itself failed.
    #[error("password hashing failed")]
    Failed(#[source] stagesub_tenancy::BoxError),
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn settings(width: usize, max_waiting: usize) -> HasherSettings {
        HasherSettings {
            memory_kib: 64,
            passes: 1,
            width: NonZeroUsize::new(width).unwrap(),
            max_waiting,
            max_wait: Duration::from_secs(2),
        }
    }

    fn hasher(width: usize, max_waiting: usize) -> PasswordHasher {
        PasswordHasher::new(settings(width, max_waiting)).unwrap()
    }

    /// Occupies one place until the barrier is passed; returns once it runs.
    async fn occupy(hasher: &Arc<PasswordHasher>, release: &Arc<Barrier>) -> tokio::task::JoinHandle<()> {
        let (started, has_started) = tokio::sync::oneshot::channel();
        let (hasher, release) = (Arc::clone(hasher), Arc::clone(release));
        let task = tokio::spawn(async move {
            let work = move || {
                started.send(()).unwrap();
                release.wait();
            };
            hasher.run(work).await.unwrap();
        });
        has_started.await.unwrap();
        task
    }

    #[tokio::test]
    async fn password_matches_its_own_hash_only() {
        let hasher = hasher(1, 1);
        let password = SecretString::from("en liten ekorre");
        let stored = hasher.hash(&password).await.unwrap();
        let again = hasher.hash(&password).await.unwrap();
        assert_ne!(stored.expose_secret(), again.expose_secret(), "each hash has its own salt");

        let verified = hasher.verify(&password, Some(&stored)).await.unwrap();
        assert_eq!(verified, Verification::Match { needs_rehash: false });
        let other = SecretString::from("en stor ekorre");
        assert_eq!(hasher.verify(&other, Some(&stored)).await.unwrap(), Verification::NoMatch);
    }

    #[tokio::test]
    async fn without_a_hash_nothing_matches() {
        let hasher = hasher(1, 1);
        // Not even the password of the hash that is compared instead.
        for password in ["", "nobody's password", "en liten ekorre"] {
            let verified = hasher.verify(&SecretString::from(password), None).await.unwrap();
            assert_eq!(verified, Verification::NoMatch);
        }
        let broken = SecretString::from("broken");
        let verified = hasher.verify(&SecretString::from("nobody's password"), Some(&broken)).await.unwrap();
        assert_eq!(verified, Verification::Unusable);
    }

    #[test]
    fn the_dummy_costs_what_a_stored_hash_costs() {
        let hasher = PasswordHasher::new(HasherSettings::default()).unwrap();
        assert!(hasher.dummy.expose_secret().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    }

    #[test]
    fn costs_that_argon2_cannot_work_with_are_an_error() {
        let refused = PasswordHasher::new(HasherSettings { memory_kib: 1, ..settings(1, 1) });
        assert!(matches!(refused, Err(PasswordError::Failed(_))));
    }

    #[tokio::test]
    async fn one_more_than_may_wait_is_refused_at_once() {
        let hasher = Arc::new(hasher(1, 0));
        let release = Arc::new(Barrier::new(2));
        let running = occupy(&hasher, &release).await;

        let refused = hasher.verify(&SecretString::from("x"), None).await;
        assert!(matches!(refused, Err(PasswordError::Overloaded)));

        release.wait();
        running.await.unwrap();
        assert!(hasher.verify(&SecretString::from("x"), None).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_waited_too_long_is_refused() {
        let hasher = Arc::new(hasher(1, 1));
        let release = Arc::new(Barrier::new(2));
        let running = occupy(&hasher, &release).await;

        // A running blocking task holds the paused clock, so it is moved by hand.
        let waiting = tokio::spawn({
            let hasher = Arc::clone(&hasher);
            async move { hasher.verify(&SecretString::from("x"), None).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(hasher.stats(), HasherStats { running: 1, waiting: 1 });
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(matches!(waiting.await.unwrap(), Err(PasswordError::Overloaded)));

        assert_eq!(hasher.stats(), HasherStats { running: 1, waiting: 0 });
        release.wait();
        running.await.unwrap();
        assert!(hasher.verify(&SecretString::from("x"), None).await.is_ok(), "its place was given back");
        assert_eq!(hasher.stats(), HasherStats { running: 0, waiting: 0 });
    }

    #[tokio::test]
    async fn cancelled_caller_leaves_its_place_taken_until_the_hash_ends() {
        let hasher = Arc::new(hasher(1, 0));
        let release = Arc::new(Barrier::new(2));
        let running = occupy(&hasher, &release).await;
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());

        let refused = hasher.verify(&SecretString::from("x"), None).await;
        assert!(matches!(refused, Err(PasswordError::Overloaded)));

        release.wait();
        let freed = Arc::clone(&hasher.entered).acquire_owned().await.unwrap();
        drop(freed);
        assert!(hasher.verify(&SecretString::from("x"), None).await.is_ok());
    }

    #[tokio::test]
    async fn work_that_panics_gives_its_place_back() {
        let hasher = hasher(1, 0);
        let failed = hasher.run(|| panic!("a defect")).await;
        assert!(matches!(failed, Err::<(), _>(PasswordError::Failed(_))));
        assert!(hasher.verify(&SecretString::from("x"), None).await.is_ok());
    }
}
