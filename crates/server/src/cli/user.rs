//! `stagesub user`: people.

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use stagesub_domain::actor::Actor;
use stagesub_domain::audit::{AuditAction, AuditEntry};
use stagesub_domain::error::UseCaseError;
use stagesub_domain::ports::registry::{Person, PersonFilter};
use stagesub_domain::role::Role;
use stagesub_domain::service::people;
use stagesub_domain::service::tenants::PersonDraft;
use stagesub_tenancy::clock::Clock;
use uuid::Uuid;

use super::args::{SetPasswordArgs, SetRoleArgs, UserCommand, UserCreateArgs, UserListArgs, UserNameArgs};
use super::secret::{self, Password};
use super::{Failure, connected, output, tenant};
use crate::bootstrap;
use crate::clock::SystemClock;
use crate::config::RawConfig;
use crate::wiring::Platform;

/// People asked for at a time.
const PAGE: u32 = 200;

/// Runs the command. The password is read before anything is connected to.
pub async fn run(command: UserCommand, raw: &RawConfig) -> Result<(), Failure> {
    match command {
        UserCommand::Create(arguments) => {
            let from = &arguments.password;
            let password = (!arguments.no_password)
                .then(|| secret::obtain(from.password_stdin, from.generate))
                .transpose()?;
            connected(raw, async |platform| create(platform, arguments, password.as_ref()).await).await
        }
        UserCommand::SetPassword(arguments) => {
            let password = secret::obtain(arguments.password.password_stdin, arguments.password.generate)?;
            connected(raw, async |platform| set_password(platform, arguments, &password).await).await
        }
        UserCommand::List(arguments) => {
            connected(raw, async |platform| list(platform, arguments).await).await
        }
        UserCommand::Disable(arguments) => {
            connected(raw, async |platform| set_active(platform, arguments, false).await).await
        }
        UserCommand::Enable(arguments) => {
            connected(raw, async |platform| set_active(platform, arguments, true).await).await
        }
        UserCommand::SetRole(arguments) => {
            connected(raw, async |platform| set_role(platform, arguments).await).await
        }
    }
}

async fn create(
    platform: &Platform,
    arguments: UserCreateArgs,
    password: Option<&Password>,
) -> Result<(), Failure> {
    let now = SystemClock.now();
    let hash = match password {
        Some(password) => Some(secret::hash(platform.passwords(), password, &arguments.email).await?),
        None => None,
    };
    let id = Uuid::now_v7();
    let member = PersonDraft {
        id,
        email: arguments.email,
        first_name: arguments.first_name,
        last_name: arguments.last_name,
        password_hash: hash,
    }
    .into_member()
    .map_err(UseCaseError::from)?;
    // A person keeps the password they have; a new one that is given and not used would mislead.
    if password.is_some() && platform.people().find_by_email(&member.email).await?.is_some() {
        return Err(Failure::new(
            "a person with this address exists already; make them a member with --no-password, or give them a new \
             password with `stagesub user set-password`",
        ));
    }
    let (person, role) = if let (Some(name), Some(role)) = (&arguments.tenant, arguments.role) {
        let account = tenant::find(platform, name).await?;
        let entry = AuditEntry {
            actor: Actor::system(),
            at: now,
            action: AuditAction::Create,
            model: "user",
            record_id: Some(id.to_string()),
            changes: Some(json!({ "after": { "role": role.as_str() } })),
        };
        (platform.people().add_member(account.id, &member, role, &entry).await?, role.as_str())
    } else {
        (platform.people().add_superadmin(&member, &bootstrap::created(id, now)).await?, "superadmin")
    };
    let told = password.and_then(Password::to_tell).map(ExposeSecret::expose_secret);
    if arguments.json {
        return output::json(&json!({
            "id": person.id, "email": person.email, "role": role, "password": told,
        }));
    }
    output::line(&format!("{} is there now ({role})", person.email))?;
    tell(told)
}

async fn set_password(
    platform: &Platform,
    arguments: SetPasswordArgs,
    password: &Password,
) -> Result<(), Failure> {
    let hash = secret::hash(platform.passwords(), password, &arguments.email).await?;
    let person = find(platform, &arguments.email).await?;
    let entry = AuditEntry {
        actor: Actor::system(),
        at: SystemClock.now(),
        action: AuditAction::SetPassword,
        model: "user",
        record_id: Some(person.id.to_string()),
        changes: None,
    };
    if !platform.people().set_password(&person.email, &hash, &entry).await? {
        return Err(nobody());
    }
    let told = password.to_tell().map(ExposeSecret::expose_secret);
    if arguments.json {
        return output::json(&json!({ "id": person.id, "email": person.email, "password": told }));
    }
    output::line(&format!("{} has a new password", person.email))?;
    tell(told)
}

