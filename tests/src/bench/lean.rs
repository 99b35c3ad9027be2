//! A pool as lean as the product's, without what makes that one safe: it lends connections as they are, the one that was used
//! last first.

use deadpool::managed::{self, Metrics, Pool, RecycleResult};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor as _, PgConnection};

/// Makes connections, each after running something.
pub struct Connections {
    options: PgConnectOptions,
    first: &'static str,
}

impl managed::Manager for Connections {
    type Type = PgConnection;
    type Error = sqlx::Error;

    async fn create(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        connection.execute(sqlx::raw_sql(self.first)).await?;
        Ok(connection)
    }

    async fn recycle(&self, _: &mut PgConnection, _: &Metrics) -> RecycleResult<sqlx::Error> {
        Ok(())
    }
}

/// The pool.
pub type LeanPool = Pool<Connections>;

/// So many connections, each of which runs `first` when it is made.
///
/// # Panics
/// Never: the settings are complete.
#[must_use]
pub fn pool(options: PgConnectOptions, size: usize, first: &'static str) -> LeanPool {
    let pool = Pool::builder(Connections { options, first }).max_size(size);
    pool.queue_mode(managed::QueueMode::Lifo).build().expect("the settings are complete")
}
