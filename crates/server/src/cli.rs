//! The command line: what can be asked for, and how it ends.
//!
//! Exit code 0: done; 1: it failed, the reason is on stderr; 2: wrong use. Answers go to stdout, logs and
//! reasons to stderr. Passwords are read from stdin and never taken as arguments, where every user of the
//! machine can see them.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use stagesub_domain::error::{StoreError, UseCaseError};
use stagesub_tenancy::HostPolicy;

use crate::config::{ConfigError, DatabaseSettings, RawConfig};
use crate::demo::existing;
use crate::problem::error_chain;
use crate::telemetry;
use crate::wiring::Platform;

pub mod adopt;
pub mod args;
pub mod database;
pub mod demo;
pub mod doctor;
pub mod keys;
pub mod migrate;
pub mod move_args;
pub mod move_command;
mod move_plan;
mod move_watch;
pub mod output;
pub mod prove;
pub mod secret;
pub mod serve;
pub mod tenant;
pub mod usage;
pub mod user;

use args::{
    AdoptArgs, DatabaseCommand, DemoArgs, DoctorArgs, KeysCommand, MigrateArgs, PlatformArgs, ProveArgs,
    ServeArgs, TenantCommand, UsageArgs, UserCommand,
};
use move_args::MoveCommand;

/// Longest that closing connections may take once a command is done.
const CLOSING: Duration = Duration::from_secs(5);

/// A platform of isolated orchestras on PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "stagesub", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// On which platform.
    #[command(flatten)]
    pub platform: PlatformArgs,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring up the whole platform on this machine: a durable PostgreSQL, three orchestras, the server.
    Demo(DemoArgs),
    /// Serve the API on databases that are there and migrated.
    Serve(ServeArgs),
    /// Bring the databases to this version's schema and make the platform's logins.
    Migrate(MigrateArgs),
    /// Say what is wrong with the databases, and the SQL that mends it. Exit code 1: a hole.
    Doctor(DoctorArgs),
    /// Put a schema that is there already behind the fence: print the SQL that its tables need, or apply it.
    Adopt(AdoptArgs),
    /// Attack the platform's isolation and report what became of it; or verify such a report.
    Prove(ProveArgs),
    /// Orchestras.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Databases that orchestras are kept in.
    #[command(subcommand)]
    Database(DatabaseCommand),
    /// People.
    #[command(subcommand)]
    User(UserCommand),
    /// Moves of orchestras between databases, while they are in use.
    #[command(subcommand)]
    Move(MoveCommand),
    /// Who uses how much of the databases.
    Usage(UsageArgs),
    /// Keys that seal secrets.
    #[command(subcommand)]
    Keys(KeysCommand),
}

/// A command failed: one sentence that says what and, where there is one, a way out.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// It was tried and failed.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1 }
    }

    /// It was asked for in a way that cannot be meant.
    pub fn wrong_use(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2 }
    }

    /// An error with its causes, in one line.
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(error_chain(error))
    }

    /// What is written on stderr.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::of(&error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::of(&error)
    }
}

impl From<UseCaseError> for Failure {
    /// What was refused is told field by field.
    fn from(error: UseCaseError) -> Self {
        match &error {
            UseCaseError::Invalid(broken) => {
                let rules: Vec<String> =
                    broken.0.iter().map(|error| format!("{}: {}", error.field, error.message)).collect();
                Self::new(rules.join("; "))
            }
            other => Self::of(other),
        }
    }
}

/// Does something on the platform's databases and closes them, however it ended.
pub(crate) async fn connected<T>(
    raw: &RawConfig,
    work: impl AsyncFnOnce(&Platform) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let databases = DatabaseSettings::from_raw(raw)?;
    // Commands name orchestras by subdomain or id; no host is ever classified.
    let hosts = HostPolicy::new(raw.app_domain.as_deref().unwrap_or("stagesub.invalid"))
        .map_err(|error| Failure::of(&error))?;
    let platform = Platform::open(databases, hosts).await.map_err(|error| Failure::of(&error))?;
    let done = work(&platform).await;
    platform.close(CLOSING).await;
    done
}

