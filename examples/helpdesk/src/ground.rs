//! The Postgres that the help desk stands on: the one that `DATABASE_URL` names, or one of its own that is gone with it.

use std::error::Error;

use stagesub_storage::embedded::{Cluster, ClusterOptions};
use stagesub_storage::seal::KeyRing;
use stagesub_storage::target::ConnectionTarget;

/// A database, and what seals the logins that are made in it.
pub(crate) struct Ground {
    database: ConnectionTarget,
    keys: Option<String>,
    cluster: Option<Cluster>,
}

impl Ground {
    /// `DATABASE_URL`, an administrator's, with `HELPDESK_KEYS` (`stagesub keys generate` makes some); without it a
    /// throw-away Postgres, of the programs that are installed here.
    pub(crate) async fn find() -> Result<Self, Box<dyn Error>> {
        if let Ok(url) = std::env::var("DATABASE_URL") {
            let keys = std::env::var("HELPDESK_KEYS").map_err(
                |_| "with DATABASE_URL goes HELPDESK_KEYS, which has to be the same at every start",
            )?;
            return Ok(Self { database: ConnectionTarget::parse(&url)?, keys: Some(keys), cluster: None });
        }
        let cluster = Cluster::start(ClusterOptions::throwaway()).await?;
        Ok(Self { database: cluster.admin().clone(), keys: None, cluster: Some(cluster) })
    }

    pub(crate) fn database(&self) -> ConnectionTarget {
        self.database.clone()
    }

    pub(crate) fn keys(&self) -> Result<KeyRing, Box<dyn Error>> {
        match &self.keys {
            Some(keys) => Ok(keys.parse()?),
            None => Ok(KeyRing::generate("helpdesk")),
        }
    }

    /// Stops a Postgres of its own.
    pub(crate) async fn leave(self) -> Result<(), Box<dyn Error>> {
        match self.cluster {
            Some(cluster) => Ok(cluster.stop().await?),
            None => Ok(()),
        }
    }
}
