//! Clients of server processes: each makes projects, or looks for one that was made.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::HOST;
use serde_json::{Value, json};
use sqlx::PgConnection;
use stagesub_tenancy::TenantId;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::record::{Entry, Found, History, Outcome, Read, Write};
use crate::Orchestra;
use crate::program;

/// Longest that an answer may take, and that writers are waited for.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long each client waits between two requests: less than a cutover takes. What they make is copied and compared by
/// every move after it, on a machine that they leave something of.
const REST: Duration = Duration::from_millis(10);

/// Clients at work.
#[derive(Debug)]
pub struct WebClients {
    stop: Arc<AtomicBool>,
    kept: watch::Receiver<Vec<i64>>,
    tasks: JoinSet<WebHistory>,
}

/// What clients of servers did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebHistory {
    /// What each was told.
    pub history: History,
    /// How often each status was answered.
    pub statuses: BTreeMap<u16, usize>,
    /// Answers of 500 and above, and requests without an answer.
    pub failed: Vec<String>,
}

/// One client.
#[derive(Debug, Clone)]
struct Client {
    http: reqwest::Client,
    at: SocketAddr,
    node: usize,
    host: String,
    token: String,
    stop: Arc<AtomicBool>,
    /// The last project that each writer was told of.
    made: Arc<Mutex<BTreeMap<i32, (i64, String)>>>,
}

impl WebClients {
    /// Lets so many writers, and one reader, work at each server as an orchestra's administrator.
    #[must_use]
    pub fn start(servers: &[SocketAddr], orchestra: &Orchestra, writers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, kept) = watch::channel(vec![0; servers.len() * writers]);
        let tell = Arc::new(tell);
        let made = Arc::default();
        let mut tasks = JoinSet::new();
        let mut writer = 0;
        for (node, at) in servers.iter().enumerate() {
            let client = Client {
                http: program::http().timeout(PATIENCE).build().expect("a client"),
                at: *at,
                node,
                host: orchestra.host.clone(),
                token: orchestra.admin.token().expect("signed in").to_owned(),
                stop: Arc::clone(&stop),
                made: Arc::clone(&made),
            };
            for _ in 0..writers {
                writer += 1;
                tasks.spawn(client.clone().write(writer, Arc::clone(&tell)));
            }
            tasks.spawn(client.read());
        }
        Self { stop, kept, tasks }
    }

    /// Waits until each writer was told `more` times from now that a project is made.
    pub async fn write_on(&self, more: i64) {
        let mut kept = self.kept.clone();
        let wanted: Vec<i64> = kept.borrow().iter().map(|kept| kept + more).collect();
        let all = kept.wait_for(|kept| kept.iter().zip(&wanted).all(|(kept, wanted)| kept >= wanted));
        let all = timeout(PATIENCE, all).await;
        assert!(all.is_ok_and(|all| all.is_ok()), "writers get on: {:?}, not {wanted:?}", self.kept.borrow());
    }

    /// Lets each finish what it does; what all of them did.
    pub async fn stop(mut self) -> WebHistory {
        self.stop.store(true, Ordering::Release);
        let mut all = WebHistory::default();
        while let Some(part) = self.tasks.join_next().await {
            let part = part.expect("a client does not fail");
            all.history.merge(part.history);
            for (status, times) in part.statuses {
                *all.statuses.entry(status).or_default() += times;
            }
            all.failed.extend(part.failed);
        }
        all
    }
}

impl WebHistory {
    fn told(&mut self, what: &str, status: StatusCode, body: &Value) {
        *self.statuses.entry(status.as_u16()).or_default() += 1;
        if status.is_server_error() {
            self.failed.push(format!("{what}: {status} {body}"));
        }
    }
}

