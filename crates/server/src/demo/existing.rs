//! A demo that is there already: its configuration, for the commands beside `demo`.

use std::path::{Path, PathBuf};

use stagesub_storage::embedded::{LaunchError, default_data_dir, running_in};

use super::cast::SUPERADMIN_EMAIL;
use super::report::APP_DOMAIN;
use super::secrets::{Secrets, SecretsError};
use crate::config::RawConfig;

/// The configuration of the demo that runs on this data directory, over `raw`, whose sizes, logging and the like
/// stay. Nothing is started, made or locked.
///
/// # Errors
/// [`NoDemo`], a sentence with a way out.
pub fn configuration(data_dir: Option<&Path>, raw: &RawConfig) -> Result<RawConfig, NoDemo> {
    if raw.database_url.is_some() {
        return Err(NoDemo::DatabaseNamed);
    }
    let dir = match data_dir.or(raw.stagesub_data_dir.as_deref()) {
        Some(named) => named.to_path_buf(),
        None => default_data_dir()?,
    };
    let database_url = match running_in(&dir) {
        Ok(admin) => admin.to_url(),
        Err(LaunchError::NoCluster { dir }) => return Err(NoDemo::NotThere { dir }),
        Err(LaunchError::NotRunning { dir }) => return Err(NoDemo::NotRunning { dir }),
        Err(error) => return Err(error.into()),
    };
    let secrets = Secrets::load(&dir)?.ok_or(NoDemo::NotThere { dir })?;
    Ok(RawConfig {
        database_url: Some(database_url),
        shared_tenant_db_url: None,
        stagesub_admin_database_url: None,
        stagesub_admin_shared_tenant_db_url: None,
        stagesub_keys: Some(secrets.keys),
        jwt_secret: Some(secrets.jwt_secret),
        app_domain: Some(APP_DOMAIN.to_owned()),
        superadmin_email: Some(SUPERADMIN_EMAIL.to_owned()),
        superadmin_password: Some(secrets.superadmin_password),
        ..raw.clone()
    })
}

/// There is no demo to work on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoDemo {
    /// Another database is named at the same time.
    #[error("--demo and DATABASE_URL name two different platforms; unset DATABASE_URL, or leave --demo out")]
    DatabaseNamed,
    /// Nobody ever ran one here.
    #[error("there is no demo with a PostgreSQL of its own in {}; name its directory with --data-dir", dir.display())]
    NotThere {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// It is stopped.
    #[error("the demo in {} does not run; start it with `stagesub demo` and leave it running", dir.display())]
    NotRunning {
        /// Where it is.
        dir: PathBuf,
    },
    /// Its files cannot be read.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Its secrets cannot be read.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake_cluster(dir: &Path) {
        let root = dir.canonicalize().unwrap();
        let pgdata = root.join("pgdata");
        std::fs::create_dir(&pgdata).unwrap();
        std::fs::write(pgdata.join("PG_VERSION"), "15\n").unwrap();
        std::fs::write(root.join("superuser-password"), "hunter2").unwrap();
        let pid = std::process::id();
        let text = format!("{pid}\n{}\n1\n5432\n/srv/run\n\n 1 2\nready\n", pgdata.display());
        std::fs::write(pgdata.join("postmaster.pid"), text).unwrap();
    }

    #[test]
    fn a_demo_gives_its_own_secrets_and_leaves_the_rest_as_configured() {
        let dir = tempfile::tempdir().unwrap();
        fake_cluster(dir.path());
        Secrets::load_or_generate(dir.path(), &["got"]).unwrap();
        let raw = RawConfig {
            jwt_secret: Some("of another platform".into()),
            shared_tenant_db_url: Some("postgres://elsewhere".into()),
            stagesub_shared_pool_size: Some(7),
            ..RawConfig::default()
        };
        let found = configuration(Some(dir.path()), &raw).unwrap();
        assert_eq!(
            (found.app_domain.as_deref(), found.stagesub_shared_pool_size),
            (Some("localhost"), Some(7))
        );
        assert!(found.shared_tenant_db_url.is_none());
        crate::config::Settings::for_serve(&found).unwrap();
    }

    #[test]
    fn what_is_in_the_way_is_told_with_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let raw = RawConfig { database_url: Some("postgres://u@h/d".into()), ..RawConfig::default() };
        assert!(matches!(configuration(Some(dir.path()), &raw), Err(NoDemo::DatabaseNamed)));
        let raw = RawConfig::default();
        let error = configuration(Some(dir.path()), &raw).unwrap_err();
        assert!(
            matches!(error, NoDemo::NotThere { .. }) && error.to_string().contains("--data-dir"),
            "{error}"
        );
        fake_cluster(dir.path());
        assert!(matches!(configuration(Some(dir.path()), &raw), Err(NoDemo::NotThere { .. })));
        std::fs::remove_file(dir.path().join("pgdata/postmaster.pid")).unwrap();
        assert!(matches!(configuration(Some(dir.path()), &raw), Err(NoDemo::NotRunning { .. })));
    }
}
