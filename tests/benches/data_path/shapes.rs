//! Ways to begin and to end a fenced read, on one lean pool: what each part costs.

use std::fmt::Write as _;
use std::sync::Arc;

use sqlx::error::DatabaseError;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use stagesub_storage::one_message::PreparedRead;
use stagesub_storage::tx::LOOK_SQL;
use stagesub_tests::bench::ground::{Ground, options};
use stagesub_tests::bench::lean::{self, LeanPool};
use stagesub_tests::bench::plain::LIST;
use stagesub_tests::bench::rounds::Candidate;
use stagesub_tests::database::{connect, run};
use uuid::Uuid;

use super::CONNECTIONS;
use super::candidates::{LIMIT, listed, read};

/// The plainest, to which the others are compared.
pub(crate) const PLAIN: &str = "begin, 4 SET LOCAL, CALL; COMMIT;RESET ALL";

const TIMEOUTS: &str = "SET LOCAL statement_timeout=15000;SET LOCAL lock_timeout=5000;\
    SET LOCAL idle_in_transaction_session_timeout=30000;";
const CALL: &str = "CALL app.enter(1)";
const RESET: &str = "COMMIT;RESET ALL";

/// The list as one statement reads it.
static HOT: PreparedRead = PreparedRead::new("bench_hot", LIST, 2);

/// How it ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The answer is waited for.
    Inline(&'static str),
    /// It is not.
    Background(&'static str),
    /// By this at the beginning of the first message of whoever has the connection next.
    Next(&'static str),
    /// The same by `ROLLBACK AND CHAIN`, which begins the next as well.
    Chained,
}

/// All shapes.
pub(crate) async fn all(ground: &Ground) -> Vec<Candidate> {
    // The same as a function, for SELECT.
    run(
        &mut connect(&ground.admin).await,
        "CREATE FUNCTION app.bench_enter(expected_epoch bigint) RETURNS void LANGUAGE plpgsql AS $$
         DECLARE bound uuid := app.tenant_id(); found_state text; found_epoch bigint;
         BEGIN
             IF pg_catalog.current_setting('transaction_read_only') = 'off' THEN
                 PERFORM pg_catalog.pg_advisory_xact_lock_shared(pg_catalog.hashtextextended(bound::text, 7));
             END IF;
             SELECT f.state, f.epoch INTO found_state, found_epoch FROM app.tenant_fence AS f WHERE f.tenant_id = bound;
             IF found_state IS DISTINCT FROM 'active' OR found_epoch IS DISTINCT FROM expected_epoch THEN
                 RAISE EXCEPTION 'stale' USING ERRCODE = 'TN001';
             END IF;
         END $$;
         GRANT EXECUTE ON FUNCTION app.bench_enter(bigint) TO stagesub_app",
    )
    .await;
    let tenants: Arc<[Uuid]> = ground.scopes.iter().map(|scope| scope.tenant_id().as_uuid()).collect();
    let pool = lean::pool(options(&ground.app, None), CONNECTIONS as usize, "SELECT 1");
    let ordinary = |name, middle: &'static str, end| {
        let (pool, tenants) = (pool.clone(), Arc::clone(&tenants));
        Candidate::new(name, move |task| {
            ordinary_read(pool.clone(), tenants[task % tenants.len()], middle, end)
        })
    };
    let prepare_look = const_format("PREPARE bench_look(uuid,bigint) AS ", LOOK_SQL);
    let looks = lean::pool(options(&ground.app, None), CONNECTIONS as usize, prepare_look);
    // In a transaction from its first words on.
    let begun = const_format(prepare_look, ";BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY");
    let begun = lean::pool(options(&ground.app, None), CONNECTIONS as usize, begun);
    let looking = |name, timeouts, end| {
        let pool = if matches!(end, End::Chained) { &begun } else { &looks };
        let (pool, tenants) = (pool.clone(), Arc::clone(&tenants));
        let middle = const_format(timeouts, "EXECUTE bench_look('{tenant}',1)");
        Candidate::new(name, move |task| {
            ordinary_read(pool.clone(), tenants[task % tenants.len()], middle, end)
        })
    };
    let full = const_format(TIMEOUTS, CALL);
    let mut shapes = vec![
        ordinary(PLAIN, full, End::Inline(RESET)),
        ordinary("the same, ended in the background", full, End::Background(RESET)),
        ordinary("the same, timeouts not set", CALL, End::Inline(RESET)),
        ordinary(
            "the same, SELECT for CALL",
            const_format(TIMEOUTS, "SELECT app.bench_enter(1)"),
            End::Inline(RESET),
        ),
        looking("the same, EXECUTE of a look for CALL", TIMEOUTS, End::Inline(RESET)),
        looking("the same, and timeouts not set", "", End::Inline(RESET)),
        looking("the same, ended by the next, RESET ALL", "", End::Next("COMMIT;RESET ALL;")),
        looking("the same, ended by the next by ROLLBACK", "", End::Next("ROLLBACK;")),
        looking("the same, ended by the next by AND CHAIN, as the product", "", End::Chained),
        ordinary("the same, without enter", TIMEOUTS, End::Inline(RESET)),
        ordinary("the same, no RESET ALL", full, End::Inline("COMMIT")),
        ordinary(
            "the same, asks for the tenant first",
            full,
            End::Inline("SELECT app.tenant_id();COMMIT;RESET ALL"),
        ),
        ordinary(
            "the same, has the tenant shown first",
            full,
            End::Inline("SHOW app.tenant_id;COMMIT;RESET ALL"),
        ),
    ];
    let once = "SET LOCAL plan_cache_mode=force_generic_plan;";
    let bounds = "SET LOCAL statement_timeout=5000;";
    let look = LOOK_SQL.strip_prefix("SELECT WHERE NOT ").expect("it brings no row").replace("$2", "$4");
    let hot = format!("SELECT q.* FROM (SELECT r.* FROM (\n{LIST}\n) AS r OFFSET 0) AS q WHERE {look}");
    let one_message = |name, asks: bool, middle: String, end: &'static str| {
        let (pool, tenants) = (pool.clone(), Arc::clone(&tenants));
        let (prepare, ends) = if asks {
            let types = "uuid,bigint,bigint,bigint";
            (format!("PREPARE bench_hot({types}) AS {hot}"), format!(",0,{LIMIT},1);{end}"))
        } else {
            let types = "uuid,bigint,bigint";
            (format!("PREPARE bench_list({types}) AS {LIST}"), format!(",0,{LIMIT});{end}"))
        };
        let prepared = if asks { "bench_hot" } else { "bench_list" };
        let begins = format!("{middle}EXECUTE {prepared}(");
        let message = Arc::new(OneMessage { prepare, begins, ends });
        Candidate::new(name, move |task| {
            one_message_read(pool.clone(), tenants[task % tenants.len()], Arc::clone(&message))
        })
    };
    shapes.extend([
        one_statement(ground, &tenants, "one message, one statement, as the product"),
        one_message("one message, six statements", true, format!("{bounds}{once}"), "COMMIT"),
        one_message("six statements, plans left to Postgres", true, bounds.to_owned(), "COMMIT"),
        one_message("six statements, timeouts not set", true, once.to_owned(), "COMMIT"),
        one_message("six statements, RESET ALL", true, format!("{bounds}{once}"), RESET),
        one_message("six statements, CALL before it", false, format!("{bounds}{once}{CALL};"), "COMMIT"),
        one_message("six statements, epoch not asked", false, format!("{bounds}{once}"), "COMMIT"),
    ]);
    shapes
}

