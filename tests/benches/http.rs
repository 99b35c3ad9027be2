//! A whole request, `GET /api/v1/musicians?limit=20`, by the platform and by a bare handler without tenancy.
//!
//! The platform is served by its own listener, with the bounds of connections and of what is slow. It finds the tenant by
//! the host, checks the token and the person's authority, counts the request by address and by tenant, opens its span as
//! the server's logs have it, and reads behind the fence.
//! The bare one is axum and sqlx as their guides show them: a pool, a handler, JSON; its sessions are bound to one
//! tenant for good, so that it may read the same rows. Both are served over TCP by the same threads.
//!
//! `cargo bench -p stagesub-tests --bench http`; with `-- quick` to see that it runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use stagesub_server::routes::build_router;
use stagesub_server::serving::{self, Stop, bind};
use stagesub_server::telemetry::{self, LogFormat};
use stagesub_tests::bench::ground::Ground;
use stagesub_tests::bench::plain::{LIST, Listed};
use stagesub_tests::bench::rounds::{Candidate, Cell, interleaved, warm};
use stagesub_tests::bench::{load, runtime};
use stagesub_tests::platform::TestPlatform;
use tikv_jemallocator::Jemalloc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use uuid::Uuid;

/// The product's.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Connections of clients, each with one request at a time.
const CLIENTS: usize = 32;
/// Connections of either pool: what the test platform has.
const CONNECTIONS: u32 = 10;

const PLATFORM: &str = "the platform";
const BARE: &str = "axum and sqlx, no tenancy";

fn main() {
    let quick = std::env::args().any(|argument| argument == "quick");
    // Short ones, and many: what else the machine does then falls on both.
    let (rounds, time) = if quick { (2, 200) } else { (61, 400) };
    // As served. Nothing is logged of a request that is answered; its span is kept for what would be.
    let _telemetry = telemetry::install(None, LogFormat::default()).expect("nobody else logs");
    runtime(2).block_on(async {
        let ground = Ground::lay().await;
        let [bound, _] = ground.bench_logins().await;

        let platform = serve_as_platform(build_router(ground.platform.state().clone())).await;
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect_with(bound.to_connect_options());
        let state = Bare { pool: pool.await.expect("the pool opens"), tenant: ground.scopes[0].tenant_id().as_uuid() };
        let bare = serve(Router::new().route("/api/v1/musicians", get(list)).with_state(state)).await;

        // Each client is a member of one of several orchestras, as the clients of a platform are.
        let requests = ground.scopes.iter().zip(&ground.tokens).map(|(scope, token)| {
            let host = format!("{}.{}", scope.tenant().subdomain, TestPlatform::DOMAIN);
            format!(
                "GET /api/v1/musicians?limit=20 HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\r\n"
            )
        });
        let requests: Arc<[String]> = requests.collect();
        let candidates = [client(BARE, bare, &requests).await, client(PLATFORM, platform, &requests).await];
        println!("load {} at the beginning", load());
        warm(&candidates, CLIENTS, Duration::from_millis(time)).await;
        let span = (rounds, CLIENTS, Duration::from_millis(time));
        let measured = interleaved(&candidates, span, &ground.meter().await).await;
        println!(
            "{}",
            measured.table(&format!("GET /api/v1/musicians?limit=20, {CLIENTS} connections"), BARE)
        );
        let rate = measured.ratio(PLATFORM, BARE, |cell: &Cell| cell.rate);
        let p99 = measured.ratio(PLATFORM, BARE, |cell: &Cell| cell.p99);
        println!("medians over the rounds (and the least and most of any), load {} at the end", load());
        println!("  vs_bare     {rate}\n  p99_vs_bare {p99}");
        println!("RESULT vs_bare={:.3} p99_vs_bare={:.3}", rate.median, p99.median);
    });
}

#[derive(Clone)]
struct Bare {
    pool: PgPool,
    tenant: Uuid,
}

#[derive(Deserialize)]
struct Wanted {
    limit: i64,
    #[serde(default)]
    cursor: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    items: Vec<Listed>,
    next_cursor: Option<i64>,
}

/// The bare handler.
async fn list(State(bare): State<Bare>, Query(wanted): Query<Wanted>) -> Result<Json<Page>, StatusCode> {
    let rows = sqlx::query(LIST)
        .bind(bare.tenant)
        .bind(wanted.cursor)
        .bind(wanted.limit + 1)
        .fetch_all(&bare.pool)
        .await
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let items: Result<Vec<Listed>, sqlx::Error> = rows.iter().map(Listed::read).collect();
    let mut items = items.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let limit = usize::try_from(wanted.limit).map_err(|_| StatusCode::BAD_REQUEST)?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = if more { items.last().map(|item| item.no) } else { None };
    Ok(Json(Page { items, next_cursor }))
}

/// As `stagesub serve` serves.
async fn serve_as_platform(router: Router) -> SocketAddr {
    let listener = bind(([127, 0, 0, 1], 0).into()).await.expect("a port is free");
    let address = listener.local_addr().expect("it listens somewhere");
    tokio::spawn(async move {
        let served = serving::serve(listener, router, &Stop::default(), Duration::ZERO).await;
        served.expect("it serves until the process ends");
    });
    address
}

/// As a guide to axum has it.
async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
    let address = listener.local_addr().expect("it listens somewhere");
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    address
}

/// A client of so many connections that does little beside sending and receiving.
async fn client(name: &'static str, server: SocketAddr, requests: &Arc<[String]>) -> Candidate {
    let mut connections = Vec::new();
    for _ in 0..CLIENTS {
        let stream = TcpStream::connect(server).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket can be told not to wait");
        connections.push(Mutex::new((stream, Vec::with_capacity(16 * 1024))));
    }
    let (connections, requests): (Arc<[_]>, _) = (connections.into(), Arc::clone(requests));
    Candidate::new(name, move |task| {
        let (connections, requests) = (Arc::clone(&connections), Arc::clone(&requests));
        async move {
            let mut connection = connections[task].lock().await;
            let (stream, answer) = &mut *connection;
            let request = &requests[task % requests.len()];
            stream.write_all(request.as_bytes()).await.expect("the server takes it");
            answer.clear();
            loop {
                let read = stream.read_buf(answer).await.expect("the server answers");
                assert!(read > 0, "the server hung up: {}", String::from_utf8_lossy(answer));
                if is_whole(answer) {
                    return;
                }
            }
        }
    })
}

/// Whether the answer has come to its end; it must be the list.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = std::str::from_utf8(&answer[..end]).expect("a head is text");
    assert!(head.starts_with("HTTP/1.1 200"), "{}", String::from_utf8_lossy(answer));
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let length: usize = length.expect("a length");
    assert!(length > 20 * 200, "twenty musicians: {}", String::from_utf8_lossy(answer));
    answer.len() == end + 4 + length
}
