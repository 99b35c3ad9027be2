//! Further shared databases: made where they are named, or beside the first one.

use stagesub_tenancy::DatabaseId;

use super::Home;
use super::allowed::AllowedHosts;
use super::elsewhere::{Made, Maker, Named};
use crate::doctor::Expectations;
use crate::logins::LoginRole;
use crate::marker::DatabaseKind;
use crate::migrate::error::{MigrateError, during};
use crate::migrate::logins::find_login;
use crate::migrate::report::Partial;
use crate::registry::{Keys, RegistryPools};

/// What a shared database is called where nobody says.
const NAME: &str = "stagesub_shared";

/// A shared database that is to be made.
#[derive(Debug, Clone)]
pub struct NewShared {
    /// Where.
    pub home: Home,
    /// Its name, where the database is not there yet; left out: `stagesub_shared`.
    pub name: Option<String>,
    /// Reset the passwords of logins that another installation may be using.
    pub adopt_logins: bool,
}

/// A shared database that tenants can be put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedShared {
    /// Its id in the registry.
    pub id: DatabaseId,
    /// It was there before.
    pub known: bool,
    /// What the privileges of the one who was named did not allow.
    pub partial: Vec<Partial>,
}

/// Adds shared databases.
#[derive(Clone, Debug)]
pub struct SharedDatabases {
    registry: RegistryPools,
    keys: Keys,
    allowed: AllowedHosts,
    expected: Expectations,
}

impl SharedDatabases {
    /// Over the registry and the keys its connection strings are sealed with; servers may be named that are on the list.
    #[must_use]
    pub const fn new(
        registry: RegistryPools,
        keys: Keys,
        allowed: AllowedHosts,
        expected: Expectations,
    ) -> Self {
        Self { registry, keys, allowed, expected }
    }

    /// Makes one, or finishes one that was begun there; tenants can be put in it from then on, on every node.
    ///
    /// # Errors
    /// [`MigrateError`], as for [`DedicatedDatabases::create_at`](super::DedicatedDatabases::create_at).
    pub async fn add(&self, new: &NewShared) -> Result<AddedShared, MigrateError> {
        let added = self.make(new).await?;
        if !added.known {
            self.maker(new).set_ready(added.id).await?;
        }
        Ok(added)
    }

    /// Everything but the word that it is ready, which whoever keeps a log writes together with its entry.
    pub(crate) async fn make(&self, new: &NewShared) -> Result<AddedShared, MigrateError> {
        let name = new.name.clone().unwrap_or_else(|| NAME.to_owned());
        let ours;
        let named = match &new.home {
            Home::Beside => {
                ours = self.migrator().await?;
                Named::Ours(&ours, name)
            }
            Home::Server(url) => Named::Server(url, name),
            Home::Database(url) => Named::Database(url),
        };
        let Made { id, ready: known, partial } = self.maker(new).make(DatabaseKind::Shared, &named).await?;
        Ok(AddedShared { id, known, partial })
    }

    fn maker(&self, new: &NewShared) -> Maker<'_> {
        Maker {
            registry: &self.registry,
            keys: &self.keys,
            allowed: &self.allowed,
            expected: &self.expected,
            adopt_logins: new.adopt_logins,
        }
    }

    /// The migrator in the first shared database.
    async fn migrator(&self) -> Result<crate::target::ConnectionTarget, MigrateError> {
        let doing = "looking for shared databases";
        let mut conn = self.registry.begin_control().await.map_err(during(doing))?;
        let first = sqlx::query_scalar!(
            "SELECT id FROM registry.databases WHERE kind = 'shared' AND status = 'ready' ORDER BY id LIMIT 1"
        )
        .fetch_optional(&mut *conn)
        .await
        .map_err(during(doing))?
        .ok_or(MigrateError::NoShared)?;
        let (database, role) = (DatabaseId::from_uuid(first), LoginRole::Migrator);
        let login = find_login(&mut conn, &self.keys, database, role).await?;
        login.ok_or(MigrateError::NoLogin { database, role })
    }
}
