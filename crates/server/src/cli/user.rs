//! `stagesub user`: people.

use secrecy::ExposeSecret;
use serde_json::json;
use stagesub_domain::actor::Actor;
use stagesub_domain::audit::{AuditAction, AuditEntry};
use stagesub_domain::error::UseCaseError;
use stagesub_domain::service::tenants::PersonDraft;
use stagesub_tenancy::clock::Clock;
use uuid::Uuid;

use super::args::{SetPasswordArgs, UserCommand, UserCreateArgs};
use super::secret::{self, Password};
use super::{Failure, connected, output, tenant};
use crate::bootstrap;
use crate::clock::SystemClock;
use crate::config::RawConfig;
use crate::wiring::Platform;

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
    let found = platform.people().find_by_email(&arguments.email).await?;
    let nobody = || Failure::new("nobody has this address");
    let person = found.ok_or_else(nobody)?;
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

fn tell(password: Option<&str>) -> Result<(), Failure> {
    match password {
        Some(password) => output::line(&format!("The password is {password}")),
        None => Ok(()),
    }
}
