//! Slots, publications and logs of changes of moves that are over.
//!
//! A move writes down what it will make before it makes it, and removes it before it ends. What is found of one that
//! has ended was missed, by a server that was restored, or by hand; a slot among it keeps the server's log for ever, and
//! a log of changes grows with every row that its tenant writes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use stagesub_tenancy::moves::{MoveId, MoveRegistry, MoveRegistryError};
use uuid::Uuid;

use crate::moves::change_log::{self, ChangeLogError};
use crate::moves::session::MoverSession;
use crate::moves::slot::{PublicationError, SlotError, drop_publication, drop_slot};

/// How long a session that reads a slot may take to end, and tables that are in use may keep their triggers.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was found of moves that are over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// What was removed: slots, publications and logs of changes of moves that have ended.
    pub removed: Vec<String>,
    /// What was left, in words: nobody here knows whose it is.
    pub left: Vec<String>,
}

/// It was not swept to the end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// The database could not be asked.
    #[error("{database} did not say what moves have left there")]
    Question {
        /// Which, without secrets.
        database: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The registry could not be asked.
    #[error("it is not known which moves are over")]
    Registry(#[from] MoveRegistryError),
    /// A slot stays.
    #[error("a slot of a move that is over could not be dropped")]
    Slot(#[from] SlotError),
    /// A publication stays.
    #[error("a publication of a move that is over could not be dropped")]
    Publication(#[from] PublicationError),
    /// A log of changes stays.
    #[error("a log of changes of a move that is over could not be removed")]
    Log(#[from] ChangeLogError),
}

/// Removes from one database the slots, publications and logs of moves that have ended by the registry's word. The registry
/// is asked after the database was looked at, and a move is recorded before it makes anything: so what is removed
/// belongs to nobody. What the registry does not know is told and left: it may be another installation's.
///
/// # Errors
/// [`SweepError`]; what was removed until then is removed.
pub async fn sweep(session: &mut MoverSession, registry: &dyn MoveRegistry) -> Result<Swept, SweepError> {
    let database = session.describe().to_owned();
    let found = sqlx::query!(
        r#"SELECT 'slot' AS "what!", slot_name::text AS "name!" FROM pg_catalog.pg_replication_slots
            WHERE database = current_database() AND starts_with(slot_name::text, 'stagesub_move_')
        UNION ALL
        SELECT 'publication', pubname::text FROM pg_catalog.pg_publication
            WHERE starts_with(pubname::text, 'stagesub_move_')
        UNION ALL
        SELECT 'log of changes', proname::text FROM pg_catalog.pg_proc
            WHERE pronamespace = 'app'::regnamespace AND proname::text ~ $1
        ORDER BY 2, 1"#,
        change_log::NAMES
    )
    .fetch_all(session.conn())
    .await
    .map_err(|source| SweepError::Question { database: database.clone(), source })?;
    let (mut swept, mut known) = (Swept::default(), HashMap::new());
    for object in found {
        let told = format!("the {} {} in {database}", object.what, object.name);
        let Some(id) = move_of(&object.name) else {
            swept
                .left
                .push(format!("{told} is called like a move's and is none's; drop it if nobody needs it"));
            continue;
        };
        if let Entry::Vacant(unasked) = known.entry(id) {
            unasked.insert(registry.find(id).await?);
        }
        match known.get(&id).and_then(Option::as_ref) {
            None => swept.left.push(format!(
                "{told} belongs to a move that this registry does not know; if no other installation uses the server, drop it"
            )),
            Some(moved) if moved.ended_at.is_none() => {}
            Some(_) => {
                match object.what.as_str() {
                    "slot" => drop_slot(session.conn(), &object.name, PATIENCE).await?,
                    "publication" => drop_publication(session.conn(), &object.name, PATIENCE).await?,
                    _ => change_log::remove(session.conn(), &object.name, PATIENCE).await?,
                }
                swept.removed.push(told);
            }
        }
    }
    Ok(swept)
}

/// The move that a slot or publication is called after: what [`stream_name`](crate::moves::slot::stream_name) makes.
fn move_of(name: &str) -> Option<MoveId> {
    let (id, way) = name.strip_prefix("stagesub_move_")?.rsplit_once('_')?;
    let simple = id.len() == 32 && matches!(way, "fwd" | "rev");
    simple.then(|| Uuid::try_parse(id).ok()).flatten().map(MoveId::from_uuid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moves::progress::Direction;
    use crate::moves::slot::stream_name;

    #[test]
    fn a_name_tells_its_move_and_others_tell_none() {
        let id = Uuid::from_u128(0xabc);
        for way in [Direction::Forward, Direction::Reverse] {
            assert_eq!(move_of(&stream_name(id, way)), Some(MoveId::from_uuid(id)));
        }
        for name in [
            "stagesub_move_",
            "stagesub_move_x_fwd",
            "other",
            "stagesub_move_00000000000000000000000000000abc",
        ] {
            assert_eq!(move_of(name), None, "{name}");
        }
        let odd = format!("stagesub_move_{}_old", id.simple());
        assert_eq!(move_of(&odd), None);
    }
}