/// The whole as one statement, with its values bound, in a session that was told to read.
fn one_statement(ground: &Ground, tenants: &Arc<[Uuid]>, name: &'static str) -> Candidate {
    let reads = "SET default_transaction_read_only=on";
    let pool = lean::pool(options(&ground.app, None), CONNECTIONS as usize, reads);
    let tenants = Arc::clone(tenants);
    Candidate::new(name, move |task| {
        let (pool, tenant) = (pool.clone(), tenants[task % tenants.len()]);
        async move {
            let mut connection = pool.get().await.expect("a connection");
            let query = sqlx::query(AssertSqlSafe(HOT.prepared())).bind(tenant).bind(0_i64).bind(LIMIT);
            let rows = query.bind(1_i64).fetch_all(&mut *connection).await.expect("it is read");
            listed(&rows);
        }
    })
}

/// Two texts as one that lasts.
fn const_format(one: &str, other: &str) -> &'static str {
    Box::leak(format!("{one}{other}").into_boxed_str())
}

fn begin(tenant: Uuid) -> String {
    format!("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;SET LOCAL app.tenant_id='{tenant}';")
}

async fn ordinary_read(pool: LeanPool, tenant: Uuid, middle: &'static str, end: End) {
    let mut connection = pool.get().await.expect("a connection");
    let mut text = match end {
        End::Next(end) => format!("{end}{}", begin(tenant)),
        End::Chained => format!("ROLLBACK AND CHAIN;SET LOCAL app.tenant_id='{tenant}';"),
        End::Inline(_) | End::Background(_) => begin(tenant),
    };
    text.push_str(&middle.replace("{tenant}", &tenant.to_string()));
    run_raw(&mut connection, text).await;
    read(&mut connection, tenant).await;
    match end {
        End::Inline(text) => run_raw(&mut connection, text.to_owned()).await,
        End::Background(text) => {
            tokio::spawn(async move { run_raw(&mut connection, text.to_owned()).await });
        }
        End::Next(_) | End::Chained => {}
    }
}

async fn run_raw(connection: &mut PgConnection, text: String) {
    connection.execute(sqlx::raw_sql(AssertSqlSafe(text))).await.expect("it is done");
}

/// A message but for the tenant.
struct OneMessage {
    /// What a connection has to be told once.
    prepare: String,
    /// What comes after the tenant is bound, up to where it is named as an argument.
    begins: String,
    /// What comes after that.
    ends: String,
}

async fn one_message_read(pool: LeanPool, tenant: Uuid, message: Arc<OneMessage>) {
    let mut connection = pool.get().await.expect("a connection");
    let mut text = begin(tenant);
    let OneMessage { prepare, begins, ends } = &*message;
    write!(text, "{begins}'{tenant}'{ends}").expect("a String takes every text");
    let rows = match sqlx::raw_sql(AssertSqlSafe(text.as_str())).fetch_all(&mut *connection).await {
        Ok(rows) => rows,
        // The first time on this connection.
        Err(error) if error.as_database_error().and_then(DatabaseError::code).as_deref() == Some("26000") => {
            run_raw(&mut connection, format!("ROLLBACK;{prepare}")).await;
            sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut *connection).await.expect("it is read")
        }
        Err(error) => panic!("{error}"),
    };
    listed(&rows);
}
