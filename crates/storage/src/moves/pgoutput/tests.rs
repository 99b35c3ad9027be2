use bytes::BufMut;
use proptest::prelude::*;

use super::*;

fn put(build: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut bytes = Vec::new();
    build(&mut bytes);
    Bytes::from(bytes)
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(text.as_bytes());
    bytes.put_u8(0);
}

fn put_row(bytes: &mut Vec<u8>) {
    bytes.put_i16(4);
    bytes.put_u8(b'n');
    bytes.put_u8(b'u');
    for kind in *b"tb" {
        bytes.put_u8(kind);
        bytes.put_i32(2);
        bytes.put_slice(b"42");
    }
}

fn row() -> Tuple {
    let two = Bytes::from_static(b"42");
    Tuple(vec![Value::Null, Value::Unchanged, Value::Text(two.clone()), Value::Binary(two)])
}

/// One message of each kind, and what it says.
fn every_kind() -> Vec<(Bytes, Message)> {
    let mut all = of_transactions();
    all.extend(of_tables());
    all.extend(of_rows());
    all
}

fn of_transactions() -> Vec<(Bytes, Message)> {
    vec![
        (
            put(|b| {
                b.put_u8(b'B');
                b.put_u64(0x0200_0000_0010);
                b.put_i64(-1);
                b.put_u32(99);
            }),
            Message::Begin { final_lsn: Lsn(0x0200_0000_0010), xid: 99 },
        ),
        (
            put(|b| {
                b.put_u8(b'C');
                b.put_u8(0);
                b.put_u64(16);
                b.put_u64(24);
                b.put_i64(5);
            }),
            Message::Commit { commit_lsn: Lsn(16), end_lsn: Lsn(24) },
        ),
        (
            put(|b| {
                b.put_u8(b'O');
                b.put_u64(3);
                put_text(b, "elsewhere");
            }),
            Message::Origin { commit_lsn: Lsn(3), name: "elsewhere".to_owned() },
        ),
        (
            put(|b| {
                b.put_u8(b'M');
                b.put_u8(1);
                b.put_u64(40);
                put_text(b, "prefix");
                b.put_i32(3);
                b.put_slice(b"a\0b");
            }),
            Message::Logical {
                transactional: true,
                lsn: Lsn(40),
                prefix: "prefix".to_owned(),
                content: Bytes::from_static(b"a\0b"),
            },
        ),
    ]
}

fn of_tables() -> Vec<(Bytes, Message)> {
    vec![
        (
            put(|b| {
                b.put_u8(b'R');
                b.put_u32(7);
                put_text(b, "tenant");
                put_text(b, "notå");
                b.put_u8(b'd');
                b.put_i16(2);
                for (key, name, oid) in [(1, "tenant_id", 2950), (0, "mood", 16_500)] {
                    b.put_u8(key);
                    put_text(b, name);
                    b.put_u32(oid);
                    b.put_i32(-1);
                }
            }),
            Message::Relation(Relation {
                id: 7,
                schema: "tenant".to_owned(),
                name: "notå".to_owned(),
                identity: ReplicaIdentity::Default,
                columns: vec![
                    RelationColumn { key: true, name: "tenant_id".to_owned(), type_oid: 2950 },
                    RelationColumn { key: false, name: "mood".to_owned(), type_oid: 16_500 },
                ],
            }),
        ),
        (
            put(|b| {
                b.put_u8(b'Y');
                b.put_u32(16_500);
                put_text(b, "tenant");
                put_text(b, "mood");
            }),
            Message::Type(TypeName { oid: 16_500, schema: "tenant".to_owned(), name: "mood".to_owned() }),
        ),
        (
            put(|b| {
                b.put_u8(b'T');
                b.put_i32(2);
                b.put_u8(3);
                b.put_u32(7);
                b.put_u32(8);
            }),
            Message::Truncate { relations: vec![7, 8] },
        ),
    ]
}

fn of_rows() -> Vec<(Bytes, Message)> {
    let change = |tag: u8, parts: &[u8]| {
        put(|b| {
            b.put_u8(tag);
            b.put_u32(7);
            for part in parts {
                b.put_u8(*part);
                put_row(b);
            }
        })
    };
    let (key, full) = (Old::Key(row()), Old::Row(row()));
    vec![
        (change(b'I', b"N"), Message::Insert { relation: 7, new: row() }),
        (change(b'U', b"N"), Message::Update { relation: 7, old: None, new: row() }),
        (change(b'U', b"KN"), Message::Update { relation: 7, old: Some(key.clone()), new: row() }),
        (change(b'U', b"ON"), Message::Update { relation: 7, old: Some(full.clone()), new: row() }),
        (change(b'D', b"K"), Message::Delete { relation: 7, old: key }),
        (change(b'D', b"O"), Message::Delete { relation: 7, old: full }),
    ]
}

