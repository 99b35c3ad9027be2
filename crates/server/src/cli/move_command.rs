//! `stagesub move`: orchestras go to other databases.
//!
//! The command writes what is wanted to the registry; whichever server has room drives it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use secrecy::SecretString;
use serde_json::{Value, json};
use stagesub_domain::ports::registry::{DedicatedPlace, TenantAccount};
use stagesub_domain::service::moves::{
    self as service, Destination, MoveDraft, ask_of_move, get_move, latest_move, list_moves,
};
use stagesub_tenancy::TenantId;
use stagesub_tenancy::clock::Clock;
use stagesub_tenancy::moves::{Move, MoveId, Request, Requester};

use super::args::TenantName;
use super::move_args::{
    Kind, MoveAskArgs, MoveCommand, MoveListArgs, MoveName, MoveStartArgs, MoveStatusArgs, Until,
};
use super::{Failure, connected, move_plan, move_watch, output, secret, tenant};
use crate::clock::SystemClock;
use crate::config::RawConfig;
use crate::handlers::platform_moves::body::{MoveBody, OutlookBody};
use crate::handlers::platform_moves::fresh;
use crate::jobs::nodes;
use crate::wiring::Platform;

/// Moves asked for at a time.
const PAGE: u32 = 200;

/// Runs the command. Secrets are read before anything is connected to.
pub async fn run(command: MoveCommand, raw: &RawConfig) -> Result<(), Failure> {
    match command {
        MoveCommand::Start(arguments) => {
            let draft = draft(&arguments)?;
            connected(raw, async |platform| start(platform, &arguments, &draft).await).await
        }
        MoveCommand::Status(arguments) => {
            connected(raw, async |platform| status(platform, arguments).await).await
        }
        MoveCommand::List(arguments) => {
            connected(raw, async |platform| list(platform, arguments).await).await
        }
        MoveCommand::Watch(arguments) => {
            connected(raw, async |platform| {
                let moved = find(platform, &arguments.which).await?;
                tell_if_nobody_drives(platform).await?;
                move_watch::watch(platform, moved.id, arguments.until, arguments.json).await
            })
            .await
        }
        MoveCommand::Abort(arguments) => {
            connected(raw, async |platform| ask(platform, arguments, Request::Abort).await).await
        }
        MoveCommand::Back(arguments) => {
            connected(raw, async |platform| ask(platform, arguments, Request::Back).await).await
        }
        MoveCommand::Finish(arguments) => {
            connected(raw, async |platform| ask(platform, arguments, Request::Finish).await).await
        }
        MoveCommand::Plan(arguments) => {
            connected(raw, async |platform| move_plan::run(platform, arguments).await).await
        }
    }
}

/// What is wanted; reads a connection string from stdin where that was said.
fn draft(arguments: &MoveStartArgs) -> Result<MoveDraft, Failure> {
    let from_stdin = || secret::connection_string().map(Some);
    let server = if arguments.server_stdin { from_stdin()? } else { arguments.server.clone() };
    let url = if arguments.url_stdin { from_stdin()? } else { arguments.url.clone() };
    Ok(MoveDraft {
        to: destination(arguments, server, url)?,
        path: arguments.path,
        pace: arguments.pace.pace(),
    })
}

fn destination(
    arguments: &MoveStartArgs,
    server: Option<SecretString>,
    url: Option<SecretString>,
) -> Result<Destination, Failure> {
    let place = match (server, url) {
        (Some(server), _) => Some(DedicatedPlace::Server(server)),
        (None, Some(url)) => Some(DedicatedPlace::Database(url)),
        (None, None) => None,
    };
    match (arguments.to, arguments.database, place) {
        (Kind::Dedicated, None, place) => Ok(Destination::Own(place.unwrap_or(DedicatedPlace::Beside))),
        (Kind::Shared, database, None) => Ok(Destination::Shared(database)),
        (Kind::Dedicated, Some(_), _) => {
            Err(Failure::wrong_use("an orchestra has one database of its own; --database names a shared one"))
        }
        (Kind::Shared, _, Some(_)) => Err(Failure::wrong_use(
            "no database is made for a move to a shared one; name it by its id, with --database",
        )),
    }
}

