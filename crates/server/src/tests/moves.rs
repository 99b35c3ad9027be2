//! Moves, as the API asks for them and shows them.

use std::sync::Mutex;
use std::time::Duration;

use futures::StreamExt;
use stagesub_domain::ports::moves::{KeyedMove, MockMoveDesk};
use stagesub_domain::service::moves::Pace;
use stagesub_tenancy::moves::plane::MockDataPlane;
use stagesub_tenancy::moves::registry::{MockMoveRegistry, MovePage};
use stagesub_tenancy::moves::survey::MockSurveyor;
use stagesub_tenancy::moves::{
    Move, MoveId, MovePath, MovePrefix, MoveState, NewMove, Request as Wanted, Requested, Requester,
    TableProgress,
};
use stagesub_tenancy::{DatabaseId, Located, Placement, PlacementEpoch};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::state::MoveParts;

const MOVES: &str = "/api/v1/platform/moves";
const HERE: DatabaseId = DatabaseId::from_uuid(Uuid::from_u128(21));
const THERE: DatabaseId = DatabaseId::from_uuid(Uuid::from_u128(22));
const MOVE: MoveId = MoveId::from_uuid(Uuid::from_u128(31));

fn moved(state: MoveState) -> Move {
    let tenant = TenantId::from_uuid(Uuid::from_u128(1));
    let wanted = NewMove {
        id: MOVE,
        tenant,
        target: THERE,
        path: MovePath::Stream,
        prefix: MovePrefix::from_bytes([0xab; 16]),
        by: Requester::Person(USER),
        pace: Some(Pace::USUAL),
    };
    let source = Located { tenant, placement: Placement::Shared(HERE), epoch: PlacementEpoch(5) };
    Move {
        state,
        pause: Some(Duration::from_micros(9_500)),
        ended_at: state.is_over().then(now),
        ..Move::begun(wanted, source, Placement::Shared(THERE), now())
    }
}

/// What handlers are given, over a registry.
fn over(registry: MockMoveRegistry) -> MoveParts {
    let (mut desk, mut surveyor) = (MockMoveDesk::new(), MockSurveyor::new());
    desk.expect_find_shared().returning(|id| Ok((id == THERE).then_some(id)));
    desk.expect_choose_other_shared().returning(|_| Ok(Some(THERE)));
    desk.expect_claim_key().returning(|_, _, _, _| Ok(KeyedMove::Now));
    surveyor.expect_rows().returning(|_, _, most| Ok(most + 1));
    surveyor.expect_decodes().returning(|_, _| Ok(true));
    let mut plane = MockDataPlane::new();
    plane.expect_preflight().returning(|_| Ok(vec!["no slot is free".to_owned()]));
    MoveParts {
        registry: Arc::new(registry),
        desk: Arc::new(desk),
        plane: Arc::new(plane),
        surveyor: Arc::new(surveyor),
        wake: Arc::new(|| {}),
        streams: Arc::new(Semaphore::new(1)),
        closing: CancellationToken::new(),
    }
}

/// A registry with one orchestra and no move.
fn quiet() -> MockMoveRegistry {
    let mut registry = MockMoveRegistry::new();
    registry.expect_live_of().returning(|_| Ok(None));
    registry.expect_placement().returning(|tenant| {
        let placement = Placement::Shared(HERE);
        Ok(Some(Located { tenant, placement, epoch: PlacementEpoch(5) }))
    });
    registry.expect_lag().returning(|_| Ok(Some(Duration::from_micros(1_250))));
    registry.expect_list_of().returning(|_, _, _| Ok(MovePage { items: Vec::new(), next: None }));
    registry
}

/// For tests that are about something else: there is no move, and none is begun.
pub(super) fn parts() -> MoveParts {
    let mut registry = quiet();
    registry.expect_find().returning(|_| Ok(None));
    registry.expect_list().returning(|_, _| Ok(MovePage { items: Vec::new(), next: None }));
    registry.expect_request().returning(|_, _, _| Ok(Requested::Unknown));
    registry.expect_begin().returning(|_| {
        let away = stagesub_tenancy::DirectoryError::Unavailable("not here".into());
        Err(stagesub_tenancy::moves::MoveRegistryError::from(away).into())
    });
    over(registry)
}

fn serving(moves: MoveParts) -> Router {
    let units = Arc::new(MockUnitOfWorkFactory::new());
    let lists = EmptyLists(Arc::clone(&units) as Units);
    let parts = super::parts_with(units, lists, Role::Superadmin);
    build_router(AppState::new(Parts { moves, ..parts }))
}

