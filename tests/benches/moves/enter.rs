//! What the fence costs a transaction that does nothing else: the message that begins it, with `app.enter` and without.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use stagesub_storage::logins::{DatabaseLogins, LoginRole};
use stagesub_tests::history::{Ground, Resident};

/// Microseconds by which the median of so many begins is longer with the fence; they take turns.
pub(crate) async fn measure(ground: &Ground, resident: &Resident, begins: usize) -> f64 {
    let login = ground.logins().find_login(ground.source.id, LoginRole::App).await;
    let login = login.expect("the registry answers").expect("the database has a login");
    let options = login.to_connect_options();
    let mut conn = PgConnection::connect_with(&options).await.expect("the application is let in");
    let epoch = ground.serves(&ground.source, resident.tenant()).await.expect("the tenant is served there");
    let bound = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;SET LOCAL app.tenant_id='{}';\
         SET LOCAL statement_timeout=30000;SET LOCAL lock_timeout=5000;SET LOCAL idle_in_transaction_session_timeout=30000",
        resident.tenant()
    );
    let entered = format!("{bound};CALL app.enter({epoch})");
    let (mut without, mut with) = (Vec::with_capacity(begins), Vec::with_capacity(begins));
    for round in 0..begins + begins / 10 {
        for (text, times) in [(&bound, &mut without), (&entered, &mut with)] {
            let began = Instant::now();
            sqlx::raw_sql(AssertSqlSafe(text.as_str())).execute(&mut conn).await.expect("it begins");
            let taken = began.elapsed();
            sqlx::raw_sql("COMMIT;RESET ALL").execute(&mut conn).await.expect("it ends");
            // The first ones warm up.
            if round >= begins / 10 {
                times.push(taken);
            }
        }
    }
    conn.close().await.expect("the connection closes");
    (median(&mut with) - median(&mut without)) * 1e6
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}
