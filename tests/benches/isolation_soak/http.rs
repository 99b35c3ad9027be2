//! The operations over HTTP, at both servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ::http::header::HOST;
use ::http::{Method, StatusCode};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use stagesub_tests::program;
use stagesub_tests::serve::Server;
use stagesub_tests::storm::{Seen, polled};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::judge::{number, rows};
use crate::ledger::Ledger;
use crate::one_more;
use crate::stage::{House, Stage};

/// Longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked, by its name in the table.
pub(crate) const KINDS: [&str; 11] = [
    "list",
    "show",
    "create a musician",
    "change a musician",
    "create a project",
    "delete a project",
    "create twice (409)",
    "another's id (404)",
    "another's token (401)",
    "no token (401)",
    "delete what is not there (404)",
];

/// The operations over HTTP.
pub(crate) struct Web {
    stage: Arc<Stage>,
    servers: Vec<(SocketAddr, reqwest::Client)>,
    /// Requests that there are to be.
    pub(crate) wanted: u64,
    /// Requests that were sent whole.
    pub(crate) sent: AtomicU64,
    /// Requests that were begun, sent whole or not.
    pub(crate) begun: AtomicU64,
    /// Connections that were dropped in the middle of a request or its answer.
    pub(crate) dropped: AtomicU64,
    /// Answers, by what was asked.
    pub(crate) answered: [AtomicU64; KINDS.len()],
    /// What was seen in answers.
    pub(crate) seen: Seen,
    next: AtomicU64,
}

/// One request.
struct Ask<'s> {
    kind: usize,
    house: &'s House,
    method: Method,
    path: String,
    body: Option<Value>,
    token: Option<Arc<str>>,
    expected: StatusCode,
    effect: Effect,
}

/// What it does if it is answered as expected.
enum Effect {
    None,
    /// There is a musician of this address.
    Musician(String),
    /// There is a project.
    Project,
    /// The project of that number is gone.
    Removed(i64),
}

/// What became of a request: the answer's status and body, unless somebody went away.
enum Outcome {
    Answered(StatusCode, Vec<u8>),
    Dropped,
}

/// What one task made.
#[derive(Default)]
struct Made {
    ledger: Ledger,
    musicians: Vec<(usize, String)>,
    projects: Vec<(usize, String)>,
}

impl Web {
    /// At these servers.
    pub(crate) fn new(stage: &Arc<Stage>, servers: &[Server], wanted: u64) -> Self {
        let client = || program::http().timeout(PATIENCE).build().expect("a client");
        Self {
            stage: Arc::clone(stage),
            servers: servers.iter().map(|server| (server.address, client())).collect(),
            wanted,
            sent: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            answered: std::array::from_fn(|_| AtomicU64::new(0)),
            seen: Seen::default(),
            next: AtomicU64::new(0),
        }
    }

    /// Works until enough was sent.
    pub(crate) async fn work(self: Arc<Self>, seed: u64, stop: Arc<AtomicBool>) -> Ledger {
        let mut random = StdRng::seed_from_u64(seed ^ 0x4854_5450);
        let mut made = Made::default();
        while one_more(&self.sent, self.wanted, &stop) {
            let which = random.random_range(0..self.stage.houses.len());
            let ask = self.choose(which, &mut made, &mut random);
            Seen::count(&self.begun);
            let server = &self.servers[random.random_range(0..self.servers.len())];
            match self.send(&ask, server, &mut random).await {
                Ok(Outcome::Answered(status, body)) => {
                    Seen::count(&self.answered[ask.kind]);
                    self.judge(which, ask, status, &body, &mut made);
                }
                Ok(Outcome::Dropped) => {
                    Seen::count(&self.dropped);
                    let tenant = ask.house.tenant();
                    match ask.effect {
                        Effect::Musician(email) => made.ledger.doubtful_musicians.push((tenant, email)),
                        Effect::Removed(no) => made.ledger.doubtful_projects.push((tenant, no)),
                        Effect::Project | Effect::None => {}
                    }
                }
                Err(error) => self.seen.surprise(format!("{} {}: {error}", ask.method, ask.path)),
            }
        }
        for (which, id) in made.projects {
            let no = number(&id).expect("an id that was told ends with a number");
            made.ledger.projects.push((self.stage.houses[which].tenant(), no));
        }
        made.ledger
    }

