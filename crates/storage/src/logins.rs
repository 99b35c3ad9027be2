//! The platform's logins on a database, and who knows their connection strings.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use lru::LruCache;
use stagesub_tenancy::{DatabaseId, DirectoryError};

use crate::target::ConnectionTarget;

/// A login that the platform makes on its databases. See the table of roles in `docs/roles.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoginRole {
    /// Runs migrations; member of the owner.
    Migrator,
    /// Reads and writes tenant data, fenced by row-level security. No privilege in the registry.
    App,
    /// Reads and writes credentials in the registry.
    Auth,
    /// Reads and writes the registry, sealed connection strings included.
    Control,
    /// Moves and backs up tenants.
    Mover,
}

impl LoginRole {
    /// Every login.
    pub const ALL: [Self; 5] = [Self::Migrator, Self::App, Self::Auth, Self::Control, Self::Mover];

    /// The role's name in Postgres.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Migrator => "stagesub_migrator",
            Self::App => "stagesub_app",
            Self::Auth => "stagesub_auth",
            Self::Control => "stagesub_control",
            Self::Mover => "stagesub_mover",
        }
    }
}

/// Knows how to reach each database as each login.
#[cfg_attr(test, mockall::automock)]
#[async_trait]
pub trait DatabaseLogins: Send + Sync {
    /// Finds the connection string of `role` on `database`. `None`: there is none, and none is guessed.
    async fn find_login(
        &self,
        database: DatabaseId,
        role: LoginRole,
    ) -> Result<Option<ConnectionTarget>, DirectoryError>;

    /// A caller found that it was not let in with what it was told. Whoever remembers answers forgets that one and
    /// returns true: asking again may tell something else. Others have nothing to do.
    fn forget(&self, database: DatabaseId, role: LoginRole) -> bool {
        let _ = (database, role);
        false
    }
}

/// Remembers what another tells of the logins that were asked for most recently, so that opening a pool again asks
/// the registry nothing.
///
/// A login that is renewed is found out when it is used: see [`DatabaseLogins::forget`].
pub struct RememberedLogins<L> {
    told_by: L,
    remembered: Mutex<LruCache<(DatabaseId, LoginRole), ConnectionTarget>>,
}

/// As many as are remembered where nothing else is said.
pub const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).expect("it is more than none");

impl<L> RememberedLogins<L> {
    /// Remembers so many at most; each takes about 300 bytes.
    #[must_use]
    pub fn new(told_by: L, most: NonZeroUsize) -> Self {
        Self { told_by, remembered: Mutex::new(LruCache::new(most)) }
    }
}

impl<L> fmt::Debug for RememberedLogins<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RememberedLogins").finish_non_exhaustive()
    }
}

#[async_trait]
impl<L: DatabaseLogins> DatabaseLogins for RememberedLogins<L> {
    async fn find_login(
        &self,
        database: DatabaseId,
        role: LoginRole,
    ) -> Result<Option<ConnectionTarget>, DirectoryError> {
        let key = (database, role);
        let known = self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let told = self.told_by.find_login(database, role).await?;
        if let Some(login) = &told {
            self.remembered.lock().unwrap_or_else(PoisonError::into_inner).put(key, login.clone());
        }
        Ok(told)
    }

    fn forget(&self, database: DatabaseId, role: LoginRole) -> bool {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).pop(&(database, role)).is_some()
            | self.told_by.forget(database, role)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use uuid::Uuid;

    use super::*;

    fn login(name: &str) -> ConnectionTarget {
        ConnectionTarget::on_socket(Path::new("/run/db"), 1, name, "secret".to_owned().into(), "db")
            .expect("the environment changes no connection")
    }

    fn database(id: u128) -> DatabaseId {
        DatabaseId::from_uuid(Uuid::from_u128(id))
    }

    async fn user(logins: &impl DatabaseLogins, id: u128) -> Option<String> {
        let found = logins.find_login(database(id), LoginRole::App).await.unwrap();
        found.map(|login| login.user().to_owned())
    }

    #[tokio::test]
    async fn a_login_is_asked_for_once_until_it_is_forgotten() {
        let mut told_by = MockDatabaseLogins::new();
        let mut names = ["first", "second"].into_iter();
        told_by
            .expect_find_login()
            .times(2)
            .returning(move |_, _| Ok(Some(login(names.next().expect("two")))));
        told_by.expect_forget().returning(|_, _| false);
        let logins = RememberedLogins::new(told_by, NonZeroUsize::MIN);
        for _ in 0..2 {
            assert_eq!(user(&logins, 1).await.as_deref(), Some("first"));
        }
        assert!(!logins.forget(database(1), LoginRole::Mover), "another login");
        assert!(logins.forget(database(1), LoginRole::App) && !logins.forget(database(1), LoginRole::App));
        assert_eq!(user(&logins, 1).await.as_deref(), Some("second"));
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_remembered_and_neither_are_too_many() {
        let mut told_by = MockDatabaseLogins::new();
        told_by.expect_find_login().times(5).returning(|id, _| Ok((id != database(9)).then(|| login("app"))));
        let logins = RememberedLogins::new(told_by, NonZeroUsize::MIN);
        for (id, found) in [(9, false), (9, false), (1, true), (2, true), (1, true)] {
            assert_eq!(user(&logins, id).await.is_some(), found);
        }
    }
}
