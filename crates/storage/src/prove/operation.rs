//! What is tried on a table.

use stagesub_tenancy::TenantId;

use super::session::literal;
use super::subject::{Subject, TENANT_ID, list};
use crate::roles::quote;

/// An operation on a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Select,
    SelectCount,
    SelectByTenant,
    SelectTelling,
    SelectForUpdate,
    Insert,
    InsertSelect,
    InsertOnConflict,
    Update,
    UpdateAll,
    UpdateTaking,
    UpdatePlanting,
    Delete,
    Merge,
    CopyTo,
    CopyFrom,
    Truncate,
}

impl Operation {
    pub(super) const ALL: [Self; 17] = [
        Self::Select,
        Self::SelectCount,
        Self::SelectByTenant,
        Self::SelectTelling,
        Self::SelectForUpdate,
        Self::Insert,
        Self::InsertSelect,
        Self::InsertOnConflict,
        Self::Update,
        Self::UpdateAll,
        Self::UpdateTaking,
        Self::UpdatePlanting,
        Self::Delete,
        Self::Merge,
        Self::CopyTo,
        Self::CopyFrom,
        Self::Truncate,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Select => "SELECT",
            Self::SelectCount => "SELECT count(*)",
            Self::SelectByTenant => "SELECT by the victim's tenant_id",
            Self::SelectTelling => "SELECT with a condition that would quote the row",
            Self::SelectForUpdate => "SELECT .. FOR UPDATE",
            Self::Insert => "INSERT naming the victim",
            Self::InsertSelect => "INSERT .. SELECT of the victim's rows",
            Self::InsertOnConflict => "INSERT naming the victim .. ON CONFLICT",
            Self::Update => "UPDATE of the victim's rows",
            Self::UpdateAll => "UPDATE of both tenants' rows",
            Self::UpdateTaking => "UPDATE of tenant_id, taking the victim's rows",
            Self::UpdatePlanting => "UPDATE of tenant_id, planting rows on the victim",
            Self::Delete => "DELETE",
            Self::Merge => "MERGE",
            Self::CopyTo => "COPY TO",
            Self::CopyFrom => "COPY FROM",
            Self::Truncate => "TRUNCATE",
        }
    }

    /// How many rows the attacker may get or change: its own.
    pub(super) const fn own_share(self, subject: &Subject) -> u64 {
        match self {
            Self::UpdateAll => subject.own_rows,
            _ => 0,
        }
    }

    /// Carrying it out is what must not happen, whatever it did.
    pub(super) const fn is_reached_by_being_carried_out(self) -> bool {
        matches!(self, Self::Insert | Self::InsertOnConflict | Self::CopyFrom | Self::Truncate)
    }

    /// Whether row-level security alone stands in its way: the login's privileges allow it on this table.
    pub(super) fn is_privileged(self, subject: &Subject) -> bool {
        let reads = subject.has_tenant();
        let inserts = subject.insertable.iter().any(|column| column == TENANT_ID);
        let updates = column_to_update(subject).is_some();
        match self {
            Self::Select | Self::SelectCount | Self::SelectByTenant | Self::SelectTelling | Self::CopyTo => {
                reads
            }
            Self::SelectForUpdate | Self::Update | Self::UpdateAll => reads && updates,
            Self::Insert | Self::CopyFrom => inserts,
            Self::InsertSelect | Self::InsertOnConflict => reads && inserts,
            Self::Delete => reads && subject.may_delete,
            Self::Merge => reads && (updates || subject.may_delete),
            Self::UpdateTaking | Self::UpdatePlanting => {
                reads && subject.updatable.iter().any(|c| c == TENANT_ID)
            }
            Self::Truncate => false,
        }
    }

    /// Whether a row that is not shown is what refuses it, so that a binding which is quietly nobody's would
    /// let it pass in silence.
    pub(super) const fn only_reads(self) -> bool {
        !matches!(self, Self::Insert | Self::InsertOnConflict | Self::CopyFrom | Self::Truncate)
    }

    /// The statement.
    pub(super) fn sql(self, subject: &Subject, attacker: TenantId, victim: TenantId) -> String {
        let table = &subject.name;
        let theirs = format!("tenant_id = '{victim}'");
        match self {
            // OFFSET 0 keeps the condition out of the query that is attacked.
            Self::Select if subject.has_tenant() => format!(
                "SELECT r.tenant_id::text FROM (SELECT {} FROM {table} OFFSET 0) AS r
                 WHERE r.tenant_id IS DISTINCT FROM '{attacker}' LIMIT 1",
                subject.columns()
            ),
            Self::Select => format!("SELECT {} FROM {table} LIMIT 1", subject.columns()),
            Self::SelectCount => format!(
                "SELECT r.found::text FROM (SELECT count(*) AS found FROM {table}) AS r WHERE r.found > {}",
                subject.own_rows
            ),
            Self::SelectByTenant => format!("SELECT 1::text FROM {table} WHERE {theirs} LIMIT 1"),
            Self::SelectTelling => format!(
                "SELECT 1::text FROM {table} WHERE {theirs} AND ROW({})::text::integer = 0 LIMIT 1",
                list(&subject.readable)
            ),
            Self::SelectForUpdate => format!("SELECT 1::text FROM {table} WHERE {theirs} FOR UPDATE"),
            Self::Insert => insert(subject, victim, ""),
            Self::InsertSelect => {
                let columns = both(subject);
                format!(
                    "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {table} WHERE {theirs}"
                )
            }
            Self::InsertOnConflict => {
                let key = subject.table.primary_key();
                let conflict = match column_to_update(subject) {
                    Some(column) if !key.is_empty() => {
                        format!("ON CONFLICT ({}) DO UPDATE SET {column} = excluded.{column}", list(key))
                    }
                    _ => "ON CONFLICT DO NOTHING".to_owned(),
                };
                insert(subject, victim, &conflict)
            }
            Self::Update => {
                let column = update_target(subject);
                format!("UPDATE {table} SET {column} = {column} WHERE {theirs}")
            }
            Self::UpdateAll => {
                let column = update_target(subject);
                format!(
                    "UPDATE {table} SET {column} = {column} WHERE tenant_id IN ('{attacker}', '{victim}')"
                )
            }
            Self::UpdateTaking => format!("UPDATE {table} SET tenant_id = '{attacker}' WHERE {theirs}"),
            Self::UpdatePlanting => {
                format!("UPDATE {table} SET tenant_id = '{victim}' WHERE tenant_id = '{attacker}'")
            }
            Self::Delete => format!("DELETE FROM {table} WHERE {theirs}"),
            Self::Merge => {
                let action = match column_to_update(subject) {
                    None if subject.may_delete => "DELETE".to_owned(),
                    column => {
                        let column = column.unwrap_or_else(|| update_target(subject));
                        format!("UPDATE SET {column} = t.{column}")
                    }
                };
                format!(
                    "MERGE INTO {table} AS t USING (SELECT 1) AS s ON t.{theirs} WHEN MATCHED THEN {action}"
                )
            }
            Self::CopyTo => format!("COPY {table} (tenant_id) TO STDOUT"),
            Self::CopyFrom if subject.insertable.is_empty() => format!("COPY {table} FROM STDIN"),
            Self::CopyFrom => format!("COPY {table} ({}) FROM STDIN", list(&subject.insertable)),
            Self::Truncate => format!("TRUNCATE {table}"),
        }
    }
}

