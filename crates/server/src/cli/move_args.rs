//! Arguments of `stagesub move`.

use std::num::NonZeroU32;
use std::str::FromStr;

use clap::{ArgGroup, Args, Subcommand};
use secrecy::SecretString;
use stagesub_domain::service::moves::{By, Pace};
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::moves::MovePath;
use stagesub_tenancy::{DatabaseId, Subdomain};
use uuid::Uuid;

use super::args::TenantName;

/// `stagesub move ...`
#[derive(Debug, Subcommand)]
pub enum MoveCommand {
    /// Move an orchestra to another database while it is in use.
    Start(MoveStartArgs),
    /// Show a move, an orchestra's last one, or all that go on.
    Status(MoveStatusArgs),
    /// List moves, the newest first.
    List(MoveListArgs),
    /// Look on while a move goes on. Exit code 0: it came where it was to come; 1: it did not.
    Watch(MoveWatchArgs),
    /// Have a move aborted that is not decided yet: the orchestra stays where it is.
    Abort(MoveAskArgs),
    /// Have an orchestra whose move is active go back to where it came from.
    Back(MoveAskArgs),
    /// End an active move: the orchestra stays where it is now.
    Finish(MoveAskArgs),
    /// Say which orchestras of a shared database are the largest, and move them to databases of their own.
    Plan(MovePlanArgs),
}

/// `stagesub move start`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("place").args(["server", "server_stdin", "url", "url_stdin"]))]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct MoveStartArgs {
    /// Its subdomain or id.
    pub tenant: TenantName,
    /// `dedicated`, a database of its own (institution only), or `shared`.
    #[arg(long, value_name = "KIND")]
    pub to: Kind,
    /// The shared database to move to [default: the other one with the fewest orchestras].
    #[arg(long, value_name = "ID", value_parser = database)]
    pub database: Option<DatabaseId>,
    /// Make the database on another server: a connection string without a password of a login that may make databases
    /// and roles.
    #[arg(long, value_name = "URL", value_parser = without_password)]
    pub server: Option<SecretString>,
    /// The same, read from stdin's first line, with its password.
    #[arg(long)]
    pub server_stdin: bool,
    /// Take this empty database: a connection string without a password of the login that owns it.
    #[arg(long, value_name = "URL", value_parser = without_password)]
    pub url: Option<SecretString>,
    /// The same, read from stdin's first line, with its password.
    #[arg(long)]
    pub url_stdin: bool,
    /// How fast.
    #[command(flatten)]
    pub pace: PaceArgs,
    /// stream, triggers or short [default: as fits the orchestra's size and what the servers can do].
    #[arg(long)]
    pub path: Option<MovePath>,
    /// Say what the move would be and what stands in its way, and begin nothing. Exit code 1: something does.
    #[arg(long, conflicts_with_all = ["watch", "until"])]
    pub dry_run: bool,
    /// Look on while it goes on.
    #[arg(long)]
    pub watch: bool,
    /// Until when to look on: active or finished.
    #[arg(long, value_name = "STATE", default_value_t, requires = "watch")]
    pub until: Until,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// How fast rows are copied and compared.
#[derive(Debug, Args)]
pub struct PaceArgs {
    /// Megabytes that may be copied or compared a second, 1 to 4000 [default: 5].
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u32).range(1..=4000), conflicts_with = "unpaced")]
    pub pace: Option<u32>,
    /// As many as there are; the neighbours notice.
    #[arg(long)]
    pub unpaced: bool,
}

impl PaceArgs {
    /// What was said.
    #[must_use]
    pub fn pace(&self) -> Pace {
        match self.pace.and_then(|megabytes| NonZeroU32::new(megabytes * 1_000_000)) {
            Some(bytes) => Pace::Bytes(bytes),
            None if self.unpaced => Pace::Unpaced,
            None => Pace::Usual,
        }
    }
}

