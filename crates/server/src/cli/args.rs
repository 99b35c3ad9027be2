//! Arguments of the commands.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use secrecy::SecretString;
use stagesub_domain::role::Role;
use stagesub_domain::subscription::Tier;
use stagesub_tenancy::usage::UsageBy;
use stagesub_tenancy::{Subdomain, TenantCode, TenantId};
use uuid::Uuid;

use crate::handlers::platform_usage::{DEFAULT_HOURS, DEFAULT_LIMIT, MAX_HOURS, MAX_LIMIT};
use crate::prove::signing::PublicKey;

/// Which platform a command works on.
#[derive(Debug, Args)]
pub struct PlatformArgs {
    /// Work on the demo that runs on this machine, instead of the platform that the environment names.
    #[arg(long, global = true)]
    pub demo: bool,
    /// Where a demo keeps its data and secrets [default: `STAGESUB_DATA_DIR`, else a place for this user].
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// `stagesub demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// One line of JSON once ready.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub serve`
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where to listen [default: `STAGESUB_LISTEN`, else 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// One line of JSON once ready.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub migrate`
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Take the platform's logins over from another installation on the same server, which then stops working.
    #[arg(long)]
    pub adopt_logins: bool,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Examine this database alone, as whoever the URL names, instead of every one that the platform knows.
    #[arg(long, value_name = "URL", value_parser = secret)]
    pub database_url: Option<SecretString>,
    /// A schema of a service of your own: each of its tables is a tenant table [adds to `STAGESUB_DATA_SCHEMAS`].
    #[arg(long, value_name = "SCHEMA")]
    pub schema: Vec<String>,
    /// A table in it that belongs to no tenant, as SCHEMA.TABLE where there are several.
    #[arg(long, value_name = "TABLE", requires = "schema")]
    pub reference_table: Vec<String>,
    /// A role of your own that keeps what it was granted.
    #[arg(long, value_name = "ROLE")]
    pub trusted_role: Vec<String>,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub adopt`
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// The database, as an administrator; a password in it can be seen by every user of this machine [default: the
    /// shared database, as `stagesub migrate` reaches it].
    #[arg(long, value_name = "URL", value_parser = secret)]
    pub database_url: Option<SecretString>,
    /// The schema: each of its tables becomes a tenant table.
    #[arg(long, value_name = "SCHEMA")]
    pub schema: String,
    /// A table in it that belongs to no tenant and can be read by all.
    #[arg(long, value_name = "TABLE")]
    pub reference_table: Vec<String>,
    /// A role of your own that keeps what it was granted in the schema.
    #[arg(long, value_name = "ROLE")]
    pub trusted_role: Vec<String>,
    /// What the column is called that says whose a row is, if not `tenant_id`: it is renamed.
    #[arg(long, value_name = "COLUMN")]
    pub tenant_column: Option<String>,
    /// The tenant whose rows those are that say of no tenant that they are its own.
    #[arg(long, value_name = "ID")]
    pub tenant: Option<TenantId>,
    /// Longest that each lock is waited for; requests wait behind it.
    #[arg(long, value_name = "MILLISECONDS", default_value = "3000", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub lock_timeout_ms: u64,
    /// Do it, in one transaction, instead of printing what would be done.
    #[arg(long)]
    pub apply: bool,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub prove`
#[derive(Debug, Args)]
pub struct ProveArgs {
    /// Attack the service that runs at this address, `http://host:port` or `https://host:port`, instead of one in
    /// this process. It has to run on the same databases.
    #[arg(long, value_name = "URL", conflicts_with = "verify")]
    pub url: Option<String>,
    /// Where to write the report; a file that is there is never overwritten [default: `stagesub-proof-TIME.json`, in
    /// this directory].
    #[arg(long, value_name = "FILE", conflicts_with = "verify")]
    pub out: Option<PathBuf>,
    /// The report on stdout as JSON; with --verify, what was verified.
    #[arg(long)]
    pub json: bool,
    /// Instead of attacking.
    #[command(flatten)]
    pub verification: Verification,
}

/// `stagesub prove --verify`
#[derive(Debug, Args)]
pub struct Verification {
    /// Verify a report: its signature, and that the proof it tells of passed. Needs no database.
    #[arg(long, value_name = "FILE")]
    pub verify: Option<PathBuf>,
    /// The key to hold it against, as `stagesub keys public` prints it [default: those of `STAGESUB_KEYS`].
    #[arg(long, value_name = "KEY", requires = "verify")]
    pub public_key: Option<PublicKey>,
}

/// `stagesub tenant ...`
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Make an orchestra, with its first contents.
    Create(TenantCreateArgs),
    /// List orchestras.
    List(TenantListArgs),
    /// Show one orchestra.
    Show(TenantNameArgs),
    /// Lock an orchestra: its people get 403 on every node within a second.
    Suspend(TenantNameArgs),
    /// Unlock an orchestra.
    Resume(TenantNameArgs),
}

/// `stagesub tenant create`
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct TenantCreateArgs {
    /// Its name, as people write it.
    pub name: String,
    /// Its host label.
    #[arg(long)]
    pub subdomain: Subdomain,
    /// Prefix of its ids, 2 to 6 of A-Z and 0-9 [default: proposed from the name].
    #[arg(long)]
    pub code: Option<TenantCode>,
    /// small, medium or institution.
    #[arg(long, value_name = "TIER")]
    pub subscription: Tier,
    /// Give it a database of its own (institution only).
    #[arg(long)]
    pub dedicated: bool,
    /// Login address of its first administrator.
    #[arg(long, value_name = "ADDRESS", requires_all = ["admin_first_name", "admin_last_name"])]
    pub admin_email: Option<String>,
    /// The administrator's first name.
    #[arg(long, value_name = "NAME", requires = "admin_email")]
    pub admin_first_name: Option<String>,
    /// The administrator's last name.
    #[arg(long, value_name = "NAME", requires = "admin_email")]
    pub admin_last_name: Option<String>,
    /// Read the administrator's password from stdin's first line.
    #[arg(long, requires = "admin_email", conflicts_with = "generate")]
    pub password_stdin: bool,
    /// Make a password for the administrator and print it.
    #[arg(long, requires = "admin_email")]
    pub generate: bool,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub tenant list`
#[derive(Debug, Args)]
pub struct TenantListArgs {
    /// Part of name, subdomain or code.
    #[arg(long)]
    pub search: Option<String>,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub tenant show|suspend|resume`
#[derive(Debug, Args)]
pub struct TenantNameArgs {
    /// Its subdomain or id.
    pub tenant: TenantName,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What an orchestra is called on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantName {
    /// By id.
    Id(TenantId),
    /// By host label.
    Subdomain(Subdomain),
}

impl std::str::FromStr for TenantName {
    type Err = stagesub_tenancy::subdomain::InvalidSubdomain;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => text.parse().map(Self::Subdomain),
        }
    }
}

impl std::fmt::Display for TenantName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Subdomain(subdomain) => subdomain.fmt(f),
        }
    }
}

