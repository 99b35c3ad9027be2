//! The listener: binding it, serving on it within bounds, stopping within a bound.
//!
//! axum's own `serve` has no bounds: whoever opens connections and sends nothing holds them for ever.

mod peers;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Request, header};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use stagesub_tenancy::TrustedProxies;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use self::peers::{Conversation, Peers};
use crate::config::ConnectionSettings;
use crate::problem::Problem;

/// How long the listener rests when the system gives it no connection: usually there are too many open files,
/// and asking again at once would only burn a core.
const REST: Duration = Duration::from_secs(1);

/// Most that is kept of what a connection sends before it is taken, the head of a request included. A longer head
/// is answered 431.
const BUFFER_BYTES: usize = 64 * 1024;

/// Peers with too many connections that are told so at one time; others are only hung up on.
const REFUSED_AT_ONCE: usize = 32;

/// Longest that telling it may take.
const REFUSAL: Duration = Duration::from_secs(2);

/// The server could not begin or go on listening.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Another process listens there.
    #[error(
        "{address} is in use by another process; stop that one, or name another address with --listen or STAGESUB_LISTEN"
    )]
    Taken {
        /// Where.
        address: SocketAddr,
    },
    /// The system does not let this process listen there.
    #[error(
        "cannot listen on {address}; name an address of this machine and a port that this user may use with --listen or STAGESUB_LISTEN"
    )]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The figures cannot be given there.
    #[error("cannot listen on {address} for metrics; name another address with STAGESUB_METRICS_LISTEN")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system gives no signals or no listener to this process.
    #[error("the operating system refused {what}")]
    System {
        /// What was asked of it.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Takes the address. Done before anything slow, so that a taken port is told at once.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::Taken { address },
        _ => ServeError::Bind { address, source },
    })
}

/// The same for the figures, where they are wanted; told apart from the address that the API is served on.
pub async fn bind_metrics(address: Option<SocketAddr>) -> Result<Option<TcpListener>, ServeError> {
    let Some(address) = address else { return Ok(None) };
    TcpListener::bind(address).await.map(Some).map_err(|source| ServeError::Metrics { address, source })
}

/// Where a listener listens: with port 0, the port that the system chose.
pub fn local_address(listener: &TcpListener) -> Result<SocketAddr, ServeError> {
    listener.local_addr().map_err(|source| ServeError::System { what: "to tell where it listens", source })
}

/// The orders to stop: the first asks, the second insists.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Finish what is under way and stop.
    pub asked: CancellationToken,
    /// Stop now.
    pub insisted: CancellationToken,
}

impl Stop {
    /// Listens to SIGINT and SIGTERM from now on.
    pub fn on_signals() -> Result<Self, ServeError> {
        let listen = |kind| signal(kind).map_err(|source| ServeError::System { what: "signals", source });
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut terminate = listen(SignalKind::terminate())?;
        let stop = Self::default();
        let told = stop.clone();
        tokio::spawn(async move {
            either(&mut interrupt, &mut terminate).await;
            tracing::info!("stopping; a second signal stops at once");
            told.asked.cancel();
            either(&mut interrupt, &mut terminate).await;
            told.insisted.cancel();
        });
        Ok(stop)
    }
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Serves until told to stop; then takes no more connections and gives requests under way at most `grace`.
/// Connections are bounded as [`ConnectionSettings`] has it by default, and no proxy is trusted.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: &Stop,
    grace: Duration,
) -> Result<(), ServeError> {
    serve_within(listener, router, stop, grace, (ConnectionSettings::default(), &TrustedProxies::default()))
        .await
}

/// As [`serve`], with the bounds of connections. Of those that may be open one peer may have a quarter; who wants
/// more is told so (429) and hung up on. When all are taken, the peer that has most makes room for one who has fewer
/// with a connection on which it sends nothing, or is slow. Proxies that are trusted, and this machine itself, may
/// have all, and make no room.
pub async fn serve_within(
    listener: TcpListener,
    router: Router,
    stop: &Stop,
    grace: Duration,
    (settings, proxies): (ConnectionSettings, &TrustedProxies),
) -> Result<(), ServeError> {
    let peers = Peers::new((settings.most / 4).max(1), proxies.clone());
    serve_among(listener, router, stop, grace, (settings, peers)).await
}

