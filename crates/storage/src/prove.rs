//! Attacks on a database's isolation, as the application's login.
//!
//! [`DatabaseProof`] attacks one database that holds tenants, on behalf of one of two tenants against the
//! other. It may run where people work: each statement stands in a transaction with short timeouts that is
//! rolled back, and reaches at most the rows of the two tenants it was given. What it attacks it reads from the
//! catalogue, so a table that was added yesterday is attacked today.
//!
//! | suite | attacks |
//! |---|---|
//! | `tables` | every table x operation, bound to no tenant, to `''`, to garbage, to another tenant |
//! | `foreign-keys` | a row that refers to a row which only the victim has |
//! | `unique-keys` | a row with the victim's key: meeting the key would tell that the victim has it |
//! | `epoch` | beginning, or reading in one message, at another epoch, unbound, above READ COMMITTED, for a tenant that is not here; binding within a statement who is bound, or writes |
//! | `fence-lifting` | becoming somebody else, changing tables, policies, functions, settings, other records |
//! | `hardening` | functions that a superuser takes from PUBLIC |
//! | `owner` | reading as the owner of the tables, whom only FORCE holds; with [`DatabaseProof::owner`] |
//!
//! Each table wants a row of the victim: an attack that needs one and finds none is
//! [`NotCarriedOut`](stagesub_tenancy::prove::Outcome::NotCarriedOut), which fails the proof and says what to
//! seed. The attacker needs no rows (but where the application may write over `tenant_id`, which the platform
//! does not grant), and need not be admitted to the database.
//!
//! Left out, because Postgres has no privilege for them: LISTEN and NOTIFY as statements, on channels that
//! carry versions and never data; `SET app.tenant_id`, which is how the application binds a tenant at all. Who
//! can run whole statements of his own as the application's login can bind any tenant. So can an expression by
//! `app.bind`, where no tenant is bound and nothing may be written: nobody reads so but what the program reads in one
//! message. (Whole statements get around the latter: a savepoint that is made read-only and released.)
//!
//! An attack that held says something only if it would have succeeded without the guard. [`controls`] shows
//! that: on a database that it makes of the migrations for this alone, it removes one guard at a time, sees the
//! attack succeed, puts the guard back and sees it held. It never touches another database.
//!
//! ```no_run
//! use async_trait::async_trait;
//! use stagesub_storage::factory::TenantDb;
//! use stagesub_storage::prove::{DatabaseProof, Sample, ScratchSettings, controls};
//! use stagesub_storage::target::ConnectionTarget;
//! use stagesub_tenancy::{Access, BoxError, TenantId, TenantScope};
//!
//! /// Invoices, as a service that embeds the tenancy has them.
//! struct Invoices;
//!
//! #[async_trait]
//! impl Sample for Invoices {
//!     async fn prepare(&self, migrator: &ConnectionTarget) -> Result<(), BoxError> {
//!         // The service's own migrations, on the scratch database.
//!         # let _ = migrator;
//!         Ok(())
//!     }
//!
//!     async fn seed(&self, db: &TenantDb, scope: &TenantScope) -> Result<(), BoxError> {
//!         let mut tx = db.begin(scope, Access::Write).await?;
//!         sqlx::query("INSERT INTO billing.invoice (tenant_id, no) VALUES ($1, 1)")
//!             .bind(tx.tenant().as_uuid())
//!             .execute(&mut tx)
//!             .await?;
//!         tx.commit().await?;
//!         Ok(())
//!     }
//! }
//!
//! async fn isolated(
//!     app: ConnectionTarget,
//!     migrator: ConnectionTarget,
//!     attacker: TenantId,
//!     victim: TenantId,
//! ) -> Result<bool, Box<dyn std::error::Error>> {
//!     let mut proof = DatabaseProof::new(app.clone(), attacker, victim)
//!         .schemas(["billing"])
//!         .owner(migrator.clone())
//!         .run()
//!         .await?;
//!     let settings = ScratchSettings::new(migrator, app).schemas(["billing"]);
//!     proof.append(controls(&settings, &Invoices).await?);
//!     Ok(proof.passed())
//! }
//! ```

use stagesub_tenancy::TenantId;
use stagesub_tenancy::prove::Proof;

use crate::catalogue::TableName;
use crate::marker::read_tenant_marker;
use crate::target::ConnectionTarget;

mod controls;
mod epoch;
mod error;
mod foreign_keys;
mod label;
mod lifting;
mod operation;
#[cfg(feature = "orchestra")]
pub mod orchestra;
mod owner;
mod path;
mod rows;
mod scratch;
mod session;
mod subject;
mod tables;
mod unique_keys;

pub use controls::controls;
pub use error::ProveError;
pub use label::wants_a_row;
pub use scratch::{Sample, ScratchSettings};
use session::Session;

/// The schema of tenant data that `migrations/tenant` makes.
const TENANT_SCHEMA: &str = "tenant";

/// A database that is to be attacked, and by whom.
#[derive(Debug, Clone)]
pub struct DatabaseProof {
    app: ConnectionTarget,
    owner: Option<ConnectionTarget>,
    attacker: TenantId,
    victim: TenantId,
    schemas: Vec<String>,
    reference: Vec<TableName>,
    hardened: bool,
    in_use: bool,
}

