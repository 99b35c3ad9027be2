//! What stands in the way of a move, in words, each with what to do about it, all at once.
//!
//! - `server.rs` what a server and the mover's login there are, and what they lack
//! - `side.rs` what is tried and asked in one database
//! - `tenant.rs` what each side holds of the tenant, and whether the two sides are made alike
//! - `sweep.rs` what moves left that are over
//!
//! It reads and never writes ([`sweep`] apart), and it looks at both sides as the mover, as which the move would run.
//! What a database could do a moment later is tried then: nothing here is a promise.

mod server;
mod side;
mod sweep;
mod tenant;

use sqlx::PgConnection;
use sqlx::error::DatabaseError;
use stagesub_tenancy::Located;
use stagesub_tenancy::moves::{Move, MovePath, NewTarget};
use uuid::Uuid;

use super::plan::{Checks, Contents, MovePlan, PlanError};
use super::session::{MoverSession, SessionError, Site};
use crate::identity::ConnectError;

pub use sweep::{SweepError, Swept, sweep};

/// Most differences between two schemas that are told one by one.
const MOST_DIFFERENCES: usize = 10;

/// It is not known what stands in the way.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreflightError {
    /// A database did not answer now.
    #[error("it could not be looked whether the tenant can be moved")]
    Session(#[from] SessionError),
    /// The catalogue could not be read.
    #[error("it could not be looked whether the tenant can be moved")]
    Plan(#[from] PlanError),
    /// A question failed.
    #[error("{database} did not say whether the tenant can be moved")]
    Question {
        /// Which, without secrets.
        database: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
}

/// Everything that stands in the way of this move; nothing does: empty.
///
/// # Errors
/// [`PreflightError`] where a database is away, which may pass. What an administrator has to mend is an obstacle.
///
/// # Cancel safety
/// Dropping the future closes its sessions.
pub async fn obstacles(
    moved: &Move,
    source: &Site,
    target: &Site,
    contents: &Contents,
) -> Result<Vec<String>, PreflightError> {
    let mut found = Vec::new();
    let (source_session, target_session) = tokio::join!(open(source), open(target));
    let source_session = taken("the source", source_session?, &mut found);
    let target_session = taken("the target", target_session?, &mut found);
    let (Some(mut at_source), Some(mut at_target)) = (source_session, target_session) else {
        return Ok(found);
    };
    let server = server::Server::read(&mut at_source).await?;
    let other = server::Server::read(&mut at_target).await?;
    let one_server = server.is(&other);
    for (server, site, session) in [(&server, source, &mut at_source), (&other, target, &mut at_target)] {
        let needed = server::Needed { path: moved.path, streams: if one_server { 2 } else { 1 } };
        found.extend(server.obstacles(&needed, moved.id.as_uuid()));
        if moved.path == MovePath::Stream && server.may_stream() {
            found.extend(side::try_streaming(site, moved.id.as_uuid()).await);
        }
        found.extend(side::guards(session).await?);
    }
    if moved.path == MovePath::Stream {
        found.extend(server.long_transactions());
    }
    // Each side is filled by the other, there or back.
    let (source_plan, target_plan) = (
        plan(&mut at_source, contents, other.checks(), &mut found).await?,
        plan(&mut at_target, contents, server.checks(), &mut found).await?,
    );
    found.extend(tenant::versions(&mut at_source, &mut at_target).await?);
    // What the mover may not read is told; asking for it would be no answer.
    let mut readable = server.reads_rows() && other.reads_rows();
    for (plan, session) in [(&source_plan, &mut at_source), (&target_plan, &mut at_target)] {
        if let Some(plan) = plan {
            let lacking = side::privileges(session, plan, moved.path).await?;
            readable &= lacking.is_empty();
            found.extend(lacking);
        }
    }
    if let (Some(source), Some(target)) = (&source_plan, &target_plan) {
        found.extend(tenant::differences(source, target));
    }
    if readable {
        let plan = target_plan.as_ref();
        found.extend(tenant::serving(moved, &mut at_source, &mut at_target, plan).await?);
    }
    at_source.close().await;
    at_target.close().await;
    Ok(found)
}

/// What one database lacks for tenants to be moved out of it and into it along this path.
///
/// # Errors
/// [`PreflightError`].
pub async fn obstacles_at(
    site: &Site,
    contents: &Contents,
    path: MovePath,
) -> Result<Vec<String>, PreflightError> {
    obstacles_for(site, contents, path, None).await
}

/// The same, where the other side is to be made on a server that was looked at; what that lacks is among it.
async fn obstacles_for(
    site: &Site,
    contents: &Contents,
    path: MovePath,
    target: Option<&NewTarget>,
) -> Result<Vec<String>, PreflightError> {
    let mut found = Vec::new();
    let Some(mut session) = taken("the database", open(site).await?, &mut found) else { return Ok(found) };
    let server = server::Server::read(&mut session).await?;
    let here = target.is_some_and(|target| server.is_called(&target.server_identifier));
    let streams = if here { 2 } else { 1 };
    found.extend(server.obstacles(&server::Needed { path, streams }, site.move_id()));
    if let Some(target) = target.filter(|_| !here) {
        let lacks = if path == MovePath::Stream { &target.streaming } else { &target.obstacles };
        found.extend(lacks.iter().cloned());
    }
    if path == MovePath::Stream {
        if server.may_stream() {
            found.extend(side::try_streaming(site, site.move_id()).await);
        }
        found.extend(server.long_transactions());
    }
    found.extend(side::guards(&mut session).await?);
    if let Some(plan) = plan(&mut session, contents, server.checks(), &mut found).await? {
        found.extend(side::privileges(&mut session, &plan, path).await?);
    }
    session.close().await;
    Ok(found)
}

/// The same for a tenant that is there, whose other side is not made yet; `target`: the server that it would be made
/// on, if that was looked at.
///
/// # Errors
/// [`PreflightError`].
pub async fn obstacles_at_source(
    site: &Site,
    source: &Located,
    contents: &Contents,
    path: MovePath,
    target: Option<&NewTarget>,
) -> Result<Vec<String>, PreflightError> {
    let mut found = obstacles_for(site, contents, path, target).await?;
    // Why there is none is told already.
    if let Ok(mut session) = open(site).await? {
        found.extend(tenant::served(source.tenant, source.epoch, &mut session).await?);
        session.close().await;
    }
    Ok(found)
}

/// What a server is like that a database is to be made on, seen by whoever is to make it. What is asked of the mover's
/// login, which may not be there yet, is not looked at.
pub(crate) async fn new_target(conn: &mut PgConnection, described: &str) -> Result<NewTarget, sqlx::Error> {
    let server = server::Server::read_as_another(conn, described).await?;
    let lacks = |path| server.obstacles(&server::Needed { path, streams: 1 }, Uuid::nil());
    Ok(NewTarget {
        server_identifier: server.identifier().to_owned(),
        decodes: server.decodes(),
        obstacles: lacks(MovePath::Triggers),
        streaming: lacks(MovePath::Stream),
    })
}

/// A session, or why an administrator has to see to it that there is one.
async fn open(site: &Site) -> Result<Result<MoverSession, String>, PreflightError> {
    match site.open("preflight").await {
        Ok(session) => Ok(Ok(session)),
        Err(SessionError::Connect { database, source }) => match refused(&source) {
            Some(why) => Ok(Err(format!("the mover cannot use {database}: {why}"))),
            None => Err(SessionError::Connect { database, source }.into()),
        },
        Err(error) => Err(error.into()),
    }
}

fn taken(what: &str, opened: Result<MoverSession, String>, found: &mut Vec<String>) -> Option<MoverSession> {
    opened.map_err(|why| found.push(format!("{what}: {why}"))).ok()
}

/// Why the server let nobody in, where that does not pass by itself.
fn refused(error: &ConnectError) -> Option<String> {
    match error {
        ConnectError::WrongDatabase { detail } => Some(format!(
            "it is not the database that the registry has there ({detail}); correct its connection strings with `stagesub migrate`"
        )),
        ConnectError::Database(source) => {
            let code = source.as_database_error().and_then(DatabaseError::code)?;
            // Who asks is not let in (28), the database is not there (3D), a privilege is missing (42501).
            let lasting = code.starts_with("28") || code.starts_with("3D") || code == "42501";
            lasting.then(|| {
                format!("{source}; let stagesub_mover in with the password that the registry holds, or run `stagesub migrate`")
            })
        }
    }
}

async fn plan(
    session: &mut MoverSession,
    contents: &Contents,
    checks: Checks,
    found: &mut Vec<String>,
) -> Result<Option<MovePlan>, PreflightError> {
    let database = session.describe().to_owned();
    match MovePlan::read(session, contents, checks).await {
        Ok(plan) => Ok(Some(plan)),
        Err(error @ PlanError::Catalogue { .. }) => Err(error.into()),
        Err(PlanError::Refused(refusals)) => {
            found.extend(
                refusals
                    .iter()
                    .map(|refusal| format!("{database}: a move cannot take {refusal}; change the table")),
            );
            Ok(None)
        }
        Err(error) => {
            found.push(format!("{database}: {error}"));
            Ok(None)
        }
    }
}

/// Adds whom was asked to a driver's error.
fn asking(session: &MoverSession) -> impl Fn(sqlx::Error) -> PreflightError + use<> {
    let database = session.describe().to_owned();
    move |source| PreflightError::Question { database: database.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_away_may_come_back_and_a_wrong_database_does_not_mend_itself() {
        let away = sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into());
        assert_eq!(refused(&ConnectError::Database(away)), None);
        let wrong = ConnectError::WrongDatabase { detail: "it bears no marker".to_owned() };
        let why = refused(&wrong).expect("an administrator's to mend");
        assert!(why.contains("it bears no marker") && why.contains("stagesub migrate"), "{why}");
    }
}
