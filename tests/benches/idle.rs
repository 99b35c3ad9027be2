//! What the server keeps of the machine's memory while nothing is asked of it. On Linux, which tells it.
//!
//!     cargo bench -p stagesub-tests --bench idle
//!
//! `stagesub serve` runs on a platform with two orchestras. Once it is ready, both administrators and the platform's
//! sign in, one after the other and then at once, so that passwords were hashed as wide as they are, and read a list
//! and the documentation. Then it is left alone. The demo's own process, without its Postgres, is measured likewise.
//! `--seconds N` says how long it is left alone.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use futures::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Client;
use reqwest::header::HOST;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use stagesub_tests::bench::{load, resident_mib, runtime};
use stagesub_tests::cluster::keys_text;
use stagesub_tests::{Kept, TestPlatform, program};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Longest that a start or a stop may take.
const DEADLINE: Duration = Duration::from_mins(2);

fn main() {
    let seconds = seconds();
    let (serve, demo) = runtime(2).block_on(async {
        println!("load {} at the beginning", load());
        let serve = serve(seconds).await;
        (serve, demo(seconds).await)
    });
    println!("{:<16} {:>8} {:>8} {:>8} {:>8}", "resident, MiB", "ready", "used", "idle", "threads");
    for (name, seen) in [("stagesub serve", &serve), ("stagesub demo", &demo)] {
        println!("{name:<16} {:>8.1} {:>8.1} {:>8.1} {:>8}", seen.ready, seen.used, seen.idle, seen.threads);
    }
    println!("load {} at the end", load());
    println!("RESULT idle_rss_mib={:.1} demo_idle_rss_mib={:.1}", serve.idle, demo.idle);
}

/// How long to leave it alone.
fn seconds() -> Duration {
    let mut words = std::env::args().skip(1);
    let mut seconds = 20;
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seconds" => {
                seconds = words.next().and_then(|number| number.parse().ok()).expect("--seconds N");
            }
            // cargo's own.
            "--bench" => {}
            other => panic!("{other} is no argument of this bench"),
        }
    }
    Duration::from_secs(seconds)
}

/// Resident memory, in MiB, and how many threads there were in the end.
struct Seen {
    ready: f64,
    used: f64,
    idle: f64,
    threads: usize,
}

/// Somebody who may sign in.
struct Person {
    host: String,
    email: String,
    password: String,
}

async fn serve(idle: Duration) -> Seen {
    let platform = TestPlatform::start().await;
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let superadmin = platform.superadmin_login();
    let mut people = vec![Person {
        host: TestPlatform::DOMAIN.to_owned(),
        email: text(&superadmin["email"]),
        password: text(&superadmin["password"]),
    }];
    for kept in Kept::ALL {
        let orchestra = platform.orchestra(kept, &format!("idle-{kept}")).await;
        for n in 0..40 {
            let musician = json!({ "firstName": "Anna", "lastName": format!("Berg{n}"), "email": format!("a{n}@x.example") });
            orchestra.admin.post("/api/v1/musicians", &musician).await.expect(201);
        }
        people.push(Person {
            host: orchestra.host.clone(),
            email: orchestra.admin_email(),
            password: orchestra.admin_password().to_owned(),
        });
    }
    let mut command = program::command().await;
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--json"])
        .env("DATABASE_URL", platform.registry().to_url().expose_secret())
        .env("STAGESUB_KEYS", keys_text().expose_secret())
        .env("JWT_SECRET", TestPlatform::JWT_SECRET)
        .env("APP_DOMAIN", TestPlatform::DOMAIN)
        .env("STAGESUB_LOG", "warn");
    let (child, facts) = start(command).await;
    let seen = watch(&child, &format!("http://{}", text(&facts["listen"])), &people, idle).await;
    stop(child).await;
    seen
}

async fn demo(idle: Duration) -> Seen {
    // Postgres runs as another user when we are root, and must be able to enter.
    let dir = Dir(std::env::temp_dir().join(format!("stagesub-idle-{}", std::process::id())));
    let mut command = program::command().await;
    command.args(["demo", "--json", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&dir.0);
    command.env("STAGESUB_LOG", "warn");
    let (child, facts) = start(command).await;
    let person = |host: &str, login: &Value| Person {
        host: host.to_owned(),
        email: login["email"].as_str().expect("an address").to_owned(),
        password: login["password"].as_str().expect("a password").to_owned(),
    };
    let mut people = vec![person("localhost", &facts["superadmin"])];
    for tenant in facts["tenants"].as_array().expect("its orchestras") {
        let host = format!("{}.localhost", tenant["subdomain"].as_str().expect("a subdomain"));
        people.push(person(&host, &tenant["admin"]));
    }
    let apex = facts["apex"].as_str().expect("an address");
    let seen = watch(&child, &apex.replace("localhost", "127.0.0.1"), &people, idle).await;
    stop(child).await;
    seen
}

/// A directory that goes with whoever made it.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            println!("{} is left: {error}", self.0.display());
        }
    }
}

/// Starts it, and what it says once it is ready.
async fn start(mut command: Command) -> (Child, Value) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let line = timeout(DEADLINE, lines.next_line()).await.expect("it is ready in time").expect("a line");
    let line = line.expect("it says that it is ready before it ends");
    (child, serde_json::from_str(&line).expect("a line of JSON"))
}

async fn stop(mut child: Child) {
    let pid = i32::try_from(child.id().expect("it runs")).expect("a process id");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it can be signalled");
    let ended = timeout(DEADLINE, child.wait()).await.expect("it stops in time").expect("it ends");
    assert!(ended.success(), "{ended}");
}

/// Uses it, leaves it alone, and looks at its memory in between.
async fn watch(child: &Child, base: &str, people: &[Person], idle: Duration) -> Seen {
    let pid = child.id().expect("it runs");
    let http = program::http().build().expect("a client");
    let ready = http.get(format!("{base}/readyz")).send().await.expect("it answers");
    assert!(ready.status().is_success(), "{ready:?}");
    let ready = resident_mib(pid);
    for person in people {
        use_it(&http, base, person).await;
    }
    join_all(people.iter().map(|person| use_it(&http, base, person))).await;
    let used = resident_mib(pid);
    drop(http);
    tokio::time::sleep(idle).await;
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("Linux lists threads").count();
    Seen { ready, used, idle: resident_mib(pid), threads }
}

/// Signs in and reads.
async fn use_it(http: &Client, base: &str, person: &Person) {
    let login = json!({ "email": person.email, "password": person.password });
    let answer =
        http.post(format!("{base}/api/v1/auth/login")).header(HOST, &person.host).json(&login).send();
    let answer = answer.await.expect("it answers");
    assert!(answer.status().is_success(), "{answer:?}");
    let answer: Value = answer.json().await.expect("a body of JSON");
    let token = answer["accessToken"].as_str().expect("an access token");
    let paths: &[&str] = if person.host.split('.').count() < 3 && !person.host.ends_with(".localhost") {
        &["/api/v1/platform/tenants", "/api/openapi.json", "/api/docs/"]
    } else {
        &["/api/v1/musicians?limit=20", "/api/v1/instruments"]
    };
    for path in paths {
        let answer = http.get(format!("{base}{path}")).header(HOST, &person.host).bearer_auth(token);
        let answer = answer.send().await.expect("it answers");
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        answer.bytes().await.expect("a body");
    }
}
