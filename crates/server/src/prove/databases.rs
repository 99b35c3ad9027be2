//! The attacks on the databases themselves, as the application's login and as the owner of the tables.

use stagesub_storage::logins::LoginRole;
use stagesub_storage::marker::DatabaseKind;
use stagesub_storage::prove::orchestra::OrchestraSample;
use stagesub_storage::prove::{
    DatabaseProof, ProveError as AttackError, ScratchSettings, controls, wants_a_row,
};
use stagesub_storage::registry::known::{KnownDatabase, database_facts};
use stagesub_storage::target::ConnectionTarget;
use stagesub_tenancy::prove::{Attack, Expectation, Outcome, Proof};
use stagesub_tenancy::{DatabaseId, TenantId};
use uuid::Uuid;

use super::error::ProveError;
use super::report::AttackedDatabase;
use crate::problem::error_chain;
use crate::wiring::Platform;

/// The family of what could not be attacked at all.
const SUITE: &str = "databases";

/// Attacks every database that the registry knows; and, on a database that is made for it and dropped, the
/// same without each guard.
///
/// Where the canaries live, one attacks the other. In a shared database that they do not live in and in a tenant's
/// own, somebody made up attacks a tenant that lives there: only reading and what is rolled back.
pub(super) async fn run(
    platform: &Platform,
    attacker: TenantId,
    victim: TenantId,
) -> Result<Found, ProveError> {
    let Found { mut proof, mut attacked, mut left_out } = Found::default();
    let mut scratch = false;
    let directory = platform.directory();
    let mut homes = Vec::new();
    for canary in [attacker, victim] {
        homes.push(directory.find_placement(canary).await?.map(|located| located.placement.database()));
    }
    for database in platform.registry().list_databases().await? {
        let at_home = homes.iter().all(|home| *home == Some(database.id));
        let nobody = || TenantId::from_uuid(Uuid::now_v7());
        let (attacker, victim) = match database.kind {
            DatabaseKind::Registry => continue,
            DatabaseKind::Shared if at_home => (attacker, victim),
            DatabaseKind::Shared => {
                let lives_there = platform.registry().find_tenant_in(database.id).await?;
                (nobody(), lives_there.unwrap_or_else(nobody))
            }
            DatabaseKind::Dedicated(owner) => (nobody(), owner),
        };
        let (Some(app), Some(migrator)) = (
            login(platform, database.id, LoginRole::App).await?,
            login(platform, database.id, LoginRole::Migrator).await?,
        ) else {
            proof.push(not_carried_out(&database, "the registry has no login for it"));
            continue;
        };
        match database_facts(&app).await {
            Ok(facts) => attacked.push(AttackedDatabase {
                id: database.id.to_string(),
                kind: database.kind.as_str().to_owned(),
                server_version: facts.server_version,
                schema_version: facts.schema_version,
            }),
            Err(error) => {
                proof.push(not_carried_out(&database, &error_chain(&error)));
                continue;
            }
        }
        let attack = DatabaseProof::new(app.clone(), attacker, victim).owner(migrator.clone());
        let attack = if at_home { attack } else { attack.while_in_use() };
        let attacks = attack.run().await;
        let attacks = match attacks {
            // Nobody seeds what is customers' own; a table in which they have nothing has nothing to reach.
            Ok(attacks) if !at_home => {
                let (empty, tried): (Vec<Attack>, Vec<Attack>) =
                    attacks.attacks().iter().cloned().partition(wants_a_row);
                left_out.extend(empty.iter().map(|attack| {
                    format!(
                        "{}: {} in {} database {}: {}",
                        attack.suite,
                        attack.target,
                        database.kind.as_str(),
                        database.id,
                        attack.attempt
                    )
                }));
                let mut attacks = Proof::new();
                attacks.extend(tried);
                Ok(attacks)
            }
            attacks => attacks,
        };
        append(&mut proof, &database, "attacked as it is", attacks);
        // The scratch database is made beside a shared one, once.
        if database.kind == DatabaseKind::Shared && !scratch {
            scratch = true;
            let settings = ScratchSettings::new(migrator, app);
            append(&mut proof, &database, "a scratch database", controls(&settings, &OrchestraSample).await);
        }
    }
    if homes.windows(2).any(|two| two[0] != two[1]) {
        proof.push(Attack {
            suite: SUITE.to_owned(),
            target: "the canaries".to_owned(),
            attempt: "every attack of one on the other".to_owned(),
            expectation: Expectation::Held,
            outcome: Outcome::NotCarriedOut(
                "they live in different databases; move one of them to the other's".to_owned(),
            ),
        });
    }
    Ok(Found { proof, attacked, left_out })
}

/// What became of the attacks on databases.
#[derive(Default)]
pub(super) struct Found {
    pub(super) proof: Proof,
    /// Which were attacked.
    pub(super) attacked: Vec<AttackedDatabase>,
    /// Attacks where no canary lives that found nothing to attack.
    pub(super) left_out: Vec<String>,
}

async fn login(
    platform: &Platform,
    database: DatabaseId,
    role: LoginRole,
) -> Result<Option<ConnectionTarget>, ProveError> {
    Ok(platform.logins().find_login(database, role).await?)
}

fn append(proof: &mut Proof, database: &KnownDatabase, what: &str, attacks: Result<Proof, AttackError>) {
    match attacks {
        Ok(attacks) => {
            let of = format!("{} database {}", database.kind.as_str(), database.id);
            for attack in attacks.attacks() {
                let target = format!("{} in {of}", attack.target);
                proof.push(Attack { target, ..attack.clone() });
            }
        }
        Err(error) => proof.push(not_carried_out(database, &format!("{what}: {}", error_chain(&error)))),
    }
}

fn not_carried_out(database: &KnownDatabase, why: &str) -> Attack {
    Attack {
        suite: SUITE.to_owned(),
        target: format!("{} database {}", database.kind.as_str(), database.id),
        attempt: "every attack".to_owned(),
        expectation: Expectation::Held,
        outcome: Outcome::NotCarriedOut(why.to_owned()),
    }
}
