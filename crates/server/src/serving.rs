//! The listener: binding it, serving on it, stopping within a bound.

use std::future::IntoFuture;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

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
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: &Stop,
    grace: Duration,
) -> Result<(), ServeError> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let serving = axum::serve(listener, service).with_graceful_shutdown(stop.asked.clone().cancelled_owned());
    tokio::select! {
        ended = serving.into_future() => {
            ended.map_err(|source| ServeError::System { what: "to go on listening", source })
        }
        () = out_of_time(stop, grace) => {
            tracing::warn!(grace_secs = grace.as_secs(), "requests still under way were cut off");
            Ok(())
        }
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