/// Finds whom the command line names.
async fn find(platform: &Platform, email: &str) -> Result<Person, Failure> {
    platform.people().find_by_email(email).await?.ok_or_else(nobody)
}

fn nobody() -> Failure {
    Failure::new("nobody has this address")
}

async fn list(platform: &Platform, arguments: UserListArgs) -> Result<(), Failure> {
    let registry = platform.people().as_ref();
    let mut rows = Vec::new();
    let mut after = None;
    if let Some(name) = &arguments.tenant {
        let tenant = tenant::find(platform, name).await?.id;
        loop {
            let page = people::list_members(registry, tenant, after, PAGE).await?;
            rows.extend(page.items.into_iter().map(|member| Row::member(member.person, member.role)));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    } else {
        let filter = PersonFilter { search: arguments.search };
        loop {
            let page = people::list_people(registry, &filter, after, PAGE).await?;
            rows.extend(page.items.into_iter().map(Row::person));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    if arguments.json {
        return output::json(&rows.iter().map(Row::to_json).collect::<Vec<_>>());
    }
    let heading = ["EMAIL", "FIRST NAME", "LAST NAME", "ROLE", "SIGNS IN", "ID"];
    output::line(&output::table(heading, rows.into_iter().map(Row::into_cells)).to_string())
}

async fn set_active(platform: &Platform, arguments: UserNameArgs, is_active: bool) -> Result<(), Failure> {
    let user = find(platform, &arguments.email).await?.id;
    let now = SystemClock.now();
    let person = people::set_active(&platform.persons(), &Actor::system(), user, is_active, now).await?;
    if arguments.json {
        return output::json(&Row::person(person).to_json());
    }
    let what = if is_active { "may sign in" } else { "may not sign in any more" };
    output::line(&format!("{} {what}", person.email))
}

async fn set_role(platform: &Platform, arguments: SetRoleArgs) -> Result<(), Failure> {
    let tenant = tenant::find(platform, &arguments.tenant).await?;
    let user = find(platform, &arguments.email).await?.id;
    let (role, now) = (arguments.role, SystemClock.now());
    let changed = people::set_role(&platform.persons(), &Actor::system(), tenant.id, user, role, now).await;
    let member = match changed {
        Err(UseCaseError::UnknownPerson) => {
            let name = &arguments.tenant;
            return Err(Failure::new(format!(
                "the person is no member of {name}; see `stagesub user create`"
            )));
        }
        changed => changed?,
    };
    if arguments.json {
        return output::json(&Row::member(member.person, member.role).to_json());
    }
    output::line(&format!("{} is {} of {} now", member.person.email, member.role.as_str(), tenant.name))
}

/// A person as they are listed; with a role where an orchestra's members are.
struct Row {
    person: Person,
    role: Option<Role>,
}

impl Row {
    fn person(person: Person) -> Self {
        let role = person.is_superadmin.then_some(Role::Superadmin);
        Self { person, role }
    }

    fn member(person: Person, role: Role) -> Self {
        Self { person, role: Some(role) }
    }

    /// Named as the API names them.
    fn to_json(&self) -> Value {
        let Person { id, email, first_name, last_name, is_active, is_superadmin } = &self.person;
        json!({
            "id": id, "email": email, "firstName": first_name, "lastName": last_name,
            "role": self.role.map(Role::as_str), "isActive": is_active, "isSuperadmin": is_superadmin,
        })
    }

    fn into_cells(self) -> [String; 6] {
        let Person { id, email, first_name, last_name, is_active, .. } = self.person;
        let signs_in = if is_active { "yes" } else { "no" };
        let role = self.role.map_or("", Role::as_str);
        [email, first_name, last_name, role.to_owned(), signs_in.to_owned(), id.to_string()]
    }
}

fn tell(password: Option<&str>) -> Result<(), Failure> {
    match password {
        Some(password) => output::line(&format!("The password is {password}")),
        None => Ok(()),
    }
}