    fn choose(&self, which: usize, made: &mut Made, random: &mut StdRng) -> Ask<'_> {
        let house = &self.stage.houses[which];
        let canary = &house.guest.canary;
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let mut ask = Ask {
            kind: 0,
            house,
            method: Method::GET,
            path: String::new(),
            body: None,
            token: Some(house.token()),
            expected: StatusCode::OK,
            effect: Effect::None,
        };
        match random.random_range(0..100) {
            0..30 => {
                let lists = ["musicians?limit=20", "instruments", "projects?limit=20", "positions"];
                lists[random.random_range(0..lists.len())].clone_into(&mut ask.path);
            }
            30..52 => (ask.kind, ask.path) = (1, self.musician(which, made, random)),
            52..64 => {
                let email = format!("web-{n}@{canary}.example");
                ask.kind = 2;
                create_musician(&mut ask, &email, StatusCode::CREATED);
                ask.effect = Effect::Musician(email);
            }
            64..74 => {
                (ask.kind, ask.path, ask.method) = (3, self.musician(which, made, random), Method::PATCH);
                ask.body = Some(json!({ "notes": format!("{canary} {n}") }));
            }
            74..80 => {
                (ask.kind, ask.method, ask.path) = (4, Method::POST, "projects".to_owned());
                ask.body = Some(json!({ "name": format!("{canary} web {n}"), "startDate": "2027-03-01" }));
                (ask.expected, ask.effect) = (StatusCode::CREATED, Effect::Project);
            }
            80..85 => {
                // One that this task made, or else one that is not there.
                let own = made.projects.iter().position(|(of, _)| *of == which);
                ask.method = Method::DELETE;
                if let Some((_, id)) = own.map(|at| made.projects.swap_remove(at)) {
                    (ask.kind, ask.expected) = (5, StatusCode::NO_CONTENT);
                    ask.path = format!("projects/{id}");
                    ask.effect = Effect::Removed(number(&id).expect("an id ends with a number"));
                } else {
                    (ask.kind, ask.expected) = (10, StatusCode::NOT_FOUND);
                    ask.path = format!("projects/{}-PROJ-999999", house.orchestra.code);
                }
            }
            85..89 => {
                ask.kind = 6;
                let (_, email) = &house.musicians[random.random_range(0..house.musicians.len())];
                create_musician(&mut ask, email, StatusCode::CONFLICT);
            }
            89..94 => {
                let other = self.other(which, random);
                let methods = [Method::GET, Method::PATCH, Method::DELETE];
                (ask.kind, ask.expected) = (7, StatusCode::NOT_FOUND);
                ask.method = methods[random.random_range(0..methods.len())].clone();
                ask.path = self.musician(other, made, random);
                ask.body = (ask.method == Method::PATCH).then(|| json!({ "notes": format!("{canary} {n}") }));
            }
            94..98 => {
                (ask.kind, ask.expected) = (8, StatusCode::UNAUTHORIZED);
                ask.path = self.musician(which, made, random);
                ask.token = Some(self.stage.houses[self.other(which, random)].token());
            }
            _ => {
                (ask.kind, ask.expected, ask.token) = (9, StatusCode::UNAUTHORIZED, None);
                "musicians".clone_into(&mut ask.path);
            }
        }
        ask
    }

    /// A musician of a tenant: one that this task made, or one of the first.
    fn musician(&self, which: usize, made: &Made, random: &mut StdRng) -> String {
        let newest = made.musicians.iter().rev().take(100).find(|(of, _)| *of == which);
        let first = &self.stage.houses[which].musicians;
        match newest {
            Some((_, id)) if random.random::<bool>() => format!("musicians/{id}"),
            _ => format!("musicians/{}", first[random.random_range(0..first.len())].0),
        }
    }

    fn other(&self, which: usize, random: &mut StdRng) -> usize {
        (which + random.random_range(1..self.stage.houses.len())) % self.stage.houses.len()
    }

    /// Sends it. Two in three wait for the answer; the others go away before it is sent whole, once it is, after
    /// part of the answer, or wherever they happen to be.
    async fn send(
        &self,
        ask: &Ask<'_>,
        (address, client): &(SocketAddr, reqwest::Client),
        random: &mut StdRng,
    ) -> Result<Outcome, Box<dyn std::error::Error + Send + Sync>> {
        let whole = async {
            let mut request = client
                .request(ask.method.clone(), format!("http://{address}/api/v1/{}", ask.path))
                .header(HOST, &ask.house.orchestra.host);
            if let Some(token) = &ask.token {
                request = request.bearer_auth(token);
            }
            if let Some(body) = &ask.body {
                request = request.json(body);
            }
            let answer = request.send().await?;
            Ok(Outcome::Answered(answer.status(), answer.bytes().await?.to_vec()))
        };
        let outcome = match random.random_range(0..12) {
            0 => Box::pin(polled(random.random_range(1..=6), whole)).await.unwrap_or(Ok(Outcome::Dropped)),
            1..4 => return self.abandon(ask, *address, random).await,
            _ => whole.await,
        };
        if let Ok(Outcome::Answered(..)) = &outcome {
            Seen::count(&self.sent);
        }
        outcome
    }

    /// Sends it over a connection of its own and drops that.
    async fn abandon(
        &self,
        ask: &Ask<'_>,
        address: SocketAddr,
        random: &mut StdRng,
    ) -> Result<Outcome, Box<dyn std::error::Error + Send + Sync>> {
        let text = request_text(ask);
        let mut stream = TcpStream::connect(address).await?;
        match random.random_range(0..8) {
            0 => stream.write_all(&text.as_bytes()[..random.random_range(1..text.len())]).await?,
            1..6 => {
                stream.write_all(text.as_bytes()).await?;
                Seen::count(&self.sent);
                // Somewhere in the few milliseconds that an answer takes.
                match random.random_range(0..4) {
                    0 => {}
                    1 => tokio::time::sleep(Duration::from_millis(random.random_range(1..=3))).await,
                    _ => {
                        for _ in 0..random.random_range(1..30) {
                            tokio::task::yield_now().await;
                        }
                    }
                }
            }
            _ => {
                stream.write_all(text.as_bytes()).await?;
                Seen::count(&self.sent);
                let mut part = vec![0; random.random_range(1..2_000)];
                let read = tokio::time::timeout(PATIENCE, stream.read(&mut part)).await??;
                self.scan(&part[..read], ask.house);
            }
        }
        Ok(Outcome::Dropped)
    }

    /// Nothing that a tenant is told bears another's canary.
    fn scan(&self, text: &[u8], house: &House) {
        for _ in 0..house.guest.canary.others_in(text) {
            self.seen.row(false);
        }
    }

    fn judge(&self, which: usize, ask: Ask<'_>, status: StatusCode, body: &[u8], made: &mut Made) {
        self.scan(body, ask.house);
        if status != ask.expected {
            let text = String::from_utf8_lossy(body);
            let told = format!("{} {}: {status} instead of {}: {text}", ask.method, ask.path, ask.expected);
            if status == StatusCode::INTERNAL_SERVER_ERROR {
                return self.seen.poison(&told);
            }
            return self.seen.surprise(told);
        }
        let told: Value = serde_json::from_slice(body).unwrap_or_default();
        if status.is_success() && status != StatusCode::NO_CONTENT {
            rows(&told, ask.house, &self.seen);
        }
        let (tenant, id) = (ask.house.tenant(), || told["id"].as_str().unwrap_or_default().to_owned());
        match ask.effect {
            Effect::None => {}
            Effect::Musician(email) => {
                made.ledger.musicians.push((tenant, email));
                made.musicians.push((which, id()));
            }
            Effect::Project => made.projects.push((which, id())),
            Effect::Removed(no) => made.ledger.removed_projects.push((tenant, no)),
        }
    }
}

/// Makes it ask for a musician to be entered.
fn create_musician(ask: &mut Ask<'_>, email: &str, expected: StatusCode) {
    let canary = &ask.house.guest.canary;
    let body =
        json!({ "firstName": "Åsa", "lastName": canary.as_str(), "email": email, "notes": canary.as_str() });
    (ask.method, ask.path, ask.body, ask.expected) =
        (Method::POST, "musicians".to_owned(), Some(body), expected);
}

/// As a client writes it.
fn request_text(ask: &Ask<'_>) -> String {
    let (method, path, host) = (&ask.method, &ask.path, &ask.house.orchestra.host);
    let token = ask.token.as_ref().map(|token| format!("authorization: Bearer {token}\r\n"));
    let body = ask.body.as_ref().map(Value::to_string).unwrap_or_default();
    let head = match ask.body {
        Some(_) => format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()),
        None => String::new(),
    };
    let token = token.unwrap_or_default();
    format!("{method} /api/v1/{path} HTTP/1.1\r\nhost: {host}\r\n{token}{head}\r\n{body}")
}
