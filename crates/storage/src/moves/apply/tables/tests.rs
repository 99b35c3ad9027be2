use bytes::Bytes;
use uuid::Uuid;

use super::*;
use crate::moves::pgoutput::{RelationColumn, ReplicaIdentity, TypeName};

const TENANT: Uuid = Uuid::from_u128(7);
const MOOD: u32 = 16_500;

/// A table `tenant.note` with tenant, number, text and an enum of the target.
pub(in super::super) fn note() -> Target {
    let column = |name: &str, oid: u32, base: (&str, &str)| TargetColumn {
        name: name.to_owned(),
        quoted: name.to_owned(),
        type_oid: Oid(oid),
        type_name: base.1.to_owned(),
        base: (base.0.to_owned(), base.1.to_owned()),
        binary: true,
        fixed: false,
    };
    Target {
        name: TableName { schema: "tenant".to_owned(), name: "note".to_owned() },
        quoted: "tenant.note".to_owned(),
        columns: vec![
            column("tenant_id", 2950, ("pg_catalog", "uuid")),
            column("no", 20, ("pg_catalog", "int8")),
            column("words", 25, ("pg_catalog", "text")),
            column("mood", 99_999, ("tenant", "mood")),
        ],
        key: vec![0, 1],
        tenant: 0,
    }
}

/// The same as the source sends it, in another order.
fn sent() -> Relation {
    let column = |name: &str, type_oid, key| RelationColumn { key, name: name.to_owned(), type_oid };
    Relation {
        id: 5,
        schema: "tenant".to_owned(),
        name: "note".to_owned(),
        identity: ReplicaIdentity::Default,
        columns: vec![
            column("words", 25, false),
            column("tenant_id", 2950, true),
            column("mood", MOOD, false),
            column("no", 20, true),
        ],
    }
}

fn mapper(relation: Relation) -> Mapper {
    let mut mapper = Mapper::new(TenantId::from_uuid(TENANT), vec![note()]);
    let mood = TypeName { oid: MOOD, schema: "tenant".to_owned(), name: "mood".to_owned() };
    mapper.learn(&Message::Type(mood));
    mapper.learn(&Message::Relation(relation));
    mapper
}

fn binary(bytes: &[u8]) -> Value {
    Value::Binary(Bytes::copy_from_slice(bytes))
}

fn tuple(words: Value, tenant: Uuid, no: i64) -> Tuple {
    Tuple(vec![words, binary(tenant.as_bytes()), Value::Null, binary(&no.to_be_bytes())])
}

fn key(no: i64) -> Key {
    Key(vec![binary(TENANT.as_bytes()), binary(&no.to_be_bytes())])
}

fn row(words: Value, no: i64) -> Row {
    Row(vec![binary(TENANT.as_bytes()), binary(&no.to_be_bytes()), words, Value::Null])
}

#[test]
fn rows_get_the_order_of_the_targets_columns() {
    let mut mapper = mapper(sent());
    let hi = binary(b"hi");
    let change = mapper.insert(5, &tuple(hi.clone(), TENANT, 3)).unwrap();
    assert_eq!(change, Change { table: 0, key: key(3), what: What::Insert(row(hi.clone(), 3)) });
    let change = mapper.update(5, None, &tuple(Value::Unchanged, TENANT, 3)).unwrap();
    assert_eq!(change, Change { table: 0, key: key(3), what: What::Update(row(Value::Unchanged, 3)) });
    let change = mapper.delete(5, &Old::Key(tuple(Value::Null, TENANT, 3))).unwrap();
    assert_eq!(change, Change { table: 0, key: key(3), what: What::Delete });
}

#[test]
fn a_key_that_changes_is_told_from_one_that_is_only_sent() {
    let mut mapper = mapper(sent());
    let old = |no| Old::Key(tuple(Value::Null, TENANT, no));
    let change = mapper.update(5, Some(&old(3)), &tuple(Value::Unchanged, TENANT, 4)).unwrap();
    assert_eq!(change, Change { table: 0, key: key(3), what: What::Rekey(row(Value::Unchanged, 4), key(4)) });
    let change = mapper.update(5, Some(&old(3)), &tuple(Value::Unchanged, TENANT, 3)).unwrap();
    assert_eq!(change.what, What::Update(row(Value::Unchanged, 3)), "what is no key is null and not meant");
}

