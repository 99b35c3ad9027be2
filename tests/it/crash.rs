//! `stagesub demo` killed: the server alone, its PostgreSQL alone, both. What was acknowledged is still there,
//! and the next start serves by itself.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::header::HOST;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use stagesub_tests::program;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Longest that a start, or PostgreSQL's coming back, may take before it has failed.
const DEADLINE: Duration = Duration::from_secs(90);

/// A demo's data and what is left running on it.
struct Demo {
    dir: PathBuf,
    port: u16,
}

/// Nothing outlives the test, however it ends. A failure shows the end of what the server logged.
impl Drop for Demo {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            println!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        if let Some(pid) = self.postgres() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
        let _ = std::fs::remove_file(self.log());
    }
}

/// A demo that said that it is ready.
struct Running {
    child: Child,
    facts: Value,
}

impl Demo {
    fn new() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // PostgreSQL runs as another user when we are root, and must be able to enter.
        let dir = std::env::temp_dir().join(format!("stagesub-crash-{}", std::process::id()));
        Self { dir, port }
    }

    /// Starts it and waits for its one line.
    async fn start(&self) -> Running {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = program::command().await;
        command
            .args(["demo", "--json", "--listen", &format!("127.0.0.1:{}", self.port), "--data-dir"])
            .arg(&self.dir)
            // It writes and reads as fast as it can, from one address.
            .env("STAGESUB_REQUESTS_PER_ADDRESS", "0")
            .env("STAGESUB_REQUESTS_PER_TENANT", "0")
            .env("STAGESUB_TENANT_REQUESTS_AT_ONCE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let begun = Instant::now();
        let mut child = command.spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(DEADLINE, lines.next_line()).await.expect("it is ready in time").unwrap();
        let line = line.expect("it says that it is ready before it ends");
        let facts: Value = serde_json::from_str(&line).expect("it is a line of JSON");
        assert_eq!(facts["ready"], true, "{facts}");
        println!("ready after {} ms", begun.elapsed().as_millis());
        Running { child, facts }
    }

    /// Runs a command on this demo, beside whatever serves it.
    async fn beside(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = program::command().await;
        command.args(arguments).args(["--demo", "--data-dir"]).arg(&self.dir);
        timeout(DEADLINE, command.output()).await.expect("it ends in time").expect("the program starts")
    }

    fn log(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    fn postgres(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.dir.join("pgdata/postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok().map(Pid::from_raw)
    }
}

impl Running {
    async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    async fn stop(mut self) {
        let pid = i32::try_from(self.child.id().expect("it runs")).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        let ended = timeout(DEADLINE, self.child.wait()).await.expect("it stops in time").unwrap();
        assert!(ended.success(), "{ended}");
    }

    /// A client of each of its orchestras, signed in as its administrator.
    async fn orchestras(&self, port: u16) -> Vec<Orchestra> {
        let mut all = Vec::new();
        for tenant in self.facts["tenants"].as_array().unwrap() {
            let host = format!("{}.localhost", tenant["subdomain"].as_str().unwrap());
            let mut orchestra = Orchestra {
                http: program::http().build().expect("a client"),
                port,
                host,
                token: String::new(),
            };
            let admin = &tenant["admin"];
            let login = json!({ "email": admin["email"], "password": admin["password"] });
            let answer = orchestra.post("/api/v1/auth/login", &login).await.expect("it answers");
            answer["accessToken"]
                .as_str()
                .expect("it lets its administrator in")
                .clone_into(&mut orchestra.token);
            all.push(orchestra);
        }
        assert_eq!(all.len(), 3);
        all
    }
}

#[derive(Clone)]
struct Orchestra {
    http: reqwest::Client,
    port: u16,
    host: String,
    token: String,
}

impl Orchestra {
    fn request(&self, method: http::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("http://127.0.0.1:{}{path}", self.port));
        request.header(HOST, &self.host).bearer_auth(&self.token).timeout(Duration::from_secs(20))
    }

    /// The body of a success; `None` for everything else.
    async fn answer(request: reqwest::RequestBuilder) -> Option<Value> {
        let answer = request.send().await.ok()?;
        if answer.status().is_success() { answer.json().await.ok() } else { None }
    }

    async fn post(&self, path: &str, body: &Value) -> Option<Value> {
        Self::answer(self.request(http::Method::POST, path).json(body)).await
    }

    /// The first answer that is not 503.
    async fn ask_while_unavailable(&self, path: &str) -> (http::StatusCode, String) {
        let mut ticks = interval(Duration::from_millis(200));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let answer = self.request(http::Method::GET, path).send().await.expect("it answers");
            let status = answer.status();
            if status != http::StatusCode::SERVICE_UNAVAILABLE {
                return (status, answer.text().await.expect("a body"));
            }
            assert!(answer.headers().contains_key("retry-after"), "when to come again is told");
        }
    }
}

/// What writers were told is kept: whose, and which.
type Acknowledged = Vec<(usize, String, String)>;