/// Runs the program with its arguments.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Cli::try_parse_from(arguments) {
        Ok(cli) => match run(cli) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                // A closed stderr leaves the exit code to tell.
                let _ = writeln!(std::io::stderr(), "stagesub: {}", failure.message);
                ExitCode::from(failure.code)
            }
        },
        Err(error) => {
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    check_use(&cli)?;
    let PlatformArgs { demo: on_demo, data_dir } = cli.platform;
    if let Command::Keys(command) = &cli.command {
        // Logging is not set up: nothing but the answer is said.
        return keys::run(command, || {
            let raw = RawConfig::load()?;
            if !on_demo {
                return Ok(raw);
            }
            existing::configuration(data_dir.as_deref(), &raw).map_err(|error| Failure::of(&error))
        });
    }
    let mut raw = RawConfig::load()?;
    let telemetry =
        telemetry::install(raw.log_filter(), raw.log_format()?).map_err(|error| Failure::of(&error))?;
    if on_demo {
        raw = existing::configuration(data_dir.as_deref(), &raw).map_err(|error| Failure::of(&error))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("the operating system refused to start threads: {error}")))?;
    let done = runtime.block_on(async {
        match cli.command {
            Command::Demo(arguments) => demo::run(arguments, data_dir.as_deref(), &raw).await,
            Command::Serve(arguments) => serve::run(arguments, &raw).await,
            Command::Migrate(arguments) => migrate::run(arguments, &raw).await,
            Command::Doctor(arguments) => doctor::run(arguments, &raw).await,
            Command::Adopt(arguments) => adopt::run(arguments, &raw).await,
            Command::Tenant(command) => tenant::run(command, &raw).await,
            Command::Database(command) => database::run(command, &raw).await,
            Command::User(command) => user::run(command, &raw).await,
            Command::Move(command) => Box::pin(move_command::run(command, &raw)).await,
            Command::Usage(arguments) => usage::run(arguments, &raw).await,
            Command::Prove(arguments) => prove::run(arguments, &raw).await,
            // Answered above, before anything of the environment was read.
            Command::Keys(command) => keys::run(&command, || Ok(raw.clone())),
        }
    });
    telemetry.finish();
    done
}