#[test]
fn what_was_not_sent_is_taken_from_an_old_row_that_is_whole() {
    let mut mapper = mapper(sent());
    let old = Old::Row(tuple(binary(b"was"), TENANT, 3));
    let change = mapper.update(5, Some(&old), &tuple(Value::Unchanged, TENANT, 3)).unwrap();
    assert_eq!(change.what, What::Update(row(binary(b"was"), 3)));
}

#[test]
fn a_key_that_was_not_sent_is_what_it_was() {
    let mut mapper = mapper(sent());
    let Tuple(mut values) = tuple(binary(b"is"), TENANT, 3);
    values[3] = Value::Unchanged;
    let old = Old::Key(tuple(Value::Null, TENANT, 3));
    let change = mapper.update(5, Some(&old), &Tuple(values.clone())).unwrap();
    assert_eq!(change.what, What::Update(row(binary(b"is"), 3)));
    assert!(matches!(mapper.update(5, None, &Tuple(values)), Err(ApplyError::Schema { .. })));
}

#[test]
fn another_tenants_row_is_refused() {
    let mut mapper = mapper(sent());
    let other = Uuid::from_u128(8);
    let foreign = tuple(Value::Null, other, 3);
    assert!(matches!(mapper.insert(5, &foreign), Err(ApplyError::ForeignRow { .. })));
    assert!(matches!(mapper.update(5, None, &foreign), Err(ApplyError::ForeignRow { .. })));
    let own = tuple(Value::Null, TENANT, 3);
    let old = Old::Key(foreign.clone());
    assert!(matches!(mapper.update(5, Some(&old), &own), Err(ApplyError::ForeignRow { .. })));
    assert!(matches!(mapper.delete(5, &old), Err(ApplyError::ForeignRow { .. })));
}

#[test]
fn a_table_that_differs_is_refused_in_words() {
    let refused = |change: &dyn Fn(&mut Relation)| {
        let mut relation = sent();
        change(&mut relation);
        let values = vec![Value::Null; relation.columns.len()];
        match mapper(relation).insert(5, &Tuple(values)) {
            Err(ApplyError::Schema { detail, .. }) => detail,
            other => panic!("{other:?}"),
        }
    };
    let renamed = refused(&|relation| relation.columns[0].name = "text".to_owned());
    assert_eq!(renamed, "the target lacks column text");
    let dropped = refused(&|relation| drop(relation.columns.remove(0)));
    assert_eq!(dropped, "the source does not send column words");
    let retyped = refused(&|relation| relation.columns[3].type_oid = 23);
    assert_eq!(retyped, "column no is of another type on the source");
    let custom = refused(&|relation| relation.columns[2].type_oid = MOOD + 1);
    assert_eq!(custom, "column mood is of another type on the source");
    let unkeyed = refused(&|relation| relation.columns[3].key = false);
    assert_eq!(unkeyed, "its rows are not told apart by no on the source");
    let other = refused(&|relation| relation.name = "other".to_owned());
    assert_eq!(other, "it is not one that is moved");
}

#[test]
fn a_table_that_is_described_anew_is_looked_at_anew() {
    let mut mapper = mapper(sent());
    mapper.insert(5, &tuple(Value::Null, TENANT, 3)).unwrap();
    let mut changed = sent();
    changed.columns[0].type_oid = 1043;
    mapper.learn(&Message::Relation(changed));
    let refused = mapper.insert(5, &tuple(Value::Null, TENANT, 4));
    assert!(matches!(refused, Err(ApplyError::Schema { .. })), "{refused:?}");
}

#[test]
fn a_row_of_another_shape_or_of_no_table_is_refused() {
    let mut mapper = mapper(sent());
    assert!(matches!(mapper.insert(5, &Tuple(vec![Value::Null])), Err(ApplyError::Decode(_))));
    assert!(matches!(mapper.insert(6, &tuple(Value::Null, TENANT, 3)), Err(ApplyError::Decode(_))));
    let unsent = tuple(Value::Unchanged, TENANT, 3);
    assert!(matches!(mapper.insert(5, &unsent), Err(ApplyError::Schema { .. })));
}
