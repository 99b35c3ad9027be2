//! A move, looked at while it goes on: a bar on a terminal, lines elsewhere.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use stagesub_domain::service::moves::get_move;
use stagesub_tenancy::moves::MoveId;
use tokio::time::Instant;

use super::move_args::Until;
use super::{Failure, move_command, output};
use crate::handlers::platform_moves::body::MoveBody;
use crate::wiring::Platform;

/// How often the move is looked at.
const PERIOD: Duration = Duration::from_millis(500);

/// How often a line is written of a copy that goes on, where there is no terminal.
const LINES: Duration = Duration::from_secs(5);

/// Longest that the registry may be away.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks on until the move is where it was to come, or has ended otherwise.
pub(super) async fn watch(platform: &Platform, id: MoveId, until: Until, json: bool) -> Result<(), Failure> {
    let mut screen = Screen::new(json);
    let mut seen = Instant::now();
    let mut leaves = None;
    loop {
        match get_move(&platform.moving(), id).await {
            Ok(shown) => {
                seen = Instant::now();
                let total = screen.wants_total(shown.moved.state);
                if total {
                    screen.total = count(platform, &shown.moved).await;
                }
                let body = MoveBody::whole(shown);
                screen.show(&body)?;
                if stays(&mut leaves, &body) {
                    screen.leave();
                    let why = body.error.unwrap_or_else(|| "nobody says why".to_owned());
                    return Err(Failure::new(format!(
                        "going back was given up, and the {} serves the orchestra as before: {why}; \
                         `stagesub move back` asks for it again",
                        body.served_by
                    )));
                }
                if move_command::is_there(until, &body) {
                    return screen.end(&body);
                }
                if body.has_ended() || body.state == "aborted" {
                    screen.leave();
                    let why = body.error.unwrap_or_else(|| "nobody says why".to_owned());
                    return Err(Failure::new(format!("the move was {}: {why}", body.state)));
                }
            }
            Err(error) if seen.elapsed() < PATIENCE => {
                tracing::debug!(cause = %crate::problem::error_chain(&error), "the move is not to be seen");
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Whether the move was to go back and does not. `leaves` is the side that it was to leave.
fn stays(leaves: &mut Option<&'static str>, body: &MoveBody) -> bool {
    if body.wanted == Some("back") || body.state == "back" {
        *leaves = Some(body.served_by);
        return false;
    }
    body.state == "active" && *leaves == Some(body.served_by)
}

/// How many rows there are to copy; `None`: that is not to be had soon.
async fn count(platform: &Platform, moved: &stagesub_tenancy::moves::Move) -> Option<u64> {
    let counted = platform.moving().surveyor.rows(moved.tenant, moved.source, u64::MAX - 1).await;
    counted.ok().filter(|rows| *rows > 0)
}

/// Where a move is shown, and what was shown before.
struct Screen {
    json: bool,
    bar: Option<ProgressBar>,
    /// Rows there are to copy; nobody has counted them yet, or it did not succeed.
    total: Option<u64>,
    asked: bool,
    told: Option<MoveBody>,
    wrote: Instant,
    /// When the first row was seen, and how many there were then.
    since: Option<(Instant, u64, u64)>,
}

impl Screen {
    fn new(json: bool) -> Self {
        let bar = (!json && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(plain());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let wrote = Instant::now();
        Self { json, bar, total: None, asked: false, told: None, wrote, since: None }
    }

    /// Whether it is worth to count what there is to copy: once, before it is copied.
    fn wants_total(&mut self, state: stagesub_tenancy::moves::MoveState) -> bool {
        use stagesub_tenancy::moves::MoveState::{Copy, Prepare, Slot};
        !self.json && matches!(state, Prepare | Slot | Copy) && !std::mem::replace(&mut self.asked, true)
    }

    fn show(&mut self, body: &MoveBody) -> Result<(), Failure> {
        let is_other = self.told.as_ref() != Some(body);
        let is_further =
            self.told.as_ref().is_none_or(|told| (told.state, told.wanted) != (body.state, body.wanted));
        if self.json {
            if is_other {
                output::json(body)?;
            }
        } else {
            let line = self.line(body);
            match &self.bar {
                Some(bar) => {
                    if let (Some(total), Some(rows)) = (self.total, body.rows_copied) {
                        bar.set_style(counted());
                        bar.set_length(total.max(rows));
                        bar.set_position(rows);
                    }
                    bar.set_message(line);
                }
                None if is_further || (is_other && self.wrote.elapsed() >= LINES) => {
                    self.wrote = Instant::now();
                    output::line(&line)?;
                }
                None => {}
            }
        }
        self.told = Some(body.clone());
        Ok(())
    }

    /// A move on one line.
    fn line(&mut self, body: &MoveBody) -> String {
        let mut parts = vec![in_words(body)];
        if let (Some(rows), Some(bytes)) = (body.rows_copied, body.bytes_copied) {
            let (since, first_rows, first_bytes) = *self.since.get_or_insert((Instant::now(), rows, bytes));
            if self.bar.is_none() || self.total.is_none() {
                parts.push(format!("{rows} rows"));
            }
            parts.push(HumanBytes(bytes).to_string());
            if body.state == "copy" {
                let rate =
                    Rate::of(since.elapsed(), rows - first_rows.min(rows), bytes - first_bytes.min(bytes));
                parts.extend(
                    rate.map(|rate| rate.in_words(self.total.map(|total| total.saturating_sub(rows)))),
                );
            }
        }
        if body.lag_ms.is_some() {
            parts.push(format!("{} behind", pause(body.lag_ms)));
        }
        if body.pause_ms.is_some() {
            parts.push(format!("the orchestra waited {}", pause(body.pause_ms)));
        }
        parts.join(", ")
    }

    fn leave(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn end(&self, body: &MoveBody) -> Result<(), Failure> {
        self.leave();
        if self.json {
            return Ok(());
        }
        let side = if body.served_by == "source" { &body.source } else { &body.target };
        let waited = match body.pause_ms {
            Some(_) => format!("; the orchestra waited {}", pause(body.pause_ms)),
            None => String::new(),
        };
        output::line(&format!("The {} database {} serves it now{waited}.", side.placement, side.database))
    }
}

/// How fast a copy is.
struct Rate {
    rows: f64,
    bytes: f64,
}

impl Rate {
    /// None: too early to tell.
    fn of(within: Duration, rows: u64, bytes: u64) -> Option<Self> {
        let seconds = within.as_secs_f64();
        // Shown to people, with three digits.
        #[expect(clippy::cast_precision_loss, reason = "nobody reads more digits")]
        let each = |count: u64| count as f64 / seconds;
        (rows > 0 && seconds >= 1.0).then(|| Self { rows: each(rows), bytes: each(bytes) })
    }

    fn in_words(&self, left: Option<u64>) -> String {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is a rate, and shown to people"
        )]
        let bytes = HumanBytes(self.bytes as u64);
        let rate = format!("{bytes}/s, {:.0} rows/s", self.rows);
        #[expect(clippy::cast_precision_loss, reason = "nobody reads more digits")]
        let left = left.map(|rows| Duration::from_secs_f64((rows as f64 / self.rows).min(1e9)));
        left.map_or(rate.clone(), |left| format!("{rate}, {} left", HumanDuration(left)))
    }
}

fn plain() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is one")
}

fn counted() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} [{bar:24}] {human_pos}/{human_len} rows, {wide_msg}")
        .expect("the template is one")
        .progress_chars("=> ")
}

/// What a move is doing.
fn in_words(body: &MoveBody) -> String {
    let doing = match body.state {
        "prepare" => "looking whether it can be moved",
        "slot" => "making what streams the changes",
        "copy" => "copying the rows",
        "catch_up" => "catching up with the changes",
        "verify" => "comparing both sides",
        "fence" => "cutting over now",
        "decided" => "opening the other side",
        "active" if body.served_by == "source" => {
            "active: it is back where it came from, and can go there again"
        }
        "active" => "active: it is there, and can go back",
        "back" => "going back",
        "finished" if body.has_ended() => "finished",
        "finished" => "finished, and tidying",
        "aborted" if body.has_ended() => "aborted",
        "aborted" => "aborted, and tidying",
        other => other,
    };
    let wanted = body.wanted.map(|wanted| format!(" ({wanted} is asked for)")).unwrap_or_default();
    format!("{doing}{wanted}")
}

/// A pause, for people.
pub(super) fn pause(pause_ms: Option<f64>) -> String {
    pause_ms.map_or_else(String::new, |pause| format!("{pause:.1} ms"))
}

/// A pace, for people.
pub(super) fn pace(pace: Option<u32>) -> String {
    pace.map_or_else(
        || "as fast as it goes".to_owned(),
        |pace| format!("{} MB a second", f64::from(pace) / 1e6),
    )
}

/// A move, field by field, and its tables.
pub(super) fn show(subdomain: &str, body: &MoveBody) -> Result<(), Failure> {
    let row = |name: &str, value: String| [name.to_owned(), value];
    let side = |side: &crate::handlers::platform_moves::body::SideBody| {
        format!("{} ({})", side.database, side.placement)
    };
    let mut rows = vec![
        row("move", body.id.to_string()),
        row("orchestra", format!("{subdomain} ({})", body.tenant_id)),
        row("state", body.state.to_owned()),
        row("doing", in_words(body)),
        row("from", side(&body.source)),
        row("to", side(&body.target)),
        row("served by", body.served_by.to_owned()),
        row("path", body.path.to_owned()),
        row("pace", pace(body.pace)),
        row("behind", pause(body.lag_ms)),
        row("pause", pause(body.pause_ms)),
        row("cutovers given up", body.attempts.to_string()),
        row("begun", body.created_at.to_rfc3339()),
        row("changed", body.updated_at.to_rfc3339()),
    ];
    rows.extend(body.ended_at.map(|at| row("ended", at.to_rfc3339())));
    rows.extend(body.error.clone().map(|error| row("last error", error)));
    output::line(&output::table(["FIELD", "VALUE"], rows).to_string())?;
    if body.tables.is_empty() {
        return Ok(());
    }
    let tables = body.tables.iter().map(|table| {
        let done = if table.done { "yes" } else { "" };
        [table.table.clone(), table.rows.to_string(), HumanBytes(table.bytes).to_string(), done.to_owned()]
    });
    output::line(&output::table(["TABLE", "ROWS", "SIZE", "DONE"], tables).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(state: &'static str, wanted: Option<&'static str>, ended: bool) -> MoveBody {
        use crate::handlers::platform_moves::body::SideBody;
        let id = uuid::Uuid::from_u128(1);
        let side = SideBody { database: id, placement: "shared" };
        MoveBody {
            id,
            tenant_id: id,
            state,
            path: "stream",
            source: side.clone(),
            target: side,
            served_by: "target",
            wanted,
            pause_ms: Some(9.54),
            lag_ms: None,
            attempts: 0,
            pace: None,
            error: None,
            rows_copied: Some(1_000),
            bytes_copied: Some(2_048),
            tables: Vec::new(),
            started_by: None,
            created_at: chrono::DateTime::UNIX_EPOCH,
            updated_at: chrono::DateTime::UNIX_EPOCH,
            ended_at: ended.then_some(chrono::DateTime::UNIX_EPOCH),
        }
    }

    #[test]
    fn a_move_is_there_when_nothing_that_was_asked_is_left_to_do() {
        let there = |until, body: &MoveBody| move_command::is_there(until, body);
        assert!(there(Until::Active, &body("active", None, false)));
        assert!(!there(Until::Active, &body("active", Some("back"), false)));
        assert!(!there(Until::Active, &body("copy", None, false)));
        // A short one is not active for long.
        assert!(there(Until::Active, &body("finished", None, true)));
        assert!(!there(Until::Finished, &body("active", None, false)));
        assert!(!there(Until::Finished, &body("finished", None, false)), "it tidies still");
        assert!(there(Until::Finished, &body("finished", None, true)));
        assert!(!there(Until::Finished, &body("aborted", None, true)));
    }

    #[test]
    fn a_move_that_was_to_go_back_and_did_not_is_told_from_one_that_is_back() {
        let mut leaves = None;
        let step = |leaves: &mut _, state, wanted, served_by| {
            stays(leaves, &MoveBody { served_by, ..body(state, wanted, false) })
        };
        assert!(!step(&mut leaves, "active", None, "target"), "nobody has asked for anything");
        assert!(!step(&mut leaves, "active", Some("back"), "target"));
        assert!(!step(&mut leaves, "back", None, "target"));
        assert!(step(&mut leaves, "active", None, "target"));
        assert!(!step(&mut leaves, "active", None, "source"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_says_how_far_how_fast_and_how_long() {
        let mut screen = Screen { bar: None, ..Screen::new(true) };
        screen.total = Some(5_000);
        let first = screen.line(&body("copy", None, false));
        assert_eq!(first, "copying the rows, 1000 rows, 2.00 KiB, the orchestra waited 9.5 ms");
        tokio::time::advance(Duration::from_secs(2)).await;
        let further =
            MoveBody { rows_copied: Some(3_000), bytes_copied: Some(6_144), ..body("copy", None, false) };
        let line = screen.line(&further);
        assert!(line.contains("2.00 KiB/s, 1000 rows/s, 2 seconds left"), "{line}");
        let behind = MoveBody { lag_ms: Some(1.25), rows_copied: None, ..body("active", None, false) };
        assert!(screen.line(&behind).contains("1.2 ms behind"), "{}", screen.line(&behind));
        assert!(in_words(&body("active", Some("finish"), false)).contains("finish is asked for"));
        assert_eq!((pause(None).as_str(), pace(Some(2_500_000)).as_str()), ("", "2.5 MB a second"));
    }

    #[test]
    fn every_state_has_words() {
        for state in stagesub_tenancy::moves::MoveState::ALL {
            let words = in_words(&body(state.as_str(), None, false));
            assert!(words.contains(' '), "{state}: {words}");
        }
    }
}
