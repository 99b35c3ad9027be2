//! `stagesub move plan`: the largest orchestras of a shared database, and what each would become.

use serde::Serialize;
use stagesub_domain::ports::registry::DedicatedPlace;
use stagesub_domain::service::moves::{
    self as service, Candidate, Destination, MoveDraft, largest, start_move,
};
use stagesub_tenancy::clock::Clock;
use stagesub_tenancy::moves::Requester;
use uuid::Uuid;

use super::move_args::MovePlanArgs;
use super::{Failure, move_command, output};
use crate::clock::SystemClock;
use crate::handlers::platform_moves::fresh;
use crate::problem::error_chain;
use crate::wiring::Platform;

/// One orchestra of the plan.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Planned {
    tenant_id: Uuid,
    subdomain: String,
    subscription: &'static str,
    /// About.
    rows: u64,
    /// About.
    bytes: u64,
    /// Whether it would move to a database of its own.
    moves: bool,
    /// Why not; or what kept its move from beginning.
    reason: Option<String>,
    /// The move that was begun.
    #[serde(rename = "move")]
    moved: Option<Uuid>,
}

impl From<Candidate> for Planned {
    fn from(candidate: Candidate) -> Self {
        let Candidate { account, rows, bytes, refusal } = candidate;
        Self {
            tenant_id: account.id.as_uuid(),
            subdomain: account.subdomain.to_string(),
            subscription: account.tier.as_str(),
            rows,
            bytes,
            moves: refusal.is_none(),
            reason: refusal,
            moved: None,
        }
    }
}

/// Runs the command. One orchestra whose move is not begun does not keep the others from theirs.
pub(super) async fn run(platform: &Platform, arguments: MovePlanArgs) -> Result<(), Failure> {
    let MovePlanArgs { from, largest: most, by, apply, pace, json } = arguments;
    let moving = platform.moving();
    let candidates = largest(&moving, from, by, most.into()).await?;
    let mut planned: Vec<Planned> = candidates.into_iter().map(Planned::from).collect();
    let mut failed = 0;
    if apply {
        let draft = MoveDraft { to: Destination::Own(DedicatedPlace::Beside), path: None, pace: pace.pace() };
        for one in planned.iter_mut().filter(|one| one.moves) {
            let tenant = stagesub_tenancy::TenantId::from_uuid(one.tenant_id);
            let now = SystemClock.now();
            match start_move(&moving, Requester::Platform, tenant, &draft, fresh(), None, now).await {
                Ok(service::Started { moved, .. }) => one.moved = Some(moved.id.as_uuid()),
                Err(error) => {
                    failed += 1;
                    one.reason = Some(error_chain(&error));
                }
            }
        }
    }
    if json {
        output::json(&planned)?;
    } else {
        show(&planned, apply)?;
    }
    if planned.iter().any(|one| one.moved.is_some()) {
        move_command::tell_if_nobody_drives(platform).await?;
    }
    match failed {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{failed} move(s) were not begun"))),
    }
}

fn show(planned: &[Planned], applied: bool) -> Result<(), Failure> {
    let rows = planned.iter().map(|one| {
        let becomes = match (&one.moved, &one.reason) {
            (Some(moved), _) => format!("move {moved}"),
            (None, Some(reason)) => format!("stays: {reason}"),
            (None, None) => "a database of its own".to_owned(),
        };
        [
            one.subdomain.clone(),
            one.subscription.to_owned(),
            one.rows.to_string(),
            indicatif::HumanBytes(one.bytes).to_string(),
            becomes,
        ]
    });
    let heading = ["ORCHESTRA", "SUBSCRIPTION", "ROWS, ABOUT", "SIZE, ABOUT", "BECOMES"];
    output::line(&output::table(heading, rows).to_string())?;
    if !applied && planned.iter().any(|one| one.moves) {
        output::line("Nothing was changed; with --apply these moves begin.")?;
    }
    Ok(())
}
