//! What the audit log says of a change: the fields that differ, before and after.

use serde_json::{Map, Value, json};
use stagesub_id_gen::Kind;

use crate::ids::PositionNo;
use crate::instrument::{Instrument, Position};
use crate::musician::Musician;
use crate::project::Project;
use crate::service::context::Act;

/// Fields of a record, named as the API names them.
pub type Fields = Map<String, Value>;

/// A record that the audit log follows.
pub trait Recorded {
    /// The log's word for it.
    const MODEL: &'static str;
    /// What its ids are of.
    const KIND: Kind;

    /// Its number.
    fn no(&self) -> i64;
    /// Its fields, without number, times of creation and change.
    fn fields(&self, act: &Act<'_>) -> Fields;

    /// Its id, as people see it.
    fn id(&self, act: &Act<'_>) -> String {
        act.id(Self::KIND, self.no())
    }
}

/// `{"after": ..}` of something new.
#[must_use]
pub fn created<T: Recorded>(record: &T, act: &Act<'_>) -> Value {
    json!({ "after": record.fields(act) })
}

/// `{"before": ..}` of something gone.
#[must_use]
pub fn deleted<T: Recorded>(record: &T, act: &Act<'_>) -> Value {
    json!({ "before": record.fields(act) })
}

/// `{"before": .., "after": ..}` with the fields that differ; `None` when none does.
#[must_use]
pub fn changed<T: Recorded>(before: &T, after: &T, act: &Act<'_>) -> Option<Value> {
    difference(before.fields(act), after.fields(act))
}

/// The same of two sets of fields.
#[must_use]
pub fn difference(mut before: Fields, mut after: Fields) -> Option<Value> {
    before.retain(|field, old| match after.get(field) {
        Some(new) if new == old => {
            after.remove(field);
            false
        }
        _ => true,
    });
    (!before.is_empty() || !after.is_empty()).then(|| json!({ "before": before, "after": after }))
}

fn fields(value: Value) -> Fields {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

impl Recorded for Instrument {
    const MODEL: &'static str = "instrument";
    const KIND: Kind = Kind::Instrument;

    fn no(&self) -> i64 {
        self.no.get()
    }

    fn fields(&self, _: &Act<'_>) -> Fields {
        fields(json!({
            "name": self.name,
            "displayOrder": self.display_order,
            "archivedAt": self.archived_at,
        }))
    }
}

impl Recorded for Position {
    const MODEL: &'static str = "position";
    const KIND: Kind = Kind::Position;

    fn no(&self) -> i64 {
        self.no.get()
    }

    fn fields(&self, act: &Act<'_>) -> Fields {
        fields(json!({
            "instrument": act.id(Kind::Instrument, self.instrument.get()),
            "name": self.name,
            "hierarchyLevel": self.hierarchy_level,
        }))
    }
}

impl Recorded for Musician {
    const MODEL: &'static str = "musician";
    const KIND: Kind = Kind::Musician;

    fn no(&self) -> i64 {
        self.no.get()
    }

    fn fields(&self, act: &Act<'_>) -> Fields {
        fields(json!({
            "firstName": self.first_name,
            "lastName": self.last_name,
            "email": self.email,
            "phone": self.phone,
            "preferredLanguage": self.preferred_language.as_str(),
            "localResidence": self.local_residence,
            "notes": self.notes,
            "isActive": self.is_active,
            "archivedAt": self.archived_at,
            "qualifications": ids(&self.qualifications, act),
        }))
    }
}

fn ids(positions: &[PositionNo], act: &Act<'_>) -> Vec<String> {
    positions.iter().map(|no| act.id(Kind::Position, no.get())).collect()
}

impl Recorded for Project {
    const MODEL: &'static str = "project";
    const KIND: Kind = Kind::Project;

    fn no(&self) -> i64 {
        self.no.get()
    }

    fn fields(&self, _: &Act<'_>) -> Fields {
        fields(json!({
            "name": self.name,
            "startDate": self.start_date,
            "weekNumber": self.week_number,
            "rehearsalSchedule": self.rehearsal_schedule,
            "concertInfo": self.concert_info,
            "notes": self.notes,
            "status": self.status.as_str(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fields_that_differ_are_written_down() {
        let before = fields(json!({ "name": "Viola", "displayOrder": 2 }));
        let after = fields(json!({ "name": "Altviolin", "displayOrder": 2 }));
        assert_eq!(
            difference(before, after),
            Some(json!({ "before": { "name": "Viola" }, "after": { "name": "Altviolin" } }))
        );
    }

    #[test]
    fn equal_records_give_nothing_to_write() {
        let same = fields(json!({ "name": "Viola", "archivedAt": null }));
        assert_eq!(difference(same.clone(), same), None);
    }
}