#[test]
fn every_message_of_the_protocol_is_read() {
    for (bytes, message) in every_kind() {
        assert_eq!(decode(bytes), Ok(message));
    }
}

#[test]
fn a_message_that_ends_anywhere_before_its_end_is_refused() {
    for (bytes, message) in every_kind() {
        for end in 0..bytes.len() {
            let refused = decode(bytes.slice(..end)).expect_err("it is not whole");
            assert_eq!(refused, DecodeError::Truncated, "{message:?} to {end}");
        }
    }
}

#[test]
fn bytes_behind_the_end_are_refused() {
    for (bytes, _) in every_kind() {
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(decode(Bytes::from(longer)), Err(DecodeError::Trailing { bytes: 1 }));
    }
}

#[test]
fn what_means_nothing_is_named() {
    let unknown = |bytes: &'static [u8]| match decode(Bytes::from_static(bytes)) {
        Err(DecodeError::Unknown { what, byte }) => (what, byte),
        other => panic!("{other:?}"),
    };
    assert_eq!(unknown(b"x"), ("message it is", b'x'));
    assert_eq!(unknown(b"I\0\0\0\x07K"), ("row comes", b'K'));
    assert_eq!(unknown(b"D\0\0\0\x07N"), ("row goes", b'N'));
    assert_eq!(unknown(b"U\0\0\0\x07K\0\0K"), ("row comes", b'K'));
    assert_eq!(unknown(b"I\0\0\0\x07N\0\x01x"), ("kind of value follows", b'x'));
    assert_eq!(unknown(b"R\0\0\0\x07s\0t\0x"), ("replica identity a table has", b'x'));
}

#[test]
fn a_number_of_things_that_cannot_be_is_refused() {
    let decoded = |bytes: &'static [u8]| decode(Bytes::from_static(bytes));
    assert_eq!(decoded(b"I\0\0\0\x07N\xff\xff"), Err(DecodeError::Count { count: -1 }));
    assert_eq!(decoded(b"T\xff\xff\xff\xfe\0"), Err(DecodeError::Count { count: -2 }));
    // Room is made for what is there, not for what is promised.
    assert_eq!(decoded(b"T\x7f\xff\xff\xff\0"), Err(DecodeError::Truncated));
    assert_eq!(decoded(b"I\0\0\0\x07N\0\x01b\x7f\xff\xff\xff"), Err(DecodeError::Truncated));
    assert_eq!(decoded(b"O\0\0\0\0\0\0\0\0\xff\0"), Err(DecodeError::Name));
}

#[test]
fn a_row_is_not_shown() {
    let shown = format!("{:?}", Message::Insert { relation: 7, new: row() });
    assert!(shown.contains("Binary(2 bytes)") && !shown.contains("42"), "{shown}");
}

#[test]
fn a_table_is_known_until_it_is_described_anew() {
    let relation = |name: &str| Relation {
        id: 7,
        schema: "tenant".to_owned(),
        name: name.to_owned(),
        identity: ReplicaIdentity::Default,
        columns: vec![RelationColumn { key: true, name: "tenant_id".to_owned(), type_oid: 2950 }],
    };
    let mut relations = Relations::default();
    assert_eq!(relations.table(7), Err(DecodeError::UnknownRelation));
    assert!(relations.learn(relation("note")));
    assert!(!relations.learn(relation("note")));
    assert!(relations.learn(relation("other")));
    let known = relations.table(7).unwrap();
    assert_eq!(known.name, "other");
    assert_eq!(known.check(&Tuple(vec![Value::Null])), Ok(()));
    assert!(matches!(known.check(&row()), Err(DecodeError::Shape { columns: 1, values: 4, .. })));
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(Bytes::from(bytes));
    }

    #[test]
    fn any_bytes_behind_a_tag_are_a_message_or_an_error(
        tag in proptest::sample::select(b"BCORYIUDTM".to_vec()),
        bytes in proptest::collection::vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>(), 1 => Just(b'N')], 0..120),
    ) {
        let mut message = vec![tag];
        message.extend(bytes);
        let _ = decode(Bytes::from(message));
    }

    #[test]
    fn a_message_with_bytes_changed_is_a_message_or_an_error(
        kind in 0..every_kind().len(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = every_kind()[kind].0.to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = decode(Bytes::from(bytes));
    }
}
