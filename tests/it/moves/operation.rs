//! Moves as they are operated: over HTTP, watched, by nodes that come and go.

use std::sync::Arc;
use std::time::Duration;

use axum::body::BodyDataStream;
use futures::StreamExt;
use http::header::{AUTHORIZATION, HOST};
use serde_json::{Value, json};
use stagesub_tests::database::connect;
use stagesub_tests::{Client, Kept, Orchestra, TestPlatform, program};
use tokio::time::timeout;

use crate::telemetry::serving::Serving;
use crate::tenant_tx::lab::until;

const MOVES: &str = "/api/v1/platform/moves";
/// Longest that a move of these tests may take to come from one state to the next.
const DEADLINE: Duration = Duration::from_mins(2);

fn of_tenant(orchestra: &Orchestra) -> String {
    format!("/api/v1/platform/tenants/{}/moves", orchestra.tenant)
}

/// The events of a move.
struct Events {
    body: BodyDataStream,
    /// What came and was not taken yet.
    text: String,
}

impl Events {
    async fn of(client: &Client, id: &str) -> Self {
        let answer = client.open(&format!("{MOVES}/{id}/events")).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { body: answer.into_body().into_data_stream(), text: String::new() }
    }

    /// The next event's move; `None`: there are no more.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned);
                let rest = rest.to_owned();
                self.text = rest;
                // A word that says that the connection lives has no data.
                let Some(data) = data else { continue };
                return Some(serde_json::from_str(&data).expect("JSON"));
            }
            let piece = timeout(DEADLINE, self.body.next()).await.expect("it goes on")?;
            self.text.push_str(std::str::from_utf8(&piece.expect("it arrives")).expect("text"));
        }
    }

    /// Every state that is told until the move stands like this, with it.
    async fn until(&mut self, state: &str, served_by: &str) -> (Vec<String>, Value) {
        let mut states: Vec<String> = Vec::new();
        loop {
            let moved = self.next().await.unwrap_or_else(|| panic!("it ends before {state}: {states:?}"));
            let told = moved["state"].as_str().expect("a state").to_owned();
            assert_ne!(told, "aborted", "{moved}");
            if states.last() != Some(&told) {
                states.push(told);
            }
            if moved["state"] == state && moved["servedBy"] == served_by && moved["wanted"].is_null() {
                return (states, moved);
            }
        }
    }
}