async fn serve_among(
    listener: TcpListener,
    router: Router,
    stop: &Stop,
    grace: Duration,
    (settings, peers): (ConnectionSettings, Peers),
) -> Result<(), ServeError> {
    let open = Arc::new(Semaphore::new(usize::try_from(settings.most).unwrap_or(Semaphore::MAX_PERMITS)));
    let refusals = Arc::new(Semaphore::new(REFUSED_AT_ONCE));
    let graceful = GracefulShutdown::new();
    // Whatever this future's end is, no connection outlives it.
    let cut = CancellationToken::new();
    let _cut = cut.clone().drop_guard();
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = stop.asked.cancelled() => break,
            accepted = accept(&listener) => accepted,
        };
        let Some(counted) = peers.enter(peer.ip()) else {
            tracing::debug!(%peer, "a peer has too many connections and was hung up on");
            // Told while few are: a flood of those who want more is not worth a task each.
            if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
                let cut = cut.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = refuse(stream) => {}
                        () = cut.cancelled() => {}
                    }
                    drop(place);
                });
            }
            continue;
        };
        if open.available_permits() == 0 && peers.make_room(peer.ip()) {
            tracing::debug!(%peer, "every connection is taken; a peer with many lost one that it did not use");
        }
        // While this one waits for a place, the next wait in the system's own queue.
        let place = tokio::select! {
            biased;
            () = stop.asked.cancelled() => break,
            place = Arc::clone(&open).acquire_owned() => place,
        };
        let conversation = counted.conversation.clone();
        let (cut, cut_alone) = (cut.clone(), conversation.cut.clone());
        let serving = converse(stream, peer, router.clone(), settings, (graceful.watcher(), conversation));
        tokio::spawn(async move {
            tokio::select! {
                () = serving => {}
                () = cut.cancelled() => {}
                () = cut_alone.cancelled() => {}
            }
            drop((place, counted));
        });
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = out_of_time(stop, grace) => {
            tracing::warn!(grace_secs = grace.as_secs(), "requests still under way were cut off");
        }
    }
    Ok(())
}

/// The next connection. Errors of a connection are its own; the others are the system's, and pass.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset => {}
                _ => {
                    tracing::error!(cause = %error, "no connection could be taken");
                    tokio::time::sleep(REST).await;
                }
            },
        }
    }
}

/// Answers the requests of one connection, until its client or a bound ends it.
async fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    settings: ConnectionSettings,
    (watcher, conversation): (Watcher, Conversation),
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(cause = %error, "a connection delays small packets");
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(settings.stalled));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(|body| conversation.arrival.watch(Body::new(body)));
        request.extensions_mut().insert(ConnectInfo(peer));
        let (work, answer) = (conversation.work(), router.clone().oneshot(request));
        async move {
            let answer = answer.await;
            drop(work);
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.head)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    if let Err(error) = pin!(watcher.watch(connection)).await {
        tracing::debug!(cause = %error, %peer, "a connection ended early");
    }
}