/// Writes to every orchestra until told to stop, and does `strike` in the midst of it.
async fn write_through(orchestras: &[Orchestra], round: &str, strike: impl AsyncFnOnce()) -> Acknowledged {
    let stop = Arc::new(AtomicBool::new(false));
    let enough = Arc::new(Notify::new());
    let count = Arc::new(AtomicUsize::new(0));
    let mut writers = Vec::new();
    for writer in 0..6 {
        let (stop, enough, count) = (Arc::clone(&stop), Arc::clone(&enough), Arc::clone(&count));
        let which = writer % orchestras.len();
        let (orchestra, round) = (orchestras[which].clone(), round.to_owned());
        writers.push(tokio::spawn(async move {
            let mut kept = Acknowledged::new();
            let mut n = 0;
            while !stop.load(Ordering::Acquire) {
                n += 1;
                let email = format!("{round}-{writer}-{n}@crash.example");
                let body = json!({ "firstName": "Åsa", "lastName": "Crash", "email": email });
                if let Some(made) = orchestra.post("/api/v1/musicians", &body).await {
                    kept.push((which, made["id"].as_str().unwrap().to_owned(), email));
                    if count.fetch_add(1, Ordering::AcqRel) + 1 == 30 {
                        enough.notify_one();
                    }
                }
            }
            kept
        }));
    }
    timeout(DEADLINE, enough.notified()).await.expect("writes are acknowledged");
    strike().await;
    stop.store(true, Ordering::Release);
    let mut all = Acknowledged::new();
    for writer in writers {
        all.extend(writer.await.unwrap());
    }
    all
}

async fn assert_kept(orchestras: &[Orchestra], acknowledged: &Acknowledged) {
    for (which, id, email) in acknowledged {
        // A database that went away is left alone for some seconds; each answer says so.
        let path = format!("/api/v1/musicians/{id}");
        let asked = timeout(DEADLINE, orchestras[*which].ask_while_unavailable(&path));
        let (status, body) = asked.await.expect("it is served again in time");
        assert_eq!(status, 200, "{id} ({email}) was acknowledged: {body}");
        let found: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(found["email"], *email, "{id} is somebody else");
    }
}

/// Asks until the server can serve.
async fn ready(port: u16) {
    let http = program::http().build().expect("a client");
    let mut ticks = interval(Duration::from_millis(50));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let serving = async {
        loop {
            ticks.tick().await;
            let probe = http.get(format!("http://127.0.0.1:{port}/readyz")).timeout(Duration::from_secs(5));
            if probe.send().await.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
        }
    };
    timeout(DEADLINE, serving).await.expect("it serves again in time");
}

fn data_survives(dir: &Path) -> bool {
    dir.join("pgdata/PG_VERSION").exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_every_kill_and_the_next_start_serves() {
    let demo = Demo::new();
    let mut server = demo.start().await;
    ready(demo.port).await;
    let orchestras = server.orchestras(demo.port).await;
    let mut placements: Vec<_> = server.facts["tenants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["placement"].as_str().unwrap())
        .collect();
    placements.sort_unstable();
    assert_eq!(placements, ["dedicated", "shared", "shared"]);

    // Another process works on it, with nothing said but where it is.
    let listed = demo.beside(&["tenant", "list", "--json"]).await;
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("a list of orchestras");
    assert_eq!(listed.as_array().map(Vec::len), Some(3), "{listed}");

    let examined = demo.beside(&["doctor", "--json"]).await;
    let examined: Value = serde_json::from_slice(&examined.stdout).expect("a report");
    assert_eq!((&examined["ok"], &examined["findings"]), (&json!(true), &json!([])), "a demo is sound");

    // The server alone. Its PostgreSQL goes on and is taken over.
    let mut acknowledged = write_through(&orchestras, "server", async || server.kill().await).await;
    let postgres = demo.postgres().expect("PostgreSQL outlived its server");
    let mut server = demo.start().await;
    assert_eq!(demo.postgres(), Some(postgres), "it was taken over, not started anew");
    ready(demo.port).await;
    let orchestras = server.orchestras(demo.port).await;
    assert_kept(&orchestras, &acknowledged).await;

    // PostgreSQL alone. The same server serves again by itself.
    let struck = write_through(&orchestras, "postgres", async || {
        kill(postgres, Signal::SIGKILL).unwrap();
        let mut ticks = interval(Duration::from_millis(20));
        let back = async {
            while demo.postgres().is_none_or(|pid| pid == postgres) {
                ticks.tick().await;
            }
        };
        timeout(DEADLINE, back).await.expect("PostgreSQL is started again");
        ready(demo.port).await;
    })
    .await;
    acknowledged.extend(struck);
    assert_kept(&orchestras, &acknowledged).await;
    assert!(server.child.try_wait().unwrap().is_none(), "the server went on");

    // Both at once.
    let postgres = demo.postgres().expect("PostgreSQL runs");
    let struck = write_through(&orchestras, "both", async || {
        kill(postgres, Signal::SIGKILL).unwrap();
        server.kill().await;
    })
    .await;
    acknowledged.extend(struck);
    assert!(data_survives(&demo.dir));
    let server = demo.start().await;
    ready(demo.port).await;
    let orchestras = server.orchestras(demo.port).await;
    assert_kept(&orchestras, &acknowledged).await;
    println!("{} acknowledged writes outlived three kills", acknowledged.len());

    // Told to stop, it stops everything that it started.
    server.stop().await;
    assert!(demo.postgres().is_none_or(|pid| kill(pid, None).is_err()), "PostgreSQL was stopped too");
    let told = demo.beside(&["tenant", "list"]).await;
    assert_eq!(told.status.code(), Some(1));
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("does not run") && told.contains("stagesub demo"), "{told}");
}
