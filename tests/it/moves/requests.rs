//! What somebody asks of a move: when it may be, and how it is taken back.

use std::time::Duration;

use stagesub_tenancy::PlacementEpoch;
use stagesub_tenancy::moves::{
    Held, MoveId, MoveRegistry, MoveState, Renewed, Request, Requested, Requester,
};
use uuid::Uuid;

use super::registry::{Desk, made, node};
use MoveState::{Aborted, Active};

const LEASE: Duration = Duration::from_hours(1);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_a_move_fits_its_state() {
    let mut desk = Desk::new().await;
    let moved = desk.begun("GOT").await;
    let ask = async |request| desk.moves.request(moved.id, request, Requester::Platform).await.unwrap();
    for request in [Request::Back, Request::Finish] {
        assert!(matches!(ask(request).await, Requested::Refused(_)), "{request}");
    }
    let mut held = desk.claimed().await;
    assert!(matches!(ask(Request::Abort).await, Requested::Accepted(_)));
    assert!(matches!(ask(Request::Abort).await, Requested::Accepted(_)), "twice is once");
    let wanted = desk.moves.renew(&held, LEASE).await.unwrap();
    assert_eq!(wanted, Renewed::Held { wanted: Some(Request::Abort) });
    desk.advanced(&mut held, Aborted).await;
    assert_eq!(held.moved.wanted, None);
    assert!(matches!(ask(Request::Abort).await, Requested::Refused(_)));
    let nobodys = MoveId::from_uuid(Uuid::now_v7());
    let unknown = desk.moves.request(nobodys, Request::Abort, Requester::Platform).await.unwrap();
    assert_eq!(unknown, Requested::Unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_be_had_is_taken_back_and_told_unless_something_else_is_asked_by_now() {
    let mut desk = Desk::new().await;
    let mut held = desk.fenced("GOT").await;
    let (id, tenant) = (held.moved.id, held.moved.tenant);
    held.moved = made(desk.moves.decide(&held).await);
    desk.advanced(&mut held, Active).await;
    assert_eq!(
        desk.moves.withdraw(&held, Request::Back, "barred").await.unwrap(),
        None,
        "nobody asks for it"
    );
    let asked = desk.moves.request(id, Request::Back, Requester::Platform).await.unwrap();
    assert!(matches!(asked, Requested::Accepted(_)), "{asked:?}");
    let stale = Held { node: node(), ..held.clone() };
    assert_eq!(desk.moves.withdraw(&stale, Request::Back, "barred").await.unwrap(), None);
    let withdrawn = desk.moves.withdraw(&held, Request::Back, "barred").await.unwrap().unwrap();
    assert_eq!(
        (withdrawn.state, withdrawn.wanted, withdrawn.error.as_deref()),
        (Active, None, Some("barred"))
    );
    assert_eq!(desk.located(tenant).await.epoch, PlacementEpoch(6), "the tenant is where it was");

    for request in [Request::Back, Request::Finish] {
        let asked = desk.moves.request(id, request, Requester::Platform).await.unwrap();
        assert!(matches!(asked, Requested::Accepted(_)), "{asked:?}");
    }
    assert_eq!(desk.moves.withdraw(&held, Request::Back, "late").await.unwrap(), None);
    let found = desk.moves.find(id).await.unwrap().unwrap();
    assert_eq!((found.wanted, found.error.as_deref()), (Some(Request::Finish), Some("barred")));
    assert_eq!(
        desk.log(tenant).await[2..4],
        ["system move_ask_back move 6 active", "system move_stay move 6 active"]
    );
}