async fn start(platform: &Platform, arguments: &MoveStartArgs, draft: &MoveDraft) -> Result<(), Failure> {
    let account = tenant::find(platform, &arguments.tenant).await?;
    let (moving, by, now) = (platform.moving(), Requester::Platform, SystemClock.now());
    if arguments.dry_run {
        let outlook = service::plan_move(&moving, by, account.id, draft, fresh(), now).await?;
        let body = OutlookBody::from(outlook);
        if arguments.json {
            output::json(&body)?;
        } else {
            outlook_in_words(&account, &body)?;
        }
        return match body.obstacles.len() {
            0 => Ok(()),
            standing => Err(Failure::new(format!("{standing} thing(s) stand in the way of the move"))),
        };
    }
    let moved = service::start_move(&moving, by, account.id, draft, fresh(), None, now).await?.moved;
    let (id, is_watched) = (moved.id, arguments.watch);
    if arguments.json && !is_watched {
        return output::json(&with_nodes(platform, &MoveBody::new(moved, Vec::new())).await?);
    }
    if !arguments.json {
        let line = format!("Move {id} of {} has begun, on the path {}.", account.subdomain, moved.path);
        output::line(&line)?;
    }
    tell_if_nobody_drives(platform).await?;
    if is_watched { move_watch::watch(platform, id, arguments.until, arguments.json).await } else { Ok(()) }
}

fn outlook_in_words(account: &TenantAccount, body: &OutlookBody) -> Result<(), Failure> {
    let target = body.target.map_or_else(
        || "a database of its own, which would be made first".to_owned(),
        |target| format!("the database {target}"),
    );
    let row = |name: &str, value: String| [name.to_owned(), value];
    let rows = [
        row("orchestra", account.subdomain.to_string()),
        row("from", format!("the database {} ({})", body.source.database, body.source.placement)),
        row("to", target),
        row("path", body.path.to_owned()),
        row("a way back is kept", if body.keeps_way_back { "yes" } else { "no" }.to_owned()),
        row(
            "rows",
            body.rows.map_or_else(|| format!("more than {}", service::SHORT_ROWS), |rows| rows.to_string()),
        ),
        row("pace", move_watch::pace(body.pace)),
    ];
    output::line(&output::table(["FIELD", "VALUE"], rows).to_string())?;
    for obstacle in &body.obstacles {
        output::line(&format!("In the way: {obstacle}"))?;
    }
    if body.obstacles.is_empty() {
        let also =
            if body.target.is_none() { ", as far as can be told before the database is there" } else { "" };
        output::line(&format!("Nothing stands in the way{also}. Nothing was changed."))?;
    }
    Ok(())
}

/// Finds the move that the command line names.
async fn find(platform: &Platform, name: &MoveName) -> Result<Move, Failure> {
    let moving = platform.moving();
    let none = |tenant: &str| {
        Failure::new(format!("{tenant} has never been moved; `stagesub move list` shows moves"))
    };
    let of = match name {
        MoveName::Id(id) => {
            if let Ok(shown) = get_move(&moving, MoveId::from_uuid(*id)).await {
                return Ok(shown.moved);
            }
            TenantName::Id(TenantId::from_uuid(*id))
        }
        MoveName::Subdomain(subdomain) => TenantName::Subdomain(subdomain.clone()),
    };
    let account = match tenant::find(platform, &of).await {
        Ok(account) => account,
        Err(_) if matches!(name, MoveName::Id(_)) => {
            return Err(Failure::new(format!(
                "there is no move and no orchestra {name}; `stagesub move list` shows moves"
            )));
        }
        Err(failure) => return Err(failure),
    };
    latest_move(&moving, account.id).await?.ok_or_else(|| none(account.subdomain.as_str()))
}

async fn ask(platform: &Platform, arguments: MoveAskArgs, request: Request) -> Result<(), Failure> {
    let id = find(platform, &arguments.which).await?.id;
    let moved = ask_of_move(&platform.moving(), Requester::Platform, id, request).await?;
    if arguments.json {
        return output::json(&with_nodes(platform, &MoveBody::new(moved, Vec::new())).await?);
    }
    let what = match request {
        Request::Abort => "be aborted",
        Request::Back => "go back",
        Request::Finish => "be finished",
    };
    output::line(&format!("Move {id} is to {what}; `stagesub move watch {id}` looks on."))?;
    tell_if_nobody_drives(platform).await
}

