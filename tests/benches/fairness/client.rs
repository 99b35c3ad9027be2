//! A client that looks at a page of musicians: on a unit of work, or over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use stagesub_domain::page::Page;
use stagesub_domain::ports::Units;
use stagesub_domain::ports::musicians::MusicianFilter;
use stagesub_tenancy::{Access, TenantScope};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ways {
    Units,
    Http,
}

impl Ways {
    pub(crate) const ALL: [Self; 2] = [Self::Units, Self::Http];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Units => "units",
            Self::Http => "http",
        }
    }
}

/// Somebody of an orchestra.
pub(crate) struct Looker {
    scope: TenantScope,
    request: Arc<str>,
}

impl Looker {
    pub(crate) fn new(scope: TenantScope, host: &str, token: &str) -> Self {
        let request = format!(
            "GET /api/v1/musicians?limit=20 HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        Self { scope, request: request.into() }
    }
}

/// One client, with one request at a time.
pub(crate) enum Client {
    Units { units: Units, scope: TenantScope },
    Http { server: SocketAddr, request: Arc<str>, connection: Option<TcpStream> },
}

impl Client {
    pub(crate) fn of_units(units: &Units, looker: &Looker) -> Self {
        Self::Units { units: Arc::clone(units), scope: looker.scope.clone() }
    }

    pub(crate) fn of_http(server: SocketAddr, looker: &Looker) -> Self {
        Self::Http { server, request: Arc::clone(&looker.request), connection: None }
    }

    /// Looks once.
    pub(crate) async fn look(&mut self) -> Result<(), String> {
        match self {
            Self::Units { units, scope } => {
                let mut unit =
                    units.begin(scope, Access::Read).await.map_err(|error| format!("{error:?}"))?;
                let page = Page::new(None, 20).expect("a page of 20");
                let found = unit.musicians().list(&MusicianFilter::default(), page).await;
                let found = found.map_err(|error| format!("{error:?}"))?;
                assert_eq!(found.items.len(), 20);
                unit.commit().await.map_err(|error| format!("{error:?}"))
            }
            Self::Http { server, request, connection } => {
                let mut stream = match connection.take() {
                    Some(stream) => stream,
                    None => connect(*server).await.map_err(|error| error.to_string())?,
                };
                let answer = ask(&mut stream, request).await.map_err(|error| error.to_string())?;
                *connection = Some(stream);
                if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
            }
        }
    }
}

async fn connect(server: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn ask(stream: &mut TcpStream, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(16 * 1024);
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let length: usize = length.expect("a length");
            if answer.len() == end + 4 + length {
                return Ok(String::from_utf8_lossy(&answer).into_owned());
            }
        }
    }
}