async fn placement(superadmin: &Client, orchestra: &Orchestra) -> Value {
    let path = format!("/api/v1/platform/tenants/{}", orchestra.tenant);
    superadmin.get(&path).await.ok()["placement"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_an_orchestra_goes_there_and_back_and_stays_where_it_is_told_to() {
    let platform = TestPlatform::start_moving().await;
    let (got, superadmin) = (platform.orchestra(Kept::Shared, "got").await, platform.superadmin().await);
    for n in 0..5 {
        let body = json!({"firstName": "Ada", "lastName": "Ek", "email": format!("a{n}@b.example")});
        got.admin.post("/api/v1/musicians", &body).await.expect(201);
    }
    // There is no such database yet, and nothing stands in the way where it would be made.
    let wanted = json!({"to": "dedicated", "path": "stream", "pace": 0});
    let dry = json!({"to": "dedicated", "path": "stream", "pace": 0, "dryRun": true});
    let outlook = superadmin.post(&of_tenant(&got), &dry).await.ok();
    assert_eq!((&outlook["target"], &outlook["obstacles"]), (&Value::Null, &json!([])));
    assert_eq!((&outlook["path"], &outlook["keepsWayBack"]), (&json!("stream"), &json!(true)));
    // What is named is looked at, as far as it may be.
    let named = json!({"to": "dedicated", "url": "postgres://somebody:x@127.0.0.1:1/theirs", "dryRun": true});
    let outlook = superadmin.post(&of_tenant(&got), &named).await.ok();
    let told = outlook["obstacles"][0].as_str().expect("a sentence");
    assert!(told.contains("STAGESUB_DATABASE_HOSTS") && !told.contains(":x@"), "{told}");
    assert_eq!(superadmin.list_all(MOVES).await, Vec::<Value>::new());

    let keyed = superadmin.with_header("idempotency-key", "there");
    let started = keyed.post(&of_tenant(&got), &wanted).await;
    let moved = started.expect(202).json();
    let id = moved["id"].as_str().expect("an id").to_owned();
    assert_eq!(started.headers["location"], format!("{MOVES}/{id}"));
    let again = keyed.post(&of_tenant(&got), &wanted).await;
    assert_eq!(
        (again.expect(202).json()["id"].as_str(), &again.headers["idempotent-replayed"]),
        (Some(id.as_str()), &"true".parse().unwrap())
    );
    keyed.post(&of_tenant(&got), &json!({"to": "dedicated"})).await.problem(422, "idempotency-key-reused");
    superadmin.post(&of_tenant(&got), &wanted).await.problem(409, "wrong-state");

    let mut events = Events::of(&superadmin, &id).await;
    let (states, there) = events.until("active", "target").await;
    assert!(states.len() > 1, "it is told on its way: {states:?}");
    assert!(there["pauseMs"].as_f64().is_some_and(|pause| pause > 0.0), "{there}");
    assert!(there["rowsCopied"].as_u64().is_some_and(|rows| rows > 50), "{there}");
    assert_eq!(placement(&superadmin, &got).await, "dedicated");
    superadmin.order(&format!("{MOVES}/{id}/abort")).await.problem(409, "wrong-state");

    superadmin.order(&format!("{MOVES}/{id}/back")).await.expect(202);
    events.until("active", "source").await;
    assert_eq!(placement(&superadmin, &got).await, "shared");
    assert_eq!(got.admin.list_all("/api/v1/musicians").await.len(), 5);

    superadmin.order(&format!("{MOVES}/{id}/back")).await.expect(202);
    events.until("active", "target").await;
    superadmin.order(&format!("{MOVES}/{id}/finish")).await.expect(202);
    let mut last = events.until("finished", "target").await.1;
    while let Some(moved) = events.next().await {
        last = moved;
    }
    assert!(last["endedAt"].is_string(), "the last that is told is its end: {last}");
    assert_eq!(placement(&superadmin, &got).await, "dedicated");
    assert_eq!(got.admin.list_all("/api/v1/musicians").await.len(), 5);

    let listed = superadmin.list_all(&of_tenant(&got)).await;
    assert_eq!((listed.len(), &listed[0]["id"]), (1, &json!(id)));
    let log = platform.platform_audit(Some(&got)).await;
    let actions: Vec<&str> =
        log.iter().map(|row| row.action.as_str()).filter(|action| action.starts_with("move_")).collect();
    assert_eq!(
        actions,
        [
            "move_begin",
            "move_decide",
            "move_ask_back",
            "move_decide",
            "move_ask_back",
            "move_decide",
            "move_ask_finish",
            "move_end"
        ]
    );
    // A small one, back by a move of its own: the short path is chosen for it.
    let shared = superadmin
        .post(&of_tenant(&got), &json!({"to": "shared", "database": there["source"]["database"]}))
        .await;
    let id = shared.expect(202).json()["id"].as_str().expect("an id").to_owned();
    let (_, back) = Events::of(&superadmin, &id).await.until("finished", "target").await;
    assert_eq!(back["path"], "short");
    assert_eq!(placement(&superadmin, &got).await, "shared");
    assert_eq!(got.admin.list_all("/api/v1/musicians").await.len(), 5);
}

/// Asks a node over its socket.
struct Asking {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Asking {
    fn of(node: &Serving, superadmin: &Client) -> Self {
        let token = superadmin.token().expect("it is signed in").to_owned();
        Self { http: program::http().build().expect("a client"), url: node.url("listen"), token }
    }

    async fn send(&self, method: http::Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .header(HOST, TestPlatform::DOMAIN)
            .header(AUTHORIZATION, format!("Bearer {}", self.token));
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.expect("it answers");
        (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
    }

    async fn until_state(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = timeout(DEADLINE, async {
            loop {
                last = self.send(http::Method::GET, &format!("{MOVES}/{id}"), None).await.1;
                if wanted(&last) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        assert!(found.is_ok(), "still not so: {last}");
        last
    }
}

/// Musicians of an orchestra, so many that they are not copied at once.
async fn fill(platform: &TestPlatform, orchestra: &Orchestra, rows: i32) {
    let target = platform.registry().with_database(&platform.database_of(orchestra).await);
    sqlx::query(
        "INSERT INTO tenant.musician (tenant_id, no, first_name, last_name, email, preferred_language,
            local_residence, notes, is_active, created_at, updated_at)
        SELECT $1, 1000 + n, 'Ada', 'Ek', n || '@fill.example', 'sv', false, repeat('n', 400), true, now(), now()
        FROM generate_series(1, $2) AS n",
    )
    .bind(orchestra.tenant.as_uuid())
    .bind(rows)
    .execute(&mut connect(&target).await)
    .await
    .expect("musicians can be made");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_node_that_drives_is_killed_another_goes_on() {
    // Its own node drives none.
    let platform = Arc::new(TestPlatform::start().await);
    let (got, superadmin) = (platform.orchestra(Kept::Shared, "got").await, platform.superadmin().await);
    fill(&platform, &got, 10_000).await;
    let first = Serving::start(&platform, &[]).await;
    let asking = Asking::of(&first, &superadmin);
    let wanted = json!({"to": "dedicated", "pace": 1});
    let (status, moved) = asking.send(http::Method::POST, &of_tenant(&got), Some(&wanted)).await;
    assert_eq!((status, &moved["path"]), (202, &json!("stream")), "{moved}");
    let id = moved["id"].as_str().expect("an id").to_owned();
    asking.until_state(&id, |moved| moved["state"] == "copy" && moved["rowsCopied"].as_u64() > Some(0)).await;
    let second = Serving::start(&platform, &[]).await;
    first.kill().await;

    let asking = Asking::of(&second, &superadmin);
    let there = asking.until_state(&id, |moved| moved["state"] == "active").await;
    assert_eq!(there["servedBy"], "target");
    assert_eq!(placement(&superadmin, &got).await, "dedicated");
    assert_eq!(platform.count(&got, "tenant.musician").await, 10_000);
    // A node that is told to stop leaves an active move at once, and one that starts takes it.
    second.stop().await;
    let mut registry = connect(platform.registry()).await;
    let owner: Option<uuid::Uuid> =
        sqlx::query_scalar("SELECT owner FROM registry.moves WHERE ended_at IS NULL")
            .fetch_one(&mut registry)
            .await
            .unwrap();
    assert_eq!(owner, None);
    let third = Serving::start(&platform, &[]).await;
    let asking = Asking::of(&third, &superadmin);
    let (status, _) = asking.send(http::Method::POST, &format!("{MOVES}/{id}/finish"), None).await;
    assert_eq!(status, 202);
    asking.until_state(&id, |moved| moved["endedAt"].is_string()).await;
    third.stop().await;
}

/// What a command of the program says, on a platform.
async fn command(platform: &TestPlatform, arguments: &[&str]) -> (Option<i32>, String, String) {
    let (keys, registry) = (stagesub_tests::cluster::keys_text(), platform.registry().to_url());
    let (keys, registry) =
        (secrecy::ExposeSecret::expose_secret(&keys), secrecy::ExposeSecret::expose_secret(&registry));
    let mut command = program::command().await;
    command.args(arguments).envs(crate::cli::environment(registry, keys));
    let said = timeout(DEADLINE, command.output()).await.expect("it ends in time").expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (said.status.code(), text(said.stdout), text(said.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_command_line_a_move_is_begun_watched_and_ended() {
    // No node of it lives, but those that the test starts.
    let platform = TestPlatform::start_without_jobs().await;
    let got = platform.orchestra(Kept::Shared, "got").await;
    let (code, said, _) =
        command(&platform, &["move", "start", "got", "--to", "dedicated", "--path", "stream", "--dry-run"])
            .await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Nothing stands in the way") && said.contains("made first"), "{said}");
    let (code, _, why) = command(&platform, &["move", "status", "got"]).await;
    assert!(code == Some(1) && why.contains("never been moved"), "{why}");

    let start = ["move", "start", "got", "--to", "dedicated", "--path", "stream", "--unpaced"];
    let (code, said, note) = command(&platform, &start).await;
    assert!(code == Some(0) && said.contains("has begun"), "{said}{note}");
    assert!(note.contains("No server of this platform runs"), "{note}");
    let (code, _, why) = command(&platform, &start).await;
    assert!(code == Some(1) && why.contains("being moved already"), "{why}");

    let serving = Serving::start(&platform, &[]).await;
    let (code, said, why) = command(&platform, &["move", "watch", "got"]).await;
    assert_eq!(code, Some(0), "{said}{why}");
    assert!(said.contains("The dedicated database") && said.contains("the orchestra waited"), "{said}");
    let (code, said, _) = command(&platform, &["move", "back", "got", "--json"]).await;
    let answer: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((code, &answer["wanted"], &answer["nodes"]), (Some(0), &json!("back"), &json!(1)));
    let (code, said, _) = command(&platform, &["move", "watch", "got", "--json"]).await;
    let last: Value = serde_json::from_str(said.lines().last().expect("a line")).expect("JSON");
    assert_eq!((code, &last["servedBy"], &last["state"]), (Some(0), &json!("source"), &json!("active")));
    command(&platform, &["move", "finish", "got"]).await;
    let (code, _, _) = command(&platform, &["move", "watch", "got", "--until", "finished"]).await;
    assert_eq!(code, Some(0));
    let (_, said, _) = command(&platform, &["move", "list", "--json"]).await;
    let listed: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["state"]), (Some(1), &json!("finished")));
    let (_, said, _) = command(&platform, &["move", "status", "got"]).await;
    assert!(said.contains("finished") && said.contains("tenant.musician"), "{said}");

    // One that is aborted: the watcher says so.
    let shared: uuid::Uuid = sqlx::query_scalar("SELECT id FROM registry.databases WHERE kind = 'shared'")
        .fetch_one(&mut connect(platform.registry()).await)
        .await
        .unwrap();
    let (_, said, _) = command(&platform, &["move", "plan", "--from", &shared.to_string(), "--json"]).await;
    let planned: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&planned[0]["subdomain"], &planned[0]["moves"]), (&json!("got"), &json!(true)), "{planned}");
    serving.stop().await;
    let plan = ["move", "plan", "--from", &shared.to_string(), "--apply", "--json"];
    let (code, said, why) = command(&platform, &plan).await;
    let planned: Value = serde_json::from_str(&said).expect("JSON");
    assert!(code == Some(0) && planned[0]["move"].is_string(), "{planned}{why}");
    command(&platform, &["move", "abort", "got"]).await;
    let serving = Serving::start(&platform, &[]).await;
    let (code, _, why) = command(&platform, &["move", "watch", "got"]).await;
    assert!(code == Some(1) && why.contains("aborted"), "{why}");
    serving.stop().await;
    assert_eq!(got.admin.get("/api/v1/instruments").await.status, 200);
    until("nothing is left of it", async || {
        let live: i64 = sqlx::query_scalar("SELECT count(*) FROM registry.moves WHERE ended_at IS NULL")
            .fetch_one(&mut connect(platform.registry()).await)
            .await
            .unwrap();
        live == 0
    })
    .await;
}