/// `stagesub move status`
#[derive(Debug, Args)]
pub struct MoveStatusArgs {
    /// A move's id, or an orchestra's subdomain or id [default: all moves that go on].
    pub which: Option<MoveName>,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub move list`
#[derive(Debug, Args)]
pub struct MoveListArgs {
    /// Subdomain or id of the orchestra whose moves are wanted.
    #[arg(long)]
    pub tenant: Option<TenantName>,
    /// Most that are listed.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub move watch`
#[derive(Debug, Args)]
pub struct MoveWatchArgs {
    /// A move's id, or an orchestra's subdomain or id.
    pub which: MoveName,
    /// Until when: active or finished.
    #[arg(long, value_name = "STATE", default_value_t)]
    pub until: Until,
    /// A line of JSON for each change.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub move abort|back|finish`
#[derive(Debug, Args)]
pub struct MoveAskArgs {
    /// A move's id, or an orchestra's subdomain or id.
    pub which: MoveName,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub move plan`
#[derive(Debug, Args)]
pub struct MovePlanArgs {
    /// The shared database.
    #[arg(long, value_name = "DATABASE", value_parser = database)]
    pub from: DatabaseId,
    /// How many of its orchestras.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub largest: u16,
    /// What they are ordered by: rows or bytes.
    #[arg(long, default_value = "rows", value_parser = by)]
    pub by: By,
    /// Begin the moves of those that may have a database of their own.
    #[arg(long)]
    pub apply: bool,
    /// How fast.
    #[command(flatten)]
    pub pace: PaceArgs,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which kind of database an orchestra is to be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One of its own.
    Dedicated,
    /// A shared one.
    Shared,
}

impl FromStr for Kind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "dedicated" => Ok(Self::Dedicated),
            "shared" => Ok(Self::Shared),
            _ => Err("it is dedicated or shared"),
        }
    }
}

/// Until when a move is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Until {
    /// The other database serves the orchestra.
    #[default]
    Active,
    /// Nothing of the move is left to happen.
    Finished,
}

impl FromStr for Until {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "active" => Ok(Self::Active),
            "finished" => Ok(Self::Finished),
            _ => Err("it is active or finished"),
        }
    }
}

impl std::fmt::Display for Until {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Finished => "finished",
        })
    }
}

/// What a move is called on the command line: by its id, or by its orchestra.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MoveName {
    /// By an id, of the move or of the orchestra.
    Id(Uuid),
    /// By the orchestra's host label.
    Subdomain(Subdomain),
}

impl FromStr for MoveName {
    type Err = stagesub_tenancy::subdomain::InvalidSubdomain;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => text.parse().map(Self::Subdomain),
        }
    }
}

impl std::fmt::Display for MoveName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Subdomain(subdomain) => subdomain.fmt(f),
        }
    }
}

fn database(text: &str) -> Result<DatabaseId, uuid::Error> {
    text.parse().map(DatabaseId::from_uuid)
}

fn by(text: &str) -> Result<By, &'static str> {
    match text {
        "rows" => Ok(By::Rows),
        "bytes" => Ok(By::Bytes),
        _ => Err("it is rows or bytes"),
    }
}

/// A connection string that everybody on this machine may see.
fn without_password(text: &str) -> Result<SecretString, String> {
    let target = ConnectionTarget::parse(text).map_err(|error| error.to_string())?;
    if target.has_password() {
        // What stands in arguments is seen by every user of this machine.
        return Err(
            "it has a password in it; pipe it in and say --server-stdin or --url-stdin instead".to_owned()
        );
    }
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_no_argument() {
        for url in ["postgres://a:b@c/d", "postgres://a@c/d?password=b"] {
            let refused = without_password(url).unwrap_err();
            assert!(refused.contains("--url-stdin"), "{url}: {refused}");
        }
        assert!(without_password("postgres://a@c/d").is_ok());
        assert!(without_password("mysql://a@c/d").is_err());
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for until in [Until::Active, Until::Finished] {
            assert_eq!(until.to_string().parse(), Ok(until));
        }
        assert_eq!("shared".parse(), Ok(Kind::Shared));
        assert!("elsewhere".parse::<Kind>().is_err() && "soon".parse::<Until>().is_err());
        let id = Uuid::from_u128(1);
        assert_eq!(id.to_string().parse(), Ok(MoveName::Id(id)));
        assert!(matches!("got".parse(), Ok(MoveName::Subdomain(_))));
    }
}