impl Client {
    async fn write(self, writer: i32, tell: Arc<watch::Sender<Vec<i64>>>) -> WebHistory {
        let mut all = WebHistory::default();
        let mut number = 0;
        while !self.stop.load(Ordering::Acquire) {
            sleep(REST).await;
            number += 1;
            let entry = Entry { writer, number };
            let body = json!({ "name": name_of(entry), "startDate": "2027-03-01" });
            let began = Instant::now();
            let answer = self.ask(http::Method::POST, "projects", Some(&body)).await;
            let outcome = match answer {
                Ok((StatusCode::CREATED, body)) => {
                    all.told("a project", StatusCode::CREATED, &body);
                    let id = body["id"].as_str().expect("an id").to_owned();
                    self.made.lock().expect("nobody panics with it").insert(writer, (number, id));
                    let at = usize::try_from(writer - 1).expect("writers are numbered from 1");
                    tell.send_modify(|kept| kept[at] += 1);
                    Outcome::Acknowledged
                }
                Ok((status, body)) => {
                    all.told("a project", status, &body);
                    let unknown = body["type"].as_str().is_some_and(|kind| kind.ends_with(":commit-unknown"));
                    if unknown { Outcome::Unknown } else { Outcome::Refused(status.as_u16().to_string()) }
                }
                Err(error) => {
                    all.failed.push(error);
                    Outcome::Unknown
                }
            };
            // After it was shown to readers: what they look for is the last that was acknowledged before.
            let ended = Instant::now();
            all.history.writes.push(Write { entry, node: self.node, began, ended, outcome, database: None });
        }
        all
    }

    /// Looks for the last projects that were made, at whichever server.
    async fn read(self) -> WebHistory {
        let mut all = WebHistory::default();
        let mut turn: i32 = 0;
        while !self.stop.load(Ordering::Acquire) {
            sleep(REST).await;
            turn = turn.wrapping_add(1);
            let began = Instant::now();
            let made = self.made.lock().expect("nobody panics with it").clone();
            let Some((writer, (number, id))) =
                made.into_iter().max_by_key(|(writer, _)| turn.wrapping_add(*writer).rem_euclid(8))
            else {
                continue;
            };
            match self.ask(http::Method::GET, &format!("projects/{id}"), None).await {
                Ok((status, body)) => {
                    all.told("a look", status, &body);
                    let ended = Instant::now();
                    let entry = Entry { writer, number };
                    let last = match status {
                        StatusCode::OK if body["name"] == name_of(entry) => number,
                        StatusCode::OK | StatusCode::NOT_FOUND => 0,
                        status => {
                            all.history.refused_reads.push((began, status.as_u16().to_string()));
                            continue;
                        }
                    };
                    all.history.reads.push(Read {
                        node: self.node,
                        began,
                        entered: ended,
                        ended,
                        database: None,
                        last: BTreeMap::from([(writer, last)]),
                        counted: BTreeMap::new(),
                    });
                }
                Err(error) => {
                    all.failed.push(error);
                    all.history.refused_reads.push((began, "no answer".to_owned()));
                }
            }
        }
        all
    }

    async fn ask(
        &self,
        method: http::Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), String> {
        let url = format!("http://{}/api/v1/{path}", self.at);
        let mut request = self.http.request(method, url).header(HOST, &self.host).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| format!("{path}: {error}"))?;
        let status = answer.status();
        let body = answer.json().await.map_err(|error| format!("{path}: {status}: {error}"))?;
        Ok((status, body))
    }
}

fn name_of(entry: Entry) -> String {
    format!("history {} {}", entry.writer, entry.number)
}

/// The projects of a tenant that clients made, as the administrator sees them.
pub async fn found(conn: &mut PgConnection, tenant: TenantId) -> Found {
    let names: Vec<(String, i64)> = sqlx::query_as(
        "SELECT name, count(*) FROM tenant.project WHERE tenant_id = $1 AND name LIKE 'history %' GROUP BY name",
    )
    .bind(tenant.as_uuid())
    .fetch_all(conn)
    .await
    .expect("projects can be read");
    let entry = |(name, times): (String, i64)| {
        let mut words = name.split(' ').skip(1);
        let mut number = || words.next().and_then(|word| word.parse::<i64>().ok()).expect("two numbers");
        let writer = i32::try_from(number()).expect("a small number");
        (Entry { writer, number: number() }, usize::try_from(times).expect("a count"))
    };
    Found { entries: names.into_iter().map(entry).collect(), ..Found::default() }
}
