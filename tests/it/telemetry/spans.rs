//! One span for each request.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, Once};

use serde_json::json;
use stagesub_domain::role::Role;
use stagesub_tests::{Kept, Orchestra, TestPlatform};
use tracing::field::{Field, Visit};
use tracing::instrument::WithSubscriber as _;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use super::{MUSICIANS, musician};

/// Fields of a span, as text.
pub(super) type Fields = BTreeMap<&'static str, String>;

/// Keeps the spans of requests that are over.
#[derive(Clone)]
pub(super) struct Spans(Arc<Mutex<Vec<Fields>>>);

impl Spans {
    /// None yet. To be made before the test's first request.
    pub(super) fn watch() -> Self {
        static EVERYWHERE: Once = Once::new();
        // Whether anybody wants a span is decided once for all threads, by whoever comes there first: with a
        // subscriber that wants every span on all of them, they agree.
        EVERYWHERE.call_once(|| {
            tracing::subscriber::set_global_default(Registry::default()).expect("tests set no other");
        });
        Self(Arc::default())
    }

    /// What to instrument with.
    pub(super) fn dispatch(&self) -> Dispatch {
        Dispatch::new(Registry::default().with(self.clone()))
    }

    /// Those since the last time.
    pub(super) fn take(&self) -> Vec<Fields> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// The one there is.
    pub(super) fn one(&self) -> Fields {
        let mut spans = self.take();
        assert_eq!(spans.len(), 1, "{spans:#?}");
        spans.remove(0)
    }
}

struct Writes<'a>(&'a mut Fields);

impl Visit for Writes<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::new();
        attributes.record(&mut Writes(&mut fields));
        context.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let mut extensions = span.extensions_mut();
        values.record(&mut Writes(extensions.get_mut::<Fields>().unwrap()));
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        if span.name() == "request" {
            let fields = span.extensions_mut().remove::<Fields>().unwrap();
            self.0.lock().unwrap().push(fields);
        }
    }
}

/// Everything but what time it took.
fn told(fields: &Fields) -> Vec<(&'static str, String)> {
    let timed = |name: &str| name.ends_with("_us") || name == "request.id";
    fields.iter().filter(|(name, _)| !timed(name)).map(|(name, text)| (*name, text.clone())).collect()
}