impl DatabaseProof {
    /// Attacks the tables of schema `tenant` with the application's login `app`, as `attacker` against
    /// `victim`. Give it two tenants that were made for this: their rows are read and locked.
    #[must_use]
    pub fn new(app: ConnectionTarget, attacker: TenantId, victim: TenantId) -> Self {
        Self {
            app,
            owner: None,
            attacker,
            victim,
            schemas: vec![TENANT_SCHEMA.to_owned()],
            reference: Vec::new(),
            hardened: true,
            in_use: false,
        }
    }

    /// The schemas of tenant data, in place of `tenant`.
    #[must_use]
    pub fn schemas(mut self, schemas: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.schemas = schemas.into_iter().map(Into::into).collect();
        self
    }

    /// Tables in them that belong to no tenant on purpose; they are not attacked.
    #[must_use]
    pub fn reference_tables(mut self, tables: impl IntoIterator<Item = TableName>) -> Self {
        self.reference = tables.into_iter().collect();
        self
    }

    /// Attacks as the owner of the tables too, which `login` must be a member of (the migrator's is).
    #[must_use]
    pub fn owner(mut self, login: ConnectionTarget) -> Self {
        self.owner = Some(login);
        self
    }

    /// Leaves out suite `hardening`: for a server on which nobody is a superuser, where the functions stay
    /// open to every role and the doctor says so.
    #[must_use]
    pub fn without_hardening(mut self) -> Self {
        self.hardened = false;
        self
    }

    /// The victim is somebody who works meanwhile, so its rows are not compared before and after: a change of
    /// its own would look like one of the attacker's.
    #[must_use]
    pub fn while_in_use(mut self) -> Self {
        self.in_use = true;
        self
    }

    /// Attacks. Each attack that was carried out is in the answer, whatever became of it.
    ///
    /// # Errors
    /// [`ProveError`]: the database cannot be reached, or cannot be attacked at all. Never a proof that
    /// passes.
    ///
    /// # Cancel safety
    /// Dropping the future closes its connections, which rolls back.
    pub async fn run(&self) -> Result<Proof, ProveError> {
        if self.attacker == self.victim {
            return Err(ProveError::SameTenant(self.attacker));
        }
        let mut app = Session::open(&self.app).await?;
        let proof = self.attack(&mut app).await?;
        app.close().await?;
        Ok(proof)
    }

    async fn attack(&self, app: &mut Session) -> Result<Proof, ProveError> {
        let (attacker, victim) = (self.attacker, self.victim);
        self.refuse_others(app).await?;
        let subjects = subject::survey(app, &self.schemas, &self.reference, attacker, victim).await?;
        let mut proof = Proof::new();
        let before = if self.in_use { None } else { Some(subject::digests(app, &subjects, victim).await?) };
        proof.extend(tables::attack_all(app, &subjects, attacker, victim).await?);
        proof.extend(foreign_keys::attack_all(app, &subjects, attacker, victim).await?);
        proof.extend(unique_keys::attack_all(app, &subjects, attacker, victim).await?);
        proof.extend(epoch::attack_all(app, &self.app, attacker, victim).await?);
        proof.extend(lifting::attack_all(app, &subjects, attacker, victim).await?);
        if self.hardened {
            proof.extend(lifting::attack_functions(app, attacker, victim).await?);
        }
        if let Some(owner) = &self.owner {
            let mut login = Session::open(owner).await?;
            proof.extend(owner::attack_all(&mut login, &subjects, attacker, victim).await?);
            login.close().await?;
        }
        if let Some(before) = before {
            let after = subject::digests(app, &subjects, victim).await?;
            proof.extend(tables::compare(&subjects, &before, &after));
        }
        Ok(proof)
    }

    /// Attacks nothing that the platform did not make.
    async fn refuse_others(&self, app: &mut Session) -> Result<(), ProveError> {
        let target = app.describe();
        match read_tenant_marker(app.catalogue()).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(ProveError::NoTenants { target }),
            Err(source) => Err(ProveError::Marker { target, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn proof(attacker: u128, victim: u128) -> DatabaseProof {
        let app = ConnectionTarget::parse("postgres://stagesub_app:x@127.0.0.1:1/none").unwrap();
        let [attacker, victim] = [attacker, victim].map(|id| TenantId::from_uuid(Uuid::from_u128(id)));
        DatabaseProof::new(app, attacker, victim)
    }

    struct Nothing;

    #[async_trait::async_trait]
    impl Sample for Nothing {
        async fn seed(
            &self,
            _: &crate::factory::TenantDb,
            _: &stagesub_tenancy::TenantScope,
        ) -> Result<(), stagesub_tenancy::BoxError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_cannot_be_attacked_is_no_proof() {
        assert!(matches!(proof(1, 2).run().await, Err(ProveError::Unreachable { .. })));
        assert!(matches!(proof(1, 1).run().await, Err(ProveError::SameTenant(_))));
    }

    #[test]
    fn proving_may_be_spawned() {
        fn is_send(_: &impl Send) {}
        let target = ConnectionTarget::parse("postgres://stagesub_app:x@127.0.0.1:1/none").unwrap();
        let settings = ScratchSettings::new(target.clone(), target);
        let proof = proof(1, 2);
        is_send(&proof.run());
        is_send(&controls(&settings, &Nothing));
    }
}
