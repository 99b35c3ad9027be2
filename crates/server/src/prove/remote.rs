//! A service that runs, attacked over the network.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, Request, Response, StatusCode};
use reqwest::redirect::Policy;
use stagesub_tenancy::prove::http::{Target, TargetError};
use tokio::time::Instant;
use url::Url;

/// Longest time that an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Longest that a request is held back because the service asks for a pause, again and again.
const PATIENCE: Duration = Duration::from_mins(10);

/// The pause when the service names none.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest pause that is taken at once, whatever the service asks for.
const LONGEST_PAUSE: Duration = Duration::from_mins(2);

/// One address, whatever hosts are asked for there: requests go to it and nowhere else. No redirect is
/// followed and no proxy of the environment is used.
///
/// A service that limits how often an address may ask answers 429: that says nothing of what was asked, so the
/// request is sent again when the service's pause is over.
#[derive(Debug, Clone)]
pub struct Remote {
    base: Url,
    client: reqwest::Client,
}

impl Remote {
    /// The service at `http://host:port` or `https://host:port`. With https its certificate must be one that
    /// this machine trusts for that host; the host asked for inside is another matter.
    ///
    /// # Errors
    /// [`InvalidUrl`].
    pub fn new(url: &str) -> Result<Self, InvalidUrl> {
        let base: Url = url.parse().map_err(|_| InvalidUrl)?;
        let only_host = base.path() == "/" && base.query().is_none() && base.fragment().is_none();
        let anonymous = base.username().is_empty() && base.password().is_none();
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() || !only_host || !anonymous {
            return Err(InvalidUrl);
        }
        // Whoever installed a provider first decides, and any of them will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .timeout(TIMEOUT)
            .user_agent(concat!("stagesub-prove/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|_| InvalidUrl)?;
        Ok(Self { base, client })
    }

    /// The address.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.base
    }
}

#[async_trait]
impl Target for Remote {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, TargetError> {
        let (head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let url = self.base.join(path).map_err(|error| TargetError(error.into()))?;
        // Joining must not lead anywhere else.
        if url.origin() != self.base.origin() {
            return Err(TargetError("the path leads to another address".into()));
        }
        let begun = Instant::now();
        loop {
            let answer = self
                .client
                .request(head.method.clone(), url.clone())
                .headers(head.headers.clone())
                .body(body.clone())
                .send()
                .await
                .map_err(|error| TargetError(error.into()))?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            let body = answer.bytes().await.map_err(|error| TargetError(error.into()))?;
            if status == StatusCode::TOO_MANY_REQUESTS {
                let pause = pause(&headers);
                if begun.elapsed() + pause <= PATIENCE {
                    tracing::debug!(?pause, "the service asks for a pause");
                    tokio::time::sleep(pause).await;
                    continue;
                }
            }
            let mut response = Response::new(body);
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            return Ok(response);
        }
    }
}

/// How long the service asks to be left alone.
fn pause(headers: &HeaderMap) -> Duration {
    let asked = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    asked.map_or(PAUSE, Duration::from_secs).min(LONGEST_PAUSE)
}

/// The text names no service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a service's address is http:// or https://, a host and perhaps a port, and nothing after that")]
pub struct InvalidUrl;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_scheme_a_host_and_a_port() {
        for url in ["http://127.0.0.1:8080", "https://stagesub.example/", "http://[::1]:1"] {
            assert!(Remote::new(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "127.0.0.1:8080",
            "ftp://x",
            "http://x/api",
            "http://x/?q=1",
            "http://user@x",
            "http://",
            "file:///etc",
        ] {
            assert_eq!(Remote::new(url).map(|_| ()), Err(InvalidUrl), "{url}");
        }
    }

    #[test]
    fn a_pause_is_what_the_service_asks_for_within_bounds() {
        for (asked, pause_secs) in
            [(None, 1), (Some("3"), 3), (Some(" 0 "), 0), (Some("soon"), 1), (Some("99999"), 120)]
        {
            let mut headers = HeaderMap::new();
            headers.extend(asked.map(|asked| (RETRY_AFTER, asked.parse().unwrap())));
            assert_eq!(pause(&headers), Duration::from_secs(pause_secs), "{asked:?}");
        }
    }
}