async fn database_id(platform: &TestPlatform, of: &Orchestra) -> String {
    let sql = "SELECT database_id::text FROM registry.directory WHERE tenant_id = $1";
    let mut registry = stagesub_tests::database::connect(platform.registry()).await;
    sqlx::query_scalar(sql).bind(of.tenant.as_uuid()).fetch_one(&mut registry).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_says_route_tenant_placement_and_cost_and_nothing_of_a_person() {
    let spans = Spans::watch();
    let platform = TestPlatform::start().await;
    for kept in Kept::ALL {
        let ours = platform.orchestra(kept, &format!("spans-{kept}")).await;
        let database = database_id(&platform, &ours).await;
        let dispatch = spans.dispatch();
        for n in 0..3 {
            ours.admin.post(MUSICIANS, &musician(n)).await.expect(201);
        }
        let request = |route: &str, status: u16, method: &str, [statements, rows]: [u64; 2]| {
            let mut fields = vec![
                ("database.rows", rows.to_string()),
                ("database.statements", statements.to_string()),
                ("database.transactions", "1".to_owned()),
                ("http.request.method", method.to_owned()),
                ("http.response.status_code", status.to_string()),
                ("http.route", route.to_owned()),
                ("placement.database", database.clone()),
                ("placement.kind", kept.as_str().to_owned()),
                ("tenant.code", ours.code.clone()),
                ("tenant.id", ours.tenant_text().to_owned()),
            ];
            if cfg!(feature = "otel") {
                fields.push(("otel.kind", "server".to_owned()));
            }
            fields.sort();
            fields
        };

        // In one message, with an answer of 3 rows.
        ours.admin.get(MUSICIANS).with_subscriber(dispatch.clone()).await.expect(200);
        let hot = spans.one();
        assert_eq!(told(&hot), request(MUSICIANS, 200, "GET", [1, 3]));
        let micros = |name: &str| hot[name].parse::<u64>().unwrap();
        assert!(micros("database.time_us") > 0 && micros("pool.wait_us") < 60_000_000, "{hot:?}");
        let answered = ours.admin.get(MUSICIANS).with_subscriber(dispatch.clone()).await;
        assert_eq!(spans.one()["request.id"], answered.headers["x-request-id"].to_str().unwrap());

        // In an ordinary transaction; the template stands for the id.
        let one = ours.path("musicians", "MUS", 2);
        ours.admin.get(&one).with_subscriber(dispatch.clone()).await.expect(200);
        let ordinary = spans.one();
        assert_eq!(ordinary["http.route"], "/api/v1/musicians/{id}");
        assert_eq!(ordinary["database.transactions"], "1");
        assert!(ordinary["database.rows"].parse::<u64>().unwrap() >= 1, "{ordinary:?}");

        // What people are called, ask and send is in none of it.
        let change = json!({ "notes": "hemligt", "firstName": "Ottilia" });
        ours.admin.patch(&one, &change).with_subscriber(dispatch.clone()).await.expect(200);
        let search = format!("{MUSICIANS}?q=Ottilia");
        ours.admin.get(&search).with_subscriber(dispatch.clone()).await.expect(200);
        let secret =
            ours.admin.with_header("x-secret", "hemligt").with_header("user-agent", "Ottilias dator");
        secret.get("/api/v1/Ottilia").with_subscriber(dispatch.clone()).await.expect(404);
        let login = json!({ "email": ours.admin_email(), "password": ours.admin_password() });
        ours.admin.post("/api/v1/auth/login", &login).with_subscriber(dispatch.clone()).await.expect(200);
        let all = spans.take();
        assert_eq!(all.len(), 4);
        let written: u64 = all[0]["database.rows"].parse().unwrap();
        assert!(written >= 2, "a musician was changed and the audit written: {written}");
        assert!(!all[2].contains_key("http.route") && !all[2].contains_key("placement.kind"), "{:?}", all[2]);
        assert!(!all[3].contains_key("placement.kind"), "signing in asks the registry alone");
        let text = format!("{all:?}");
        for of_a_person in
            ["Ottilia", "hemligt", "chef@", "MUS-", ours.admin_password(), "127.0.0.1", "/api/v1/O"]
        {
            assert!(!text.contains(of_a_person), "{of_a_person} is in {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_refused_or_fail_have_their_span_too() {
    let spans = Spans::watch();
    let platform = TestPlatform::start().await;
    let ours = platform.orchestra(Kept::Shared, "refused").await;
    let viewer = platform.member(&ours, Role::Viewer).await;
    let dispatch = spans.dispatch();
    viewer.post(MUSICIANS, &musician(1)).with_subscriber(dispatch.clone()).await.expect(403);
    let elsewhere = viewer.at(platform.host("nobody"));
    elsewhere.get(MUSICIANS).with_subscriber(dispatch.clone()).await.expect(404);
    platform.client().at("10.0.0.7").get("/healthz").with_subscriber(dispatch).await.expect(200);
    let all = spans.take();
    let brief = |at: usize| {
        let get = |name: &str| all[at].get(name).map_or("", String::as_str);
        [
            get("http.response.status_code"),
            get("http.route"),
            get("tenant.code"),
            get("database.transactions"),
        ]
    };
    assert_eq!(brief(0), ["403", MUSICIANS, ours.code.as_str(), ""]);
    assert_eq!(brief(1), ["404", MUSICIANS, "", ""], "the host is nobody's");
    assert_eq!(brief(2), ["200", "/healthz", "", ""]);
}