async fn ask(
    server: &Router,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> (StatusCode, Value, Response<()>) {
    let token = token(None, Role::Superadmin);
    send(server, request(method, "stagesub.test", path, Some(&token), body)).await
}

fn of_tenant() -> String {
    format!("/api/v1/platform/tenants/{}/moves", Uuid::from_u128(1))
}

#[tokio::test]
async fn a_move_is_begun_by_whoever_asks_and_shown_where_it_is() {
    let mut registry = quiet();
    registry
        .expect_begin()
        .withf(|wanted| {
            wanted.by == Requester::Person(USER)
                && wanted.target == THERE
                && wanted.path == MovePath::Stream
                && wanted.pace == Some(Pace::USUAL)
        })
        .once()
        .returning(|wanted| Ok(Move { id: wanted.id, ..moved(MoveState::Prepare) }));
    let server = serving(over(registry));
    let (status, body, response) = ask(&server, "POST", &of_tenant(), Some(json!({"to": "shared"}))).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    assert_eq!((&body["state"], &body["servedBy"]), (&json!("prepare"), &json!("source")));
    assert_eq!(body["startedBy"], json!(USER));
    let id = body["id"].as_str().expect("an id");
    assert_eq!(response.headers()[header::LOCATION], format!("{MOVES}/{id}"));
    assert!(!body.to_string().contains("abab"), "the prefix is a secret: {body}");
}

#[tokio::test]
async fn a_dry_run_tells_what_stands_in_the_way_and_begins_nothing() {
    let server = serving(over(quiet()));
    let body = json!({"to": "shared", "pace": 0, "dryRun": true});
    let (status, body, _) = ask(&server, "POST", &of_tenant(), Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["obstacles"], json!(["no slot is free"]));
    assert_eq!((&body["target"], &body["pace"], &body["rows"]), (&json!(THERE), &Value::Null, &Value::Null));
    assert_eq!((&body["path"], &body["keepsWayBack"]), (&json!("stream"), &json!(true)));
}

#[tokio::test]
async fn secrets_of_a_request_are_in_no_answer() {
    let server = serving(parts());
    let url = "postgres://root:hunter2@db.example/x";
    for body in [
        json!({"to": "shared", "url": url}),
        json!({"to": "dedicated", "url": url, "server": url}),
        json!({"to": "dedicated", "url": {"is": url}}),
        json!({"to": "dedicated", "server": url}),
        json!({"to": url}),
    ] {
        let (status, answer, _) = ask(&server, "POST", &of_tenant(), Some(body.clone())).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}: {answer}");
        assert!(!answer.to_string().contains("hunter2"), "{answer}");
    }
}

#[tokio::test]
async fn what_is_asked_of_a_move_is_written_down_or_refused_in_words() {
    let mut registry = quiet();
    registry.expect_request().returning(|id, wanted, by| {
        assert_eq!((id, by), (MOVE, Requester::Person(USER)));
        Ok(match wanted {
            Wanted::Abort => Requested::Refused(moved(MoveState::Active)),
            wanted => Requested::Accepted(Move { wanted: Some(wanted), ..moved(MoveState::Active) }),
        })
    });
    let server = serving(over(registry));
    for wanted in ["back", "finish"] {
        let (status, body, _) = ask(&server, "POST", &format!("{MOVES}/{MOVE}/{wanted}"), None).await;
        assert_eq!((status, &body["wanted"]), (StatusCode::ACCEPTED, &json!(wanted)));
    }
    let (status, body, _) = ask(&server, "POST", &format!("{MOVES}/{MOVE}/abort"), None).await;
    assert_eq!((status, &body["type"]), (StatusCode::CONFLICT, &json!("urn:stagesub:problem:wrong-state")));
    assert!(body["detail"].as_str().is_some_and(|detail| detail.contains("go back or finish")), "{body}");
}

