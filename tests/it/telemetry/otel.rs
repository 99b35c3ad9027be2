//! Spans at a collector, as the program sends them.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use stagesub_tests::{Kept, TestPlatform, program};
use tokio::net::TcpListener;

use super::serving::Serving;
use super::{MUSICIANS, musician};

type Taken = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

/// Takes spans as OTLP has it; its address.
async fn collector(taken: Taken) -> String {
    async fn take(State(taken): State<Taken>, headers: HeaderMap, body: Bytes) {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        taken.lock().unwrap().push(ExportTraceServiceRequest::decode(body).expect("it is OTLP"));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/v1/traces", post(take)).with_state(taken);
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()?;
    Some(match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

/// The span of the musicians' list, and the name of the service that sent it. What a client made up as a method is in
/// no name.
fn listed(taken: &Taken) -> (Span, String) {
    let taken = std::mem::take(&mut *taken.lock().unwrap());
    let resources: Vec<_> = taken.into_iter().flat_map(|request| request.resource_spans).collect();
    let (mut found, mut others) = (Vec::new(), 0);
    let made_up = format!("HTTP {MUSICIANS}");
    for spans in resources {
        let service = spans.resource.and_then(|resource| text(&resource.attributes, "service.name")).unwrap();
        for span in spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            assert_eq!(
                text(&span.attributes, "http.route").is_some(),
                span.name.starts_with("GET /") || span.name == made_up,
                "{span:?}"
            );
            if span.name == made_up {
                let method = text(&span.attributes, "http.request.method");
                assert_eq!(method.as_deref(), Some("_OTHER"), "{span:?}");
                others += 1;
            }
            if span.name == format!("GET {MUSICIANS}") {
                found.push((span, service.clone()));
            }
        }
    }
    assert_eq!((found.len(), others), (1, 1), "{found:#?}");
    found.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_reach_a_collector_before_the_program_ends_and_a_trusted_proxys_trace_goes_on() {
    let platform = TestPlatform::start().await;
    let ours = platform.orchestra(Kept::Shared, "ours").await;
    ours.admin.post(MUSICIANS, &musician(1)).await.expect(201);
    let taken = Taken::default();
    let endpoint = collector(Arc::clone(&taken)).await;
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let http = program::http().build().unwrap();
    for proxies in ["127.0.0.1", "10.0.0.1"] {
        let environment = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_SERVICE_NAME", "orkester"),
            ("STAGESUB_TRUSTED_PROXIES", proxies),
            // What is logged says nothing of what is exported.
            ("STAGESUB_LOG", "error"),
        ];
        let server = Serving::start(&platform, &environment).await;
        let answer = http
            .get(format!("{}{MUSICIANS}", server.url("listen")))
            .header("host", &ours.host)
            .header("authorization", format!("Bearer {}", ours.admin.token().unwrap()))
            .header("traceparent", format!("00-{trace}-{parent}-01"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        let brew = reqwest::Method::from_bytes(b"BREW").unwrap();
        let answer = http
            .request(brew, format!("{}{MUSICIANS}", server.url("listen")))
            .header("host", &ours.host)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 405);
        // Sooner than spans are sent by themselves.
        server.stop().await;

        let (span, service) = listed(&taken);
        assert_eq!(service, "orkester");
        let said = |key: &str| text(&span.attributes, key).unwrap_or_default();
        assert_eq!(said("tenant.id"), ours.tenant_text());
        assert_eq!(said("tenant.code"), ours.code);
        assert_eq!(said("placement.kind"), "shared");
        assert_eq!(said("http.route"), MUSICIANS);
        assert_eq!(said("http.response.status_code"), "200");
        assert_eq!((said("database.transactions"), said("database.rows")), ("1".into(), "1".into()));
        assert!(said("database.time_us").parse::<u64>().unwrap() > 0);
        assert_eq!(span.kind, 2, "a server's");
        let number = |bytes: &[u8]| bytes.iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
        let told = |digits: &str| u128::from_str_radix(digits, 16).expect("hexadecimal digits");
        let adopted = (number(&span.trace_id) == told(trace), number(&span.parent_span_id) == told(parent));
        assert_eq!(adopted, (proxies == "127.0.0.1", proxies == "127.0.0.1"), "{proxies}");
    }
}