/// `stagesub database ...`
#[derive(Debug, Subcommand)]
pub enum DatabaseCommand {
    /// Add a shared database: beside the first one, on another server, or one that is there and empty.
    Add(DatabaseAddArgs),
    /// List the platform's databases.
    List(DatabaseListArgs),
    /// Look at databases: whether they can be reached, keep orchestras apart, and let them move. Exit code 1: one is
    /// unsound.
    Check(DatabaseCheckArgs),
}

/// `stagesub database add`
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("place").required(true)))]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct DatabaseAddArgs {
    /// On the server of the first shared database.
    #[arg(long, group = "place")]
    pub beside: bool,
    /// On another server: read its connection string from stdin's first line, of a login that may make databases and
    /// roles. It is used now and never kept.
    #[arg(long, group = "place")]
    pub server_stdin: bool,
    /// In a database that is there and empty: read its connection string from stdin's first line, of the login that owns
    /// it and may make roles. It is used now and never kept.
    #[arg(long, group = "place", conflicts_with = "name")]
    pub url_stdin: bool,
    /// What it is to be called [default: `stagesub_shared`].
    #[arg(long)]
    pub name: Option<String>,
    /// Take the platform's logins over from another installation on that server, which then stops working.
    #[arg(long)]
    pub adopt_logins: bool,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub database list`
#[derive(Debug, Args)]
pub struct DatabaseListArgs {
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub database check`
#[derive(Debug, Args)]
pub struct DatabaseCheckArgs {
    /// Its id [default: every shared one].
    pub id: Option<Uuid>,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub user ...`
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Make a person a member of an orchestra, or an administrator of the platform.
    Create(UserCreateArgs),
    /// Give a person a new password; access tokens given before end.
    SetPassword(SetPasswordArgs),
    /// List people: everybody, or an orchestra's members.
    List(UserListArgs),
    /// Let a person sign in no more, and end their access tokens.
    Disable(UserNameArgs),
    /// Let a person sign in again.
    Enable(UserNameArgs),
    /// Give a member of an orchestra another role; access tokens given before end.
    SetRole(SetRoleArgs),
}

/// `stagesub user create`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("place").required(true).args(["tenant", "superadmin"]))]
pub struct UserCreateArgs {
    /// Login address.
    pub email: String,
    /// First name.
    #[arg(long, value_name = "NAME")]
    pub first_name: String,
    /// Last name.
    #[arg(long, value_name = "NAME")]
    pub last_name: String,
    /// Subdomain or id of the orchestra to be a member of.
    #[arg(long, requires = "role")]
    pub tenant: Option<TenantName>,
    /// admin, user or viewer.
    #[arg(long, requires = "tenant", value_parser = member_role)]
    pub role: Option<Role>,
    /// An administrator of the platform.
    #[arg(long, conflicts_with = "role")]
    pub superadmin: bool,
    /// Where the password comes from.
    #[command(flatten)]
    pub password: PasswordArgs,
    /// Give no password: the person has an account already and keeps theirs, or is given one later.
    #[arg(long, conflicts_with_all = ["password_stdin", "generate", "superadmin"])]
    pub no_password: bool,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub user set-password`
#[derive(Debug, Args)]
pub struct SetPasswordArgs {
    /// Login address.
    pub email: String,
    /// Where the password comes from.
    #[command(flatten)]
    pub password: PasswordArgs,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub user list`
#[derive(Debug, Args)]
pub struct UserListArgs {
    /// Subdomain or id of the orchestra whose members are wanted.
    #[arg(long)]
    pub tenant: Option<TenantName>,
    /// Part of address or name.
    #[arg(long, conflicts_with = "tenant")]
    pub search: Option<String>,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub user disable|enable`
#[derive(Debug, Args)]
pub struct UserNameArgs {
    /// Login address.
    pub email: String,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub user set-role`
#[derive(Debug, Args)]
pub struct SetRoleArgs {
    /// Login address.
    pub email: String,
    /// Subdomain or id of the orchestra.
    #[arg(long)]
    pub tenant: TenantName,
    /// admin, user or viewer.
    #[arg(long, value_parser = member_role)]
    pub role: Role,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub usage`
#[derive(Debug, Args)]
pub struct UsageArgs {
    /// Those first that used most of this: `databaseTime`, `rows` or `poolWait`.
    #[arg(long, default_value_t)]
    pub by: UsageBy,
    /// Hours to look at, the one that is now included (1 to 48).
    #[arg(long, default_value_t = DEFAULT_HOURS, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_HOURS)))]
    pub hours: u32,
    /// Orchestras to list (1 to 100).
    #[arg(long, default_value_t = DEFAULT_LIMIT, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_LIMIT)))]
    pub limit: u32,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Where a password comes from: stdin, unless one is to be made.
#[derive(Debug, Args)]
pub struct PasswordArgs {
    /// Read the password from stdin's first line, also when that is a terminal.
    #[arg(long, conflicts_with = "generate")]
    pub password_stdin: bool,
    /// Make a password and print it.
    #[arg(long)]
    pub generate: bool,
}

/// `stagesub keys ...`
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Print a new value for `STAGESUB_KEYS`.
    Generate(KeysGenerateArgs),
    /// Print the public key that reports of `prove` are verified with, to hand to customers.
    Public(KeysPublicArgs),
}

/// `stagesub keys public`
#[derive(Debug, Args)]
pub struct KeysPublicArgs {
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `stagesub keys generate`
#[derive(Debug, Args)]
pub struct KeysGenerateArgs {
    /// What the key is called; sealed values name it.
    #[arg(long, value_name = "ID", default_value = "k1", value_parser = key_id)]
    pub id: String,
    /// The answer as JSON.
    #[arg(long)]
    pub json: bool,
}

fn member_role(text: &str) -> Result<Role, String> {
    match text.parse() {
        Ok(Role::Superadmin) | Err(_) => Err("a member is admin, user or viewer".to_owned()),
        Ok(role) => Ok(role),
    }
}

fn key_id(text: &str) -> Result<String, String> {
    let fits = (1..=32).contains(&text.len());
    if fits && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        Ok(text.to_owned())
    } else {
        Err("a key's id is 1 to 32 characters out of a-z A-Z 0-9 - _".to_owned())
    }
}

/// A text that no `Debug` shows.
#[expect(clippy::unnecessary_wraps, reason = "clap's parsers may fail")]
fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_orchestra_is_called_by_subdomain_or_id() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        assert!(matches!(id.parse(), Ok(TenantName::Id(found)) if found.to_string() == id));
        assert!(matches!("got".parse(), Ok(TenantName::Subdomain(_))));
        assert!("not a label".parse::<TenantName>().is_err());
    }

    #[test]
    fn a_membership_cannot_make_a_superadmin() {
        assert!(member_role("superadmin").is_err());
        assert_eq!(member_role("viewer"), Ok(Role::Viewer));
    }
}
