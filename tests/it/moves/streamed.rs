//! Two databases with the same tables, as the mover reaches them, and streams between them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::{Connection as _, PgConnection};
use stagesub_storage::catalogue::TableName;
use stagesub_storage::logins::LoginRole;
use stagesub_storage::moves::apply::{Applier, ApplyError, ApplyOptions, Control, Prefix, Writers, mark};
use stagesub_storage::moves::progress::{self, Direction};
use stagesub_storage::moves::slot::{
    ChangeStream, Changes, SlotSession, create_publication, drop_publication, drop_slot, session_name,
    stream_name,
};
use stagesub_storage::seal::Sealed;
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::TenantId;
use stagesub_tests::cluster::{Cluster, keys};
use stagesub_tests::database::{associated_data, connect, copy, run};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::tenant_tx::lab::scalar;

static NEXT: AtomicU32 = AtomicU32::new(1);
static MOVER: OnceCell<ConnectionTarget> = OnceCell::const_new();

/// Longest that a stream may take to bring what was written.
const PATIENCE: Duration = Duration::from_mins(1);

/// The tables, parents first.
pub(crate) const TABLES: [&str; 4] = ["account", "entry", "leaf", "kinds"];

/// What both databases have. Types get numbers of their own in each.
const SCHEMA: &str = "
    CREATE SCHEMA moved;
    GRANT USAGE ON SCHEMA moved TO stagesub_mover;
    CREATE TYPE moved.mood AS ENUM ('calm', 'bright');
    CREATE TYPE moved.span AS (begins integer, ends integer);
    CREATE DOMAIN moved.word AS text CHECK (length(VALUE) < 40);
    CREATE TABLE moved.account (
        tenant_id uuid NOT NULL, no bigint NOT NULL, email text NOT NULL, balance numeric NOT NULL DEFAULT 0,
        CONSTRAINT account_pkey PRIMARY KEY (tenant_id, no),
        CONSTRAINT account_email_key UNIQUE (tenant_id, email));
    CREATE TABLE moved.entry (
        tenant_id uuid NOT NULL, no bigint NOT NULL, account_no bigint NOT NULL, \"Words\" text,
        CONSTRAINT entry_pkey PRIMARY KEY (tenant_id, no),
        CONSTRAINT entry_account_fkey FOREIGN KEY (tenant_id, account_no)
            REFERENCES moved.account (tenant_id, no) ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE moved.leaf (
        tenant_id uuid NOT NULL, account_no bigint NOT NULL, place integer NOT NULL, rank integer,
        CONSTRAINT leaf_pkey PRIMARY KEY (tenant_id, account_no, place),
        CONSTRAINT leaf_rank_key UNIQUE (tenant_id, account_no, rank) DEFERRABLE,
        CONSTRAINT leaf_account_fkey FOREIGN KEY (tenant_id, account_no)
            REFERENCES moved.account (tenant_id, no) ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE moved.kinds (
        tenant_id uuid NOT NULL, no bigint NOT NULL,
        f8 double precision, f4 real, n numeric, narrow numeric(6, 2), d date, ts timestamptz, plain timestamp,
        t time, span interval, ints integer[], texts text[], doc jsonb, js json, raw bytea, flag boolean,
        mood moved.mood, moods moved.mood[], word moved.word, part moved.span, ip inet, id uuid, within int4range,
        acl aclitem, long text, other text,
        twice bigint GENERATED ALWAYS AS (no * 2) STORED,
        counted bigint GENERATED ALWAYS AS IDENTITY,
        CONSTRAINT kinds_pkey PRIMARY KEY (tenant_id, no));
    CALL app.protect('moved.account');
    CALL app.protect('moved.entry');
    CALL app.protect('moved.leaf');
    CALL app.protect('moved.kinds');
";

/// Two databases of one server.
pub(crate) struct Pair {
    pub(crate) move_id: Uuid,
    /// Who moves.
    pub(crate) tenant: TenantId,
    /// Who stays.
    pub(crate) other: TenantId,
    pub(crate) prefix: Prefix,
    /// The administrator's ways in.
    pub(crate) admin: [ConnectionTarget; 2],
    /// The mover's.
    pub(crate) mover: [ConnectionTarget; 2],
    marks: AtomicU64,
}

/// One stream that is applied in the background.
pub(crate) struct Flow {
    pub(crate) direction: Direction,
    pub(crate) control: Control,
    pub(crate) task: JoinHandle<Result<(), ApplyError>>,
}

impl Pair {
    /// Two databases with the tables and no rows.
    pub(crate) async fn start() -> Self {
        let cluster = Cluster::get().await;
        let mover = MOVER.get_or_init(|| mover_login(cluster)).await;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let names =
            ["a", "b"].map(|side| format!("stagesub_test_run{}_pair{number}{side}", std::process::id()));
        let mut admin = connect(cluster.admin()).await;
        for name in &names {
            copy(&mut admin, cluster.shared_template(), name).await;
            let mut conn = connect(&cluster.admin().with_database(name)).await;
            run(&mut conn, "SET ROLE stagesub_owner").await;
            run(&mut conn, SCHEMA).await;
        }
        Self {
            move_id: Uuid::now_v7(),
            tenant: TenantId::from_uuid(Uuid::now_v7()),
            other: TenantId::from_uuid(Uuid::now_v7()),
            prefix: Uuid::new_v4().simple().to_string().parse().expect("a prefix"),
            admin: names.each_ref().map(|name| cluster.admin().with_database(name)),
            mover: names.each_ref().map(|name| mover.with_database(name)),
            marks: AtomicU64::new(0),
        }
    }

    /// Where a stream comes from, and where it goes.
    pub(crate) fn ends(direction: Direction) -> [usize; 2] {
        match direction {
            Direction::Forward => [0, 1],
            Direction::Reverse => [1, 0],
        }
    }

    /// Writes to a side, as whoever may. `{t}` is who moves, `{o}` who stays.
    pub(crate) async fn write(&self, side: usize, sql: &str) {
        let sql = sql.replace("{t}", &self.tenant.to_string()).replace("{o}", &self.other.to_string());
        run(&mut connect(&self.admin[side]).await, &sql).await;
    }

    /// One value of a side.
    pub(crate) async fn read<T>(&self, side: usize, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let sql = sql.replace("{t}", &self.tenant.to_string()).replace("{o}", &self.other.to_string());
        scalar(&mut connect(&self.admin[side]).await, &sql).await
    }

    /// A session of the mover's.
    pub(crate) async fn session(&self, side: usize, what: &str) -> PgConnection {
        let options =
            self.mover[side].to_connect_options().application_name(&session_name(self.move_id, what));
        PgConnection::connect_with(&options).await.expect("the mover may come in")
    }

    /// The names of the tables.
    pub(crate) fn tables() -> Vec<TableName> {
        TABLES.map(|name| TableName { schema: "moved".to_owned(), name: name.to_owned() }).to_vec()
    }

    /// Makes publication, slot and progress of a stream.
    pub(crate) async fn open(&self, direction: Direction) -> SlotSession {
        let [from, to] = Self::ends(direction);
        let mut source = self.session(from, "publish").await;
        let name = stream_name(self.move_id, direction);
        create_publication(&mut source, &name, self.tenant, &Self::tables()).await.expect("a publication");
        let mut slot =
            SlotSession::open(&self.mover[from], self.move_id, direction).await.expect("a session");
        let snapshot = slot.create().await.expect("a slot");
        let mut target = self.session(to, "progress").await;
        progress::begin(&mut target, self.move_id, direction, snapshot.consistent).await.expect("a row");
        slot
    }

    /// A session on a slot that is there.
    pub(crate) async fn reopen(&self, direction: Direction) -> SlotSession {
        let [from, _] = Self::ends(direction);
        SlotSession::open(&self.mover[from], self.move_id, direction).await.expect("a session")
    }

    /// An applier that goes on from the stored progress.
    pub(crate) async fn applier(&self, direction: Direction, writers: Writers) -> Applier {
        let [_, to] = Self::ends(direction);
        let options = ApplyOptions {
            move_id: self.move_id,
            direction,
            tenant: self.tenant,
            prefix: self.prefix.clone(),
            tables: Self::tables(),
            writers,
            dirty_bound: 100_000,
        };
        let what = if direction == Direction::Forward { "apply-fwd" } else { "apply-rev" };
        Applier::prepare(self.session(to, what).await, options).await.expect("an applier")
    }

    /// Applies in the background what a slot streams.
    pub(crate) async fn flow(&self, direction: Direction, writers: Writers, slot: SlotSession) -> Flow {
        self.flow_through(direction, writers, slot, |stream| stream).await
    }

    /// The same, with something between the stream and whoever applies it.
    pub(crate) async fn flow_through<S: Changes + 'static>(
        &self,
        direction: Direction,
        writers: Writers,
        slot: SlotSession,
        through: impl FnOnce(ChangeStream) -> S,
    ) -> Flow {
        let applier = self.applier(direction, writers).await;
        let control = applier.control();
        let stream = through(slot.start(applier.from()).await.expect("a stream"));
        Flow { direction, control, task: tokio::spawn(applier.run(stream)) }
    }

    /// Makes everything of a stream and applies it.
    pub(crate) async fn begin(&self, direction: Direction, writers: Writers) -> Flow {
        let slot = self.open(direction).await;
        self.flow(direction, writers, slot).await
    }

    /// Waits until everything is applied that was written before.
    pub(crate) async fn settle(&self, flow: &mut Flow) {
        let number = self.marks.fetch_add(1, Ordering::Relaxed) + 1;
        let [from, _] = Self::ends(flow.direction);
        mark(&mut self.session(from, "mark").await, &self.prefix, number).await.expect("a mark");
        let passed = tokio::time::timeout(PATIENCE, flow.control.passed(number)).await.expect("it arrives");
        if passed.is_err() {
            let ended = flow.ended().await;
            unreachable!("it goes on: {}", chain(&ended));
        }
    }

    /// Leaves nothing on the server that others could run out of.
    pub(crate) async fn close(self) {
        for direction in [Direction::Forward, Direction::Reverse] {
            let [from, _] = Self::ends(direction);
            let name = stream_name(self.move_id, direction);
            let mut session = self.session(from, "tidy").await;
            drop_slot(&mut session, &name, PATIENCE).await.expect("the slot goes");
            drop_publication(&mut session, &name, PATIENCE).await.expect("the publication goes");
        }
    }

    /// A side's rows of a tenant, as text.
    pub(crate) async fn rows(&self, side: usize, tenant: TenantId) -> Vec<String> {
        let mut conn = connect(&self.admin[side]).await;
        run(&mut conn, "SET extra_float_digits = 3; SET timezone = 'UTC'").await;
        let mut all = Vec::new();
        for table in TABLES {
            let sql = format!(
                "SELECT '{table} ' || x::text FROM moved.{table} AS x WHERE tenant_id = $1 ORDER BY 1"
            );
            let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
                .bind(tenant.as_uuid())
                .fetch_all(&mut conn)
                .await
                .expect("rows can be read");
            all.extend(rows);
        }
        all
    }

    /// That both sides have the same rows of who moves, and how many.
    pub(crate) async fn same(&self) -> usize {
        let (source, target) = (self.rows(0, self.tenant).await, self.rows(1, self.tenant).await);
        for (ours, theirs) in source.iter().zip(&target) {
            assert_eq!(ours, theirs);
        }
        assert_eq!(source.len(), target.len());
        source.len()
    }
}

impl Flow {
    /// Why it ended.
    pub(crate) async fn ended(&mut self) -> ApplyError {
        let ended = tokio::time::timeout(PATIENCE, &mut self.task).await.expect("it ends");
        ended.expect("it does not panic").expect_err("it was not told to end")
    }

    /// Ends it where a transaction ends.
    pub(crate) async fn stop(self) {
        self.control.stop();
        let ended = tokio::time::timeout(PATIENCE, self.task).await.expect("it ends");
        ended.expect("it does not panic").unwrap_or_else(|error| panic!("{}", chain(&error)));
    }
}

/// An error and what caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

async fn mover_login(cluster: &Cluster) -> ConnectionTarget {
    let name = format!("stagesub_test_run{}_mover", std::process::id());
    let mut admin = connect(cluster.admin()).await;
    copy(&mut admin, cluster.registry_template(), &name).await;
    let mut registry = connect(&cluster.admin().with_database(&name)).await;
    let role = LoginRole::Mover.as_str();
    let (database, stored): (Uuid, String) = sqlx::query_as(
        "SELECT l.database_id, l.sealed FROM registry.database_logins AS l
        JOIN registry.databases AS d ON d.id = l.database_id WHERE d.kind = 'shared' AND l.role = $1",
    )
    .bind(role)
    .fetch_one(&mut registry)
    .await
    .expect("the registry holds the login");
    let sealed: Sealed = stored.parse().expect("a sealed value");
    let url = keys().open_text(&sealed, &associated_data(database, role, None)).expect("it opens");
    sqlx::Connection::close(registry).await.expect("the connection closes");
    run(&mut admin, &format!("DROP DATABASE {name}")).await;
    ConnectionTarget::parse(url.expose_secret()).expect("a connection string")
}