#[tokio::test]
async fn moves_are_listed_in_pages_and_one_is_shown_with_its_tables() {
    let mut registry = quiet();
    registry
        .expect_list()
        .withf(|after, limit| after.is_none() && *limit == 1)
        .returning(|_, _| Ok(MovePage { items: vec![moved(MoveState::Copy)], next: Some(MOVE) }));
    registry
        .expect_list()
        .withf(|after, _| *after == Some(MOVE))
        .returning(|_, _| Ok(MovePage { items: Vec::new(), next: None }));
    registry.expect_find().returning(|id| Ok((id == MOVE).then(|| moved(MoveState::Copy))));
    registry.expect_tables().returning(|_| {
        let table = |table: &str, rows, done| TableProgress {
            schema: "tenant".to_owned(),
            table: table.to_owned(),
            rows,
            bytes: 100 * rows,
            done,
        };
        Ok(vec![table("musician", 7, true), table("project", 3, false)])
    });
    let server = serving(over(registry));
    let (_, page, _) = ask(&server, "GET", &format!("{MOVES}?limit=1"), None).await;
    assert_eq!(page["items"][0]["id"], json!(MOVE.as_uuid()), "{page}");
    assert!(page["items"][0].get("tables").is_none());
    let next = page["nextCursor"].as_str().expect("there is more");
    let (_, page, _) = ask(&server, "GET", &format!("{MOVES}?cursor={next}"), None).await;
    assert_eq!(page, json!({"items": [], "nextCursor": null}));
    let (_, body, _) = ask(&server, "GET", &format!("{MOVES}/{MOVE}"), None).await;
    assert_eq!((&body["rowsCopied"], &body["bytesCopied"]), (&json!(10), &json!(1_000)));
    assert_eq!((&body["tables"][1]["table"], &body["pauseMs"]), (&json!("tenant.project"), &json!(9.5)));
    assert_eq!(body["lagMs"], 1.25);
    for (path, status) in [
        (format!("{MOVES}/{}", Uuid::from_u128(9)), StatusCode::NOT_FOUND),
        (format!("{MOVES}/nothing"), StatusCode::NOT_FOUND),
        (format!("{MOVES}/{MOVE}?tables=no"), StatusCode::BAD_REQUEST),
        (format!("{MOVES}?cursor=x"), StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(ask(&server, "GET", &path, None).await.0, status, "{path}");
    }
}

/// A registry whose move stands where the test says.
fn standing(at: &Arc<Mutex<Move>>) -> MockMoveRegistry {
    let mut registry = quiet();
    let at = Arc::clone(at);
    registry.expect_find().returning(move |_| Ok(Some(at.lock().unwrap().clone())));
    registry.expect_tables().returning(|_| Ok(Vec::new()));
    registry
}

/// The answer of somebody who watches the move, piece by piece.
async fn watch(server: &Router) -> axum::response::Response {
    let token = token(None, Role::Superadmin);
    let mut request = request("GET", "stagesub.test", &format!("{MOVES}/{MOVE}/events"), Some(&token), None);
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 40_000))));
    server.clone().oneshot(request).await.expect("the router is infallible")
}

/// The state that the next event tells; `None`: there are no more.
async fn next_state(events: &mut axum::body::BodyDataStream) -> Option<String> {
    loop {
        let piece = events.next().await?.expect("the answer goes on");
        let text = String::from_utf8(piece.to_vec()).expect("text");
        // Words that say that the connection lives.
        let Some(data) = text.lines().find_map(|line| line.strip_prefix("data: ")) else { continue };
        assert!(text.contains("event: move"), "{text}");
        let body: Value = serde_json::from_str(data).expect("JSON");
        return Some(body["state"].as_str().expect("a state").to_owned());
    }
}

#[tokio::test(start_paused = true)]
async fn who_watches_is_told_each_change_until_the_move_has_ended() {
    let at = Arc::new(Mutex::new(moved(MoveState::Copy)));
    let server = serving(over(standing(&at)));
    let answer = watch(&server).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut events = answer.into_body().into_data_stream();
    assert_eq!(next_state(&mut events).await.as_deref(), Some("copy"));
    // One place there is.
    let refused = watch(&server).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    // It lives on for longer than any request may take.
    let begun = tokio::time::Instant::now();
    let changed = async {
        tokio::time::sleep(Duration::from_mins(3)).await;
        at.lock().unwrap().state = MoveState::Active;
    };
    let (state, ()) = tokio::join!(next_state(&mut events), changed);
    assert_eq!(state.as_deref(), Some("active"));
    assert!(begun.elapsed() >= Duration::from_mins(3));
    *at.lock().unwrap() = moved(MoveState::Finished);
    assert_eq!(next_state(&mut events).await.as_deref(), Some("finished"));
    assert_eq!(next_state(&mut events).await, None);
    drop(events);
    assert_eq!(watch(&server).await.status(), StatusCode::OK, "the place is free again");
}

#[tokio::test(start_paused = true)]
async fn who_may_not_look_any_more_and_a_node_that_stops_end_it() {
    let at = Arc::new(Mutex::new(moved(MoveState::Active)));
    let moves = over(standing(&at));
    let closing = moves.closing.clone();
    let may = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let still = Arc::clone(&may);
    let mut authority = MockAuthorityStore::new();
    authority.expect_find_authority().returning(move |user, _| {
        Ok(Some(Authority {
            user,
            is_active: true,
            is_superadmin: still.load(Ordering::SeqCst),
            role: None,
            auth_epoch: AuthEpoch(1),
        }))
    });
    let units = Arc::new(MockUnitOfWorkFactory::new());
    let lists = EmptyLists(Arc::clone(&units) as Units);
    let parts = super::parts_with(units, lists, Role::Superadmin);
    let authenticator = Authenticator::new(tokens(), Arc::new(authority));
    let server = build_router(AppState::new(Parts { authenticator, moves, ..parts }));

    let mut events = watch(&server).await.into_body().into_data_stream();
    assert_eq!(next_state(&mut events).await.as_deref(), Some("active"));
    may.store(false, Ordering::SeqCst);
    assert_eq!(next_state(&mut events).await, None);
    drop(events);

    may.store(true, Ordering::SeqCst);
    let mut events = watch(&server).await.into_body().into_data_stream();
    assert_eq!(next_state(&mut events).await.as_deref(), Some("active"));
    closing.cancel();
    assert_eq!(next_state(&mut events).await, None);
}