/// Answers one request of a peer that has too many connections, without taking a place.
async fn refuse(stream: TcpStream) {
    let service = hyper::service::service_fn(|_: Request<Incoming>| {
        let mut answer = Problem::crowded().into_response();
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REFUSAL)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(REFUSAL, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(cause = %error, "a peer with too many connections was not told"),
        Err(_) => tracing::debug!("a peer with too many connections asked nothing in time"),
    }
}

async fn out_of_time(stop: &Stop, grace: Duration) {
    stop.asked.cancelled().await;
    tokio::select! {
        () = tokio::time::sleep(grace) => {}
        () = stop.insisted.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[tokio::test]
    async fn a_taken_port_is_told_with_its_address_and_a_way_out() {
        let first = bind(loopback()).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address).await.unwrap_err();
        assert!(matches!(error, ServeError::Taken { .. }));
        assert!(error.to_string().starts_with(&address.to_string()), "{error}");
        assert!(error.to_string().contains("--listen"), "{error}");
    }

    #[tokio::test]
    async fn a_request_under_way_is_answered_after_the_order_to_stop() {
        let stop = Stop::default();
        let asked = stop.asked.clone();
        let router = Router::new().route(
            "/",
            get(move || async move {
                asked.cancel();
                "answered"
            }),
        );
        let listener = bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let (ended, answer) = tokio::join!(serve(listener, router, &stop, Duration::from_mins(1)), client);
        ended.unwrap();
        assert!(answer.ends_with("answered"), "{answer}");
    }

    /// A server with these bounds, and its address; it stops when the token is dropped.
    async fn within(settings: ConnectionSettings) -> (SocketAddr, tokio_util::sync::DropGuard) {
        let router = Router::new()
            .route("/", get(|| async { "answered" }))
            .route("/large", get(|| async { vec![b'.'; 64 << 20] }));
        let listener = bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Stop::default();
        let guard = stop.asked.clone().drop_guard();
        tokio::spawn(async move {
            let bounds = (settings, &TrustedProxies::default());
            serve_within(listener, router, &stop, Duration::ZERO, bounds).await
        });
        (address, guard)
    }

    /// What is answered until the server hangs up.
    async fn say(stream: &mut TcpStream, text: &str) -> String {
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_head_that_does_not_arrive_ends_its_connection() {
        let settings =
            ConnectionSettings { head: Duration::from_millis(50), ..ConnectionSettings::default() };
        let (address, _serving) = within(settings).await;
        for sent in ["", "GET / HTTP/1.1\r\nhost: local", "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // Returns only because the server hangs up; the last one was answered and sends no second head.
            let answer = say(&mut stream, sent).await;
            assert_eq!(answer.ends_with("answered"), sent.ends_with("\r\n\r\n"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_hung_up_on() {
        let stalled = Duration::from_millis(50);
        let settings = ConnectionSettings { most: 1, stalled, ..ConnectionSettings::default() };
        let (address, _serving) = within(settings).await;
        // More than the system keeps on its way between two sockets.
        let mut reader = TcpStream::connect(address).await.unwrap();
        reader.write_all(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        // There is room for one: it is answered because the other is no more.
        let mut next = TcpStream::connect(address).await.unwrap();
        let ask = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        assert!(say(&mut next, ask).await.ends_with("answered"));
        drop(reader);
    }

    #[tokio::test]
    async fn a_connection_beyond_the_most_waits_for_another_to_end() {
        let settings = ConnectionSettings { most: 2, ..ConnectionSettings::default() };
        let (address, _serving) = within(settings).await;
        let ask = "GET / HTTP/1.1\r\nhost: localhost\r\n";
        let mut idle = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(ask.as_bytes()).await.unwrap();
            idle.push(stream);
        }
        let mut third = TcpStream::connect(address).await.unwrap();
        let ask = format!("{ask}connection: close\r\n\r\n");
        let mut answer = Box::pin(say(&mut third, &ask));
        tokio::select! {
            // Both may be there at once: the end of one is the begin of the other.
            biased;
            answer = say(&mut idle[0], "connection: close\r\n\r\n") => assert!(answer.ends_with("answered")),
            early = &mut answer => panic!("{early}"),
        }
        assert!(answer.await.ends_with("answered"));
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_is_told_and_ends_its_connection() {
        let (address, _serving) = within(ConnectionSettings::default()).await;
        for (length, status) in [(BUFFER_BYTES / 2, "200"), (BUFFER_BYTES * 2, "431")] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let padding = "x".repeat(length);
            let head = format!(
                "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\npadding: {padding}\r\n\r\n"
            );
            let answer = tell(&mut stream, head.as_bytes()).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{length}: {answer}");
        }
    }

    /// What is answered to somebody who says more than is listened to: the system may take it back when it finds
    /// that the rest was not read, so what arrives is read while the rest is sent.
    async fn tell(stream: &mut TcpStream, text: &[u8]) -> String {
        let (mut reader, mut writer) = stream.split();
        let mut answer = Vec::new();
        let said = async {
            // The server need not listen to the end.
            let _sent = writer.write_all(text).await;
        };
        let heard = async {
            let mut piece = [0; 1024];
            while let Ok(length @ 1..) = reader.read(&mut piece).await {
                answer.extend_from_slice(&piece[..length]);
            }
        };
        tokio::join!(said, heard);
        String::from_utf8(answer).unwrap()
    }

    /// A server where this machine's addresses are peers like others, and where there is room for four
    /// connections, two of one peer.
    async fn among_strangers() -> (SocketAddr, tokio_util::sync::DropGuard) {
        let listener = bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Stop::default();
        let guard = stop.asked.clone().drop_guard();
        let router = Router::new()
            .route("/", get(|| async { "answered" }))
            .route("/read", axum::routing::post(|_: axum::body::Bytes| async { "read" }));
        let settings = ConnectionSettings { most: 4, ..ConnectionSettings::default() };
        tokio::spawn(async move {
            serve_among(listener, router, &stop, Duration::ZERO, (settings, Peers::of_strangers(2))).await
        });
        (address, guard)
    }

    async fn connect_from(last: u8, address: SocketAddr) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
        socket.connect(address).await.unwrap()
    }

    const ASK: &str = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

    #[tokio::test]
    async fn a_peer_with_too_many_connections_is_told_so_and_when_to_come_again() {
        let (address, _serving) = among_strangers().await;
        let _held = [connect_from(2, address).await, connect_from(2, address).await];
        let answer = say(&mut connect_from(2, address).await, ASK).await;
        assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
        assert!(answer.contains("retry-after: 1") && answer.contains("application/problem+json"), "{answer}");
        assert!(say(&mut connect_from(3, address).await, ASK).await.ends_with("answered"));
    }

    #[tokio::test]
    async fn slow_senders_make_room_for_one_who_has_no_connection_yet() {
        let (address, _serving) = among_strangers().await;
        let mut slow = Vec::new();
        for (peer, sent) in [
            (2, "GET / HTTP/1.1\r\nhost: local"),
            (2, "POST /read HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nslow"),
            (3, ""),
            (3, "POST /read HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"),
        ] {
            let mut stream = connect_from(peer, address).await;
            stream.write_all(sent.as_bytes()).await.unwrap();
            slow.push(stream);
        }
        for newcomer in 4..8 {
            assert!(say(&mut connect_from(newcomer, address).await, ASK).await.ends_with("answered"));
        }
    }

    #[tokio::test]
    async fn a_request_that_never_ends_does_not_keep_the_server_up() {
        let stop = Stop::default();
        let asked = stop.asked.clone();
        let router = Router::new().route(
            "/",
            get(move || async move {
                asked.cancel();
                std::future::pending::<()>().await;
            }),
        );
        let listener = bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            stream
        };
        let (ended, _stream) = tokio::join!(serve(listener, router, &stop, Duration::from_millis(1)), client);
        ended.unwrap();
    }
}