/// What the parser cannot tell: which commands the options of a platform belong to.
fn check_use(cli: &Cli) -> Result<(), Failure> {
    let PlatformArgs { demo: on_demo, data_dir } = &cli.platform;
    match &cli.command {
        Command::Demo(_) if *on_demo => Err(Failure::wrong_use(
            "`stagesub demo` runs a demo; --demo is for the commands that work on one",
        )),
        Command::Demo(_) => Ok(()),
        Command::Keys(KeysCommand::Generate(_)) if *on_demo || data_dir.is_some() => Err(Failure::wrong_use(
            "`stagesub keys generate` works on no platform, so --demo and --data-dir mean nothing to it",
        )),
        _ if data_dir.is_some() && !on_demo => {
            Err(Failure::wrong_use("--data-dir says where a demo is; say --demo too, to work on it"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_that_others_call_is_there() {
        for line in [
            "stagesub demo",
            "stagesub demo --listen 127.0.0.1:0 --data-dir /tmp/x --json",
            "stagesub serve --json",
            "stagesub migrate --adopt-logins --json",
            "stagesub tenant create Orchestra --subdomain orch --subscription small --json",
            "stagesub tenant create Orchestra --subdomain orch --code ORC --subscription institution --dedicated \
             --admin-email a@b.example --admin-first-name A --admin-last-name B --generate",
            "stagesub doctor --json",
            "stagesub doctor --demo",
            "stagesub doctor --schema billing --reference-table currency --trusted-role reporting --json",
            "stagesub doctor --database-url postgres://a@b/c --schema billing --schema crm --reference-table crm.kind",
            "stagesub adopt --database-url postgres://a@b/c --schema billing",
            "stagesub adopt --schema billing --reference-table a --reference-table b --tenant-column customer_id \
             --tenant 018f0000-0000-7000-8000-000000000001 --trusted-role reporting --apply --json",
            "stagesub tenant list --json",
            "stagesub database add --beside --name second --json",
            "stagesub database add --server-stdin --adopt-logins",
            "stagesub database add --url-stdin --demo",
            "stagesub database list --json",
            "stagesub database check",
            "stagesub database check 01a2157b-3482-76e3-a642-c78d9db61676 --json",
            "stagesub tenant show orch --json",
            "stagesub tenant suspend orch --json",
            "stagesub tenant resume orch --json",
            "stagesub user create a@b.example --first-name A --last-name B --tenant orch --role admin --generate",
            "stagesub user create a@b.example --first-name A --last-name B --superadmin --password-stdin --json",
            "stagesub user create a@b.example --first-name A --last-name B --tenant orch --role user --no-password",
            "stagesub user set-password a@b.example --password-stdin --json",
            "stagesub user list --json",
            "stagesub user list --search berg",
            "stagesub user list --tenant orch --json",
            "stagesub user disable a@b.example --json",
            "stagesub user enable a@b.example --json",
            "stagesub user set-role a@b.example --tenant orch --role viewer --json",
            "stagesub move start got --to dedicated",
            "stagesub move start got --to dedicated --server postgres://admin@db2.example/postgres --json",
            "stagesub move start got --to dedicated --url-stdin --watch --until finished",
            "stagesub move start got --to dedicated --server-stdin --pace 20 --path stream --demo",
            "stagesub move start got --to shared --database 018f0000-0000-7000-8000-000000000001 --unpaced --dry-run",
            "stagesub move status",
            "stagesub move status got --json",
            "stagesub move list --tenant got --limit 10 --json --demo",
            "stagesub move watch 018f0000-0000-7000-8000-000000000001 --until active --json",
            "stagesub move abort got --json",
            "stagesub move back got",
            "stagesub move finish got",
            "stagesub move plan --from 018f0000-0000-7000-8000-000000000001",
            "stagesub move plan --from 018f0000-0000-7000-8000-000000000001 --largest 3 --by bytes --apply --json",
            "stagesub usage",
            "stagesub usage --by rows --hours 48 --limit 100 --json --demo",
            "stagesub keys generate --json",
            "stagesub keys public --json",
            "stagesub keys public --demo",
            "stagesub prove",
            "stagesub prove --url http://127.0.0.1:8080 --out proof.json --json --demo",
            "stagesub prove --verify proof.json",
            "stagesub prove --verify proof.json --json --public-key \
             ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
            "stagesub tenant list --demo --json",
            "stagesub --demo --data-dir /tmp/x tenant list",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn wrong_use_is_2() {
        for line in [
            "stagesub",
            "stagesub dance",
            "stagesub demo --listen nowhere",
            "stagesub tenant create Orchestra",
            "stagesub database add",
            "stagesub database add --beside --server-stdin",
            "stagesub database add --url-stdin --name second",
            "stagesub database add --server-stdin postgres://u:p@h/d",
            "stagesub database check second",
            "stagesub tenant create Orchestra --subdomain orch --subscription huge",
            "stagesub tenant create Orchestra --subdomain UPPER_CASE --subscription small",
            "stagesub tenant create Orchestra --subdomain orch --subscription small --admin-email a@b.example",
            "stagesub tenant create Orchestra --subdomain orch --subscription small --generate",
            "stagesub user create a@b.example --first-name A --last-name B",
            "stagesub user create a@b.example --first-name A --last-name B --tenant orch",
            "stagesub user create a@b.example --first-name A --last-name B --tenant orch --role superadmin",
            "stagesub user create a@b.example --first-name A --last-name B --superadmin --tenant orch --role user",
            "stagesub user create a@b.example --first-name A --last-name B --superadmin --no-password",
            "stagesub user set-password a@b.example --password-stdin --generate",
            "stagesub user set-password a@b.example hunter2",
            "stagesub user list --tenant orch --search berg",
            "stagesub adopt",
            "stagesub adopt --schema billing --tenant nobody",
            "stagesub doctor --reference-table currency",
            "stagesub user set-role a@b.example --tenant orch",
            "stagesub user set-role a@b.example --tenant orch --role superadmin",
            "stagesub move",
            "stagesub move start got",
            "stagesub move start got --to elsewhere",
            "stagesub move start got --to dedicated --url postgres://a:b@c/d",
            "stagesub move start got --to dedicated --server postgres://a@c/d?password=b",
            "stagesub move start got --to dedicated --url postgres://a@c/d --server postgres://a@c/d",
            "stagesub move start got --to dedicated --url-stdin --server-stdin",
            "stagesub move start got --to shared --database here",
            "stagesub move start got --to shared --pace 0",
            "stagesub move start got --to shared --pace 5 --unpaced",
            "stagesub move start got --to shared --path fast",
            "stagesub move start got --to shared --dry-run --watch",
            "stagesub move start got --to shared --until finished",
            "stagesub move watch got --until aborted",
            "stagesub move back",
            "stagesub move plan",
            "stagesub move plan --from 018f0000-0000-7000-8000-000000000001 --largest 0",
            "stagesub usage --by memory",
            "stagesub usage --limit 0",
            "stagesub usage --hours 49",
            "stagesub prove --public-key ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
            "stagesub prove --verify proof.json --public-key nonsense",
            "stagesub prove --verify proof.json --url http://127.0.0.1:8080",
            "stagesub prove --verify proof.json --out other.json",
        ] {
            assert_eq!(parse(line).map(|_| ()).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn help_and_version_are_0() {
        for (line, kind) in
            [("stagesub --help", ErrorKind::DisplayHelp), ("stagesub --version", ErrorKind::DisplayVersion)]
        {
            let error = parse(line).unwrap_err();
            assert_eq!((error.exit_code(), error.kind()), (0, kind));
        }
    }

    #[test]
    fn a_demo_is_worked_on_where_that_means_something() {
        let check = |line| check_use(&parse(line).unwrap()).map_err(|failure| failure.code());
        for line in ["stagesub demo --data-dir /tmp/x", "stagesub tenant list --demo --data-dir /tmp/x"] {
            assert_eq!(check(line), Ok(()), "{line}");
        }
        for line in [
            "stagesub demo --demo",
            "stagesub keys generate --demo",
            "stagesub tenant list --data-dir /tmp/x",
        ] {
            assert_eq!(check(line), Err(2), "{line}");
        }
    }

    #[test]
    fn a_failure_is_1_and_wrong_use_found_late_is_2() {
        assert_eq!(Failure::new("it failed").code(), 1);
        assert_eq!(Failure::wrong_use("not like this").code(), 2);
    }
}