async fn status(platform: &Platform, arguments: MoveStatusArgs) -> Result<(), Failure> {
    let Some(which) = arguments.which else {
        let live = collect(platform, None, u32::MAX, |moved| moved.ended_at.is_none()).await?;
        tell_if_nobody_drives(platform).await?;
        return show_all(platform, live, arguments.json).await;
    };
    let id = find(platform, &which).await?.id;
    let shown = get_move(&platform.moving(), id).await?;
    let tenant = shown.moved.tenant;
    let body = MoveBody::whole(shown);
    if arguments.json {
        return output::json(&with_nodes(platform, &body).await?);
    }
    let account = platform.tenants().find(tenant).await?;
    let name = account.map_or_else(|| tenant.to_string(), |account| account.subdomain.to_string());
    move_watch::show(&name, &body)?;
    if body.has_ended() { Ok(()) } else { tell_if_nobody_drives(platform).await }
}

async fn list(platform: &Platform, arguments: MoveListArgs) -> Result<(), Failure> {
    let of = match &arguments.tenant {
        Some(name) => Some(tenant::find(platform, name).await?.id),
        None => None,
    };
    let moves = collect(platform, of, arguments.limit, |_| true).await?;
    show_all(platform, moves, arguments.json).await
}

/// Pages of moves, put together: at most `limit` that are `wanted`.
async fn collect(
    platform: &Platform,
    of: Option<TenantId>,
    limit: u32,
    wanted: impl Fn(&Move) -> bool,
) -> Result<Vec<Move>, Failure> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let (mut moves, mut after) = (Vec::new(), None);
    loop {
        let page = list_moves(&platform.moving(), of, after, PAGE).await?;
        moves.extend(page.items.into_iter().filter(&wanted));
        after = page.next;
        if after.is_none() || moves.len() >= limit {
            moves.truncate(limit);
            return Ok(moves);
        }
    }
}

async fn show_all(platform: &Platform, moves: Vec<Move>, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let bodies: Vec<MoveBody> = moves.into_iter().map(|moved| MoveBody::new(moved, Vec::new())).collect();
        return output::json(&bodies);
    }
    let mut names = HashMap::new();
    for moved in &moves {
        if let Entry::Vacant(unknown) = names.entry(moved.tenant) {
            let account = platform.tenants().find(moved.tenant).await?;
            unknown.insert(account.map_or_else(String::new, |account| account.subdomain.to_string()));
        }
    }
    let rows = moves.into_iter().map(|moved| {
        let subdomain = names.get(&moved.tenant).cloned().unwrap_or_default();
        let body = MoveBody::new(moved, Vec::new());
        [
            body.id.to_string(),
            subdomain,
            body.state.to_owned(),
            body.wanted.unwrap_or_default().to_owned(),
            format!("{} to {}", body.source.placement, body.target.placement),
            body.path.to_owned(),
            move_watch::pause(body.pause_ms),
            body.created_at.format("%Y-%m-%d %H:%M:%S").to_string(),
            body.error.unwrap_or_default(),
        ]
    });
    let heading = ["ID", "ORCHESTRA", "STATE", "WANTED", "FROM AND TO", "PATH", "PAUSE", "BEGUN", "ERROR"];
    output::line(&output::table(heading, rows).to_string())
}

/// As the API shows it, with how many nodes there are to drive it.
async fn with_nodes(platform: &Platform, body: &MoveBody) -> Result<Value, Failure> {
    let mut value = serde_json::to_value(body)
        .map_err(|error| Failure::new(format!("the answer could not be written as JSON: {error}")))?;
    let nodes = live_nodes(platform).await?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("nodes".to_owned(), json!(nodes));
    }
    Ok(value)
}

async fn live_nodes(platform: &Platform) -> Result<u32, Failure> {
    platform.nodes().count(nodes::LEASE).await.map_err(|error| Failure::of(&error))
}

/// A command only writes down what is wanted.
pub(super) async fn tell_if_nobody_drives(platform: &Platform) -> Result<(), Failure> {
    if live_nodes(platform).await? == 0 {
        output::note(
            "No server of this platform runs, and only a server drives moves: it goes on when one is started.",
        );
    }
    Ok(())
}

/// The same until, for whoever starts several.
pub(super) const fn is_there(until: Until, body: &MoveBody) -> bool {
    let is_active = matches!(body.state.as_bytes(), b"active") && body.wanted.is_none();
    let is_finished = matches!(body.state.as_bytes(), b"finished");
    match until {
        Until::Active => is_active || is_finished,
        Until::Finished => is_finished && body.has_ended(),
    }
}
