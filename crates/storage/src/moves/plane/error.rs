//! Which failures may pass, and which never will.

use std::error::Error;

use stagesub_tenancy::moves::PlaneError;
use stagesub_tenancy::{BoxError, DirectoryError};

use crate::error::sqlstate;
use crate::identity::ConnectError;
use crate::moves::apply::ApplyError;
use crate::moves::change_log::ChangeLogError;
use crate::moves::copy::CopyError;
use crate::moves::fence::FenceError;
use crate::moves::plan::PlanError;
use crate::moves::preflight::{PreflightError, SweepError};
use crate::moves::progress::ProgressError;
use crate::moves::session::SessionError;
use crate::moves::slot::{PublicationError, SlotError, StreamError};
use crate::moves::verify::VerifyError;

/// Classes of SQLSTATE that the same statement meets again: data that does not fit, constraints, names that are not
/// there or may not be used, what the server cannot do. And its disk is full: who tries again fills it again, and a server
/// that cannot write its log stops.
const FOR_GOOD: [&str; 5] = ["22", "23", "42", "0A", "53100"];

/// An error with its causes, on one line.
pub(super) fn words(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// It did not succeed now.
pub(super) fn later(doing: &'static str, source: impl Into<BoxError>) -> PlaneError {
    PlaneError::Unavailable { doing, source: source.into() }
}

/// It never will.
fn never(doing: &str, error: &(dyn Error + 'static)) -> PlaneError {
    PlaneError::Refused(format!("{doing}: {}", words(error)))
}

fn is_for_good(error: &sqlx::Error) -> bool {
    sqlstate(error).is_some_and(|code| stays(&code))
}

/// Whether what raised this is met again.
fn stays(code: &str) -> bool {
    FOR_GOOD.iter().any(|class| code.starts_with(class))
}

/// Of a statement.
pub(super) fn sql(doing: &'static str) -> impl FnOnce(sqlx::Error) -> PlaneError {
    move |error| if is_for_good(&error) { never(doing, &error) } else { later(doing, error) }
}

pub(super) fn directory(doing: &'static str) -> impl FnOnce(DirectoryError) -> PlaneError {
    move |error| later(doing, error)
}

pub(super) fn session(error: SessionError) -> PlaneError {
    let doing = "opening a session";
    match &error {
        SessionError::Connect { source: ConnectError::WrongDatabase { .. }, .. } => never(doing, &error),
        _ => later(doing, error),
    }
}

pub(super) fn plan(error: PlanError) -> PlaneError {
    let doing = "reading which tables there are";
    match &error {
        PlanError::Catalogue { .. } => later(doing, error),
        _ => never(doing, &error),
    }
}

/// What an administrator has to mend is no error of looking.
pub(super) fn preflight(error: PreflightError) -> PlaneError {
    match error {
        PreflightError::Session(error) => session(error),
        PreflightError::Plan(error) => plan(error),
        PreflightError::Question { .. } => later("looking for obstacles", error),
    }
}

/// What is left of older moves may be removed by the next one.
pub(super) fn sweep(error: SweepError) -> PlaneError {
    later("removing what older moves left", error)
}

pub(super) fn copy(error: CopyError) -> PlaneError {
    let doing = "copying";
    match &error {
        CopyError::Session(_) | CopyError::Snapshot(_) => later(doing, error),
        CopyError::Source { source, .. } | CopyError::Target { source, .. } if !is_for_good(source) => {
            later(doing, error)
        }
        _ => never(doing, &error),
    }
}

pub(super) fn verify(error: VerifyError) -> PlaneError {
    let doing = "comparing";
    match &error {
        VerifyError::Side { source, .. } if is_for_good(source) => never(doing, &error),
        VerifyError::Session(_) | VerifyError::Side { .. } => later(doing, error),
        VerifyError::NoKey(_) => never(doing, &error),
    }
}

pub(super) fn publication(error: PublicationError) -> PlaneError {
    let doing = "making or removing a publication";
    match &error {
        PublicationError::Database(source) if !is_for_good(source) => later(doing, error),
        PublicationError::StillWritten { .. } => later(doing, error),
        _ => never(doing, &error),
    }
}

pub(super) fn slot(error: SlotError) -> PlaneError {
    later("ending sessions or removing a slot", error)
}

pub(super) fn progress(error: ProgressError) -> PlaneError {
    later("keeping how far a stream is", error)
}

pub(super) fn stream(error: StreamError) -> PlaneError {
    let doing = "streaming changes";
    match &error {
        StreamError::Unsupported(_) | StreamError::Decode(_) => never(doing, &error),
        _ => later(doing, error),
    }
}

pub(super) fn change_log(error: ChangeLogError) -> PlaneError {
    let doing = "logging changes";
    match &error {
        ChangeLogError::Busy { .. } => later(doing, error),
        ChangeLogError::Database { source, .. } if !is_for_good(source) => later(doing, error),
        _ => never(doing, &error),
    }
}

pub(super) fn apply(error: ApplyError) -> PlaneError {
    let doing = "applying changes";
    match error {
        ApplyError::Stream(error) => stream(error),
        ApplyError::Progress(error) => progress(error),
        error @ (ApplyError::Overtaken | ApplyError::Target { .. }) => later(doing, error),
        ApplyError::Change { ref source, .. } if !is_for_good(source) => later(doing, error),
        error => never(doing, &error),
    }
}

pub(super) fn fence(error: FenceError) -> PlaneError {
    let doing = "writing the tenant's fence";
    match &error {
        FenceError::Failed(source) if !is_for_good(source) => later(doing, error),
        _ => never(doing, &error),
    }
}

#[cfg(test)]
mod tests {
    use stagesub_tenancy::PlacementEpoch;

    use super::*;
    use crate::catalogue::TableName;
    use crate::moves::lsn::Lsn;

    fn passes(error: &PlaneError) -> bool {
        matches!(error, PlaneError::Unavailable { .. })
    }

    #[test]
    fn a_full_disk_is_not_filled_again_and_a_crowded_server_is_asked_again() {
        for (code, again) in
            [("23505", false), ("42501", false), ("53100", false), ("53300", true), ("57P01", true)]
        {
            assert_eq!(stays(code), !again, "{code}");
        }
    }

    #[test]
    fn a_connection_that_is_lost_may_come_again_and_a_rogue_writer_is_the_end() {
        let table = || TableName { schema: "tenant".to_owned(), name: "note".to_owned() };
        let lost = || sqlx::Error::PoolClosed;
        assert!(passes(&sql("asking")(lost())));
        assert!(passes(&apply(ApplyError::Change { table: table(), source: lost() })));
        assert!(passes(&apply(ApplyError::Stream(StreamError::Ended))));
        assert!(passes(&copy(CopyError::Source { table: table(), source: lost() })));
        assert!(!passes(&copy(CopyError::Miscounted { table: table(), sent: 2, taken: 1 })));
        assert!(!passes(&apply(ApplyError::Rogue { table: table(), lsn: Lsn(1) })));
        assert!(!passes(&apply(ApplyError::MissingRow { table: table() })));
        assert!(!passes(&fence(FenceError::Lost { expected: PlacementEpoch(3) })));
        let refused = stream(StreamError::Unsupported("a socket whose path is not UTF-8"));
        assert_eq!(
            refused.to_string(),
            "streaming changes: a replication session cannot be opened over a socket whose path is not UTF-8"
        );
    }
}