/// A column that the login may change and that says nothing of whose the row is.
fn column_to_update(subject: &Subject) -> Option<String> {
    subject.updatable.iter().find(|column| *column != TENANT_ID).map(|column| quote(column))
}

/// The same, or else one that it may not change.
fn update_target(subject: &Subject) -> String {
    column_to_update(subject)
        .or_else(|| {
            let writable = |column: &&crate::catalogue::Column| !column.generated && column.name != TENANT_ID;
            subject.table.columns.iter().find(writable).map(|column| quote(&column.name))
        })
        .unwrap_or_else(|| TENANT_ID.to_owned())
}

/// Columns that may be read and written.
fn both(subject: &Subject) -> String {
    let columns: Vec<String> =
        subject.insertable.iter().filter(|column| subject.readable.contains(column)).cloned().collect();
    if columns.is_empty() { TENANT_ID.to_owned() } else { list(&columns) }
}

/// A row of the victim's own, as the victim would store it.
fn insert(subject: &Subject, victim: TenantId, conflict: &str) -> String {
    let table = &subject.name;
    match &subject.sample {
        Some(row) if subject.insertable.iter().any(|column| column == TENANT_ID) => {
            let columns = both(subject);
            let row = literal(row);
            format!(
                "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE
                 SELECT {columns} FROM jsonb_populate_record(NULL::{table}, {row}::jsonb) {conflict}"
            )
        }
        _ => format!("INSERT INTO {table} (tenant_id) VALUES ('{victim}') {conflict}"),
    }
}
