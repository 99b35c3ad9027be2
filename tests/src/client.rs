//! Requests to the platform's router, and its answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

/// Talks to one host of the platform, as one person or as nobody.
#[derive(Debug, Clone)]
pub struct Client {
    router: Router,
    host: String,
    token: Option<String>,
    headers: Vec<(String, String)>,
    peer: SocketAddr,
}

impl Client {
    /// A client of `host` that is not signed in and comes from an address nobody trusts.
    #[must_use]
    pub fn new(router: Router, host: impl Into<String>) -> Self {
        Self {
            router,
            host: host.into(),
            token: None,
            headers: Vec::new(),
            peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)), 40_000),
        }
    }

    /// The same client at another host, with the same token.
    #[must_use]
    pub fn at(&self, host: impl Into<String>) -> Self {
        Self { host: host.into(), ..self.clone() }
    }

    /// The same client with this access token.
    #[must_use]
    pub fn with_token(&self, token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..self.clone() }
    }

    /// The same client, asking another node.
    #[must_use]
    pub fn through(&self, router: Router) -> Self {
        Self { router, ..self.clone() }
    }

    /// The same client, not signed in.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    /// The same client, which sends one more header with each request.
    #[must_use]
    pub fn with_header(&self, name: &str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.push((name.to_owned(), value.to_owned()));
        client
    }

    /// The same client, connecting from this address.
    #[must_use]
    pub fn from_address(&self, address: IpAddr) -> Self {
        Self { peer: SocketAddr::new(address, 40_000), ..self.clone() }
    }

    /// The host it asks.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The access token it sends.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// `GET`
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, Body::empty()).await
    }

    /// `DELETE`
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None, Body::empty()).await
    }

    /// `POST` without a body.
    pub async fn order(&self, path: &str) -> Answer {
        self.send(Method::POST, path, None, Body::empty()).await
    }

    /// `POST` of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, Some("application/json"), Body::from(body.to_string())).await
    }

    /// `PATCH` of JSON.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, path, Some("application/json"), Body::from(body.to_string())).await
    }

    /// `POST` of a CSV file's bytes.
    pub async fn upload(&self, path: &str, file: impl Into<Body>) -> Answer {
        self.send(Method::POST, path, Some("text/csv"), file.into()).await
    }

    /// Any request.
    pub async fn send(&self, method: Method, path: &str, content_type: Option<&str>, body: Body) -> Answer {
        let what = format!("{method} {}{path}", self.host);
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.host);
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request =
            request.extension(ConnectInfo(self.peer)).body(body).expect("the request is well formed");
        let Ok(response) = self.router.clone().oneshot(request).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("the answer's body arrives").to_bytes();
        Answer { what, status: head.status, headers: head.headers, body: body.to_vec() }
    }

    /// `GET` of an answer that goes on: its head, and its body as it comes.
    pub async fn open(&self, path: &str) -> axum::response::Response {
        let mut request = Request::builder().uri(path).header(HOST, &self.host);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.extension(ConnectInfo(self.peer)).body(Body::empty());
        let Ok(response) = self.router.clone().oneshot(request.expect("the request is well formed")).await;
        response
    }

    /// Follows `nextCursor` from `path` (which may hold a query) to the end.
    pub async fn list_all(&self, path: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mark = if path.contains('?') { '&' } else { '?' };
            let page = match &cursor {
                None => self.get(path).await,
                Some(cursor) => self.get(&format!("{path}{mark}cursor={cursor}")).await,
            };
            let mut page = page.ok();
            items.append(page["items"].as_array_mut().expect("a list has items"));
            match page["nextCursor"].as_str() {
                None => return items,
                Some(next) => {
                    assert_ne!(Some(next), cursor.as_deref(), "a cursor leads on");
                    cursor = Some(next.to_owned());
                }
            }
        }
    }
}

/// What the platform answered.
#[derive(Debug, Clone)]
pub struct Answer {
    what: String,
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text, for messages.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: not JSON ({error}): {}", self.what, self.text()))
    }

    /// Fails unless the status is this one; the answer is there to go on with.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "called for what it asserts")]
    pub fn expect(&self, status: u16) -> &Self {
        assert_eq!(self.status.as_u16(), status, "{}: {}", self.what, self.text());
        self
    }

    /// The body of a 200.
    #[must_use]
    #[track_caller]
    pub fn ok(&self) -> Value {
        self.expect(200).json()
    }

    /// The body of a 201.
    #[must_use]
    #[track_caller]
    pub fn created(&self) -> Value {
        self.expect(201).json()
    }

    /// Fails unless this is a problem of this status and type, told as RFC 9457 has it.
    #[track_caller]
    pub fn problem(&self, status: u16, kind: &str) -> Value {
        self.expect(status);
        assert_eq!(
            self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()),
            Some("application/problem+json"),
            "{}",
            self.what
        );
        let body = self.json();
        assert_eq!(body["type"], format!("urn:stagesub:problem:{kind}"), "{}: {body}", self.what);
        assert_eq!(body["status"], status, "{}: {body}", self.what);
        for member in ["title", "detail"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{}: {body}", self.what);
        }
        body
    }

    /// Fails unless this is a 400 that names each of these fields with its rule.
    #[track_caller]
    pub fn invalid(&self, expected: &[(&str, &str)]) {
        let body = self.problem(400, "invalid-input");
        let errors = body["errors"].as_array().cloned().unwrap_or_default();
        let mut told: Vec<(&str, &str)> = errors
            .iter()
            .map(|error| (error["field"].as_str().unwrap_or(""), error["rule"].as_str().unwrap_or("")))
            .collect();
        let mut expected = expected.to_vec();
        told.sort_unstable();
        expected.sort_unstable();
        assert_eq!(told, expected, "{}: {body}", self.what);
    }
}
