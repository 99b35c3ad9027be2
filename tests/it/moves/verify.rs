//! Whether two databases hold the same rows of a tenant: what is changed, missing or too much is found and named.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};

use stagesub_storage::catalogue::TableName;
use stagesub_storage::moves::pace::Pace;
use stagesub_storage::moves::plan::MovePlan;
use stagesub_storage::moves::verify::{
    Difference, Fault, RowKey, Verified, VerifyError, VerifySettings, everything, keys,
};
use stagesub_tenancy::TenantId;

use super::pair::{Pair, SHOP, tenants};

/// Chunks of seven rows, so that tables have many.
fn settings(most_differences: usize) -> VerifySettings {
    VerifySettings {
        chunk_rows: NonZeroU32::new(7).unwrap(),
        most_differences: NonZeroUsize::new(most_differences).unwrap(),
        pace: Pace::unlimited(),
    }
}

async fn verified(pair: &Pair, plan: &MovePlan, tenant: TenantId, settings: &VerifySettings) -> Verified {
    everything(&pair.source, &pair.target, plan, tenant, settings).await.unwrap()
}

/// A pair that holds the same of one tenant, and of another what the source alone has.
async fn equal_pair() -> (Pair, MovePlan, TenantId) {
    let [moved, other] = tenants();
    let pair = Pair::with_shop(&[moved, other]).await;
    let plan = pair.plan().await;
    pair.copied(&plan, moved).await;
    (pair, plan, moved)
}

fn row(table: &str, values: &[&str]) -> RowKey {
    let table = TableName { schema: SHOP.to_owned(), name: table.to_owned() };
    RowKey { table, values: values.iter().map(ToString::to_string).collect() }
}

fn faults(verified: &Verified) -> Vec<(RowKey, Fault)> {
    verified.differences.iter().map(|difference| (difference.row.clone(), difference.fault)).collect()
}

/// The key of one of the many rows of the hard table.
fn many(n: u32) -> RowKey {
    let (name, at) = (format!("many {n}"), format!("2026-01-01 00:00:00.{n:06}"));
    let at = format!("{}+00", at.trim_end_matches('0'));
    row("A; hard one", &[&name, "00000000-0000-0000-0000-000000000002", &at])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_copied_is_equal_in_chunks_of_any_size() {
    let (pair, plan, moved) = equal_pair().await;
    for chunk_rows in [1, 7, 100, 101, 5_000] {
        let settings = VerifySettings { chunk_rows: NonZeroU32::new(chunk_rows).unwrap(), ..settings(10) };
        let verified = verified(&pair, &plan, moved, &settings).await;
        assert!(verified.is_equal(), "{:?}", verified.differences);
        assert_eq!(verified.rows, 504, "chunks of {chunk_rows}");
        assert!(verified.bytes > 128_000);
    }
    pair.sessions_are_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_found_by_their_index_and_read_a_few_times_however_many_chunks_there_are() {
    let (pair, plan, moved) = equal_pair().await;
    pair.sessions_are_gone().await;
    let [here, there] = [pair.reads(false).await, pair.reads(true).await];
    assert!(verified(&pair, &plan, moved, &settings(10)).await.is_equal());
    pair.sessions_are_gone().await;
    for (before, after, most) in [(here, pair.reads(false).await, 3), (there, pair.reads(true).await, 2)] {
        assert_eq!(after.table_scans, before.table_scans, "no table was read from its beginning");
        let read = after.index_entries - before.index_entries;
        // Each row once for its hash; on the source once more to find where a chunk ends.
        assert!(read >= 504 && read <= 504 * most, "{read} index entries for 504 rows");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_one_missing_and_one_extra_row_are_named() {
    let (pair, plan, moved) = equal_pair().await;
    pair.on_target(&format!(
        r#"SET search_path = "Odd ""Shop";
        UPDATE account SET amount = 0.0 WHERE tenant_id = '{moved}' AND "no" = 77;
        DELETE FROM account WHERE tenant_id = '{moved}' AND "no" = 150;
        INSERT INTO account (tenant_id, "no", "e""mail") VALUES ('{moved}', 1000000, 'x@a.example');
        UPDATE "A; hard one" SET half = '0' WHERE tenant_id = '{moved}' AND name = '';
        DELETE FROM "A; hard one" WHERE tenant_id = '{moved}' AND name = 'many 123';
        UPDATE one_row SET note = NULL WHERE tenant_id = '{moved}'"#
    ))
    .await;
    let found = verified(&pair, &plan, moved, &settings(10)).await;
    let hard = row("A; hard one", &["", "00000000-0000-0000-0000-000000000000", "-infinity"]);
    let wanted = [
        (row("account", &["77"]), Fault::Changed),
        (row("account", &["150"]), Fault::Missing),
        (row("account", &["1000000"]), Fault::Extra),
        (row("one_row", &[]), Fault::Changed),
        (hard.clone(), Fault::Changed),
        (many(123), Fault::Missing),
    ];
    let mut told = faults(&found);
    assert!(!found.more && found.rows == 504, "{found:?}");
    for one in &wanted {
        let place = told.iter().position(|other| other == one);
        told.swap_remove(place.unwrap_or_else(|| panic!("{one:?} is not among {told:?}")));
    }
    assert_eq!(told, []);
    let words: Vec<String> = found.differences.iter().map(ToString::to_string).collect();
    assert!(words.contains(&r#"Odd "Shop.account (150) is missing on the target"#.to_owned()), "{words:?}");

    // Put right, they are equal again.
    pair.copied(&plan, moved).await;
    assert!(verified(&pair, &plan, moved, &settings(10)).await.is_equal());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_before_the_first_and_rows_that_exchanged_their_contents_are_found() {
    let (pair, plan, moved) = equal_pair().await;
    pair.on_target(&format!(
        r#"SET search_path = "Odd ""Shop";
        INSERT INTO account (tenant_id, "no", "e""mail") VALUES ('{moved}', -5, 'before@a.example');
        UPDATE "A; hard one" SET amount = CASE amount WHEN 200 THEN 201 ELSE 200 END, half = 0
        WHERE tenant_id = '{moved}' AND name IN ('many 200', 'many 201')"#
    ))
    .await;
    pair.on_source(&format!(
        r#"UPDATE "Odd ""Shop"."A; hard one" SET half = 0 WHERE tenant_id = '{moved}' AND name IN ('many 200', 'many 201')"#
    ))
    .await;
    let found = verified(&pair, &plan, moved, &settings(10)).await;
    let told = faults(&found);
    assert_eq!(told.len(), 3, "{told:?}");
    for one in
        [(row("account", &["-5"]), Fault::Extra), (many(200), Fault::Changed), (many(201), Fault::Changed)]
    {
        assert!(told.contains(&one), "{one:?} is not among {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_are_told_than_were_asked_for() {
    let (pair, plan, moved) = equal_pair().await;
    pair.on_target(&format!(
        r#"UPDATE "Odd ""Shop".account SET amount = 1 WHERE tenant_id = '{moved}' AND "no" > 100"#
    ))
    .await;
    let all = verified(&pair, &plan, moved, &settings(100)).await;
    assert!(all.differences.len() == 100 && !all.more);
    let some = verified(&pair, &plan, moved, &settings(9)).await;
    assert!(some.differences.len() == 9 && some.more && !some.is_equal());
    assert!(some.differences.iter().all(|one| one.fault == Fault::Changed), "{some:?}");

    // A target with far more rows than the source is no more work than that.
    pair.on_target(&format!(
        r#"INSERT INTO "Odd ""Shop".account (tenant_id, "no", "e""mail")
        SELECT '{moved}', n, n || '@b.example' FROM generate_series(1000, 9000) AS n"#
    ))
    .await;
    pair.on_both(&format!(r#"UPDATE "Odd ""Shop".account SET amount = 1 WHERE tenant_id = '{moved}'"#)).await;
    let some = verified(&pair, &plan, moved, &settings(9)).await;
    assert!(some.differences.len() == 9 && some.more);
    assert!(some.differences.iter().all(|one| one.fault == Fault::Extra), "{some:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn given_keys_are_compared_by_themselves() {
    let (pair, plan, moved) = equal_pair().await;
    pair.on_target(&format!(
        r#"SET search_path = "Odd ""Shop";
        UPDATE account SET amount = 3 WHERE tenant_id = '{moved}' AND "no" IN (10, 11);
        DELETE FROM "A; hard one" WHERE tenant_id = '{moved}' AND name = 'many 5';
        UPDATE one_row SET note = 'other' WHERE tenant_id = '{moved}'"#
    ))
    .await;
    pair.on_both(&format!(r#"DELETE FROM "Odd ""Shop".account WHERE tenant_id = '{moved}' AND "no" = 199"#))
        .await;
    pair.on_source(&format!(
        r#"DELETE FROM "Odd ""Shop".account WHERE tenant_id = '{moved}' AND "no" = 198"#
    ))
    .await;
    let mut source = pair.source.open("keys").await.unwrap();
    let mut target = pair.target.open("keys").await.unwrap();
    let asked = [
        row("account", &["9"]),
        row("account", &["10"]),
        row("account", &["10"]),
        // Neither side has these any more, or ever had.
        row("account", &["199"]),
        row("account", &["4711"]),
        row("account", &["198"]),
        many(5),
        many(6),
        row("one_row", &[]),
    ];
    let found = keys(&mut source, &mut target, &plan, moved, &asked).await.unwrap();
    let told: Vec<(RowKey, Fault)> =
        found.into_iter().map(|Difference { row, fault }| (row, fault)).collect();
    assert_eq!(
        told,
        [
            (row("account", &["10"]), Fault::Changed),
            (row("account", &["198"]), Fault::Extra),
            (row("one_row", &[]), Fault::Changed),
            (many(5), Fault::Missing),
        ]
    );
    assert_eq!(keys(&mut source, &mut target, &plan, moved, &[]).await.unwrap(), []);
    for wrong in [row("country", &["SE"]), row("account", &["1", "2"]), row("one_row", &["1"])] {
        let refused = keys(&mut source, &mut target, &plan, moved, std::slice::from_ref(&wrong)).await;
        assert!(matches!(&refused, Err(VerifyError::NoKey(key)) if *key == wrong), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_that_order_texts_differently_are_equal_all_the_same() {
    let [moved] = tenants();
    let pair = Pair::with_shop(&[moved]).await;
    // As on a server with other locales: the key's order is another one there.
    pair.on_target(
        r#"ALTER TABLE "Odd ""Shop"."A; hard one" ALTER name TYPE varchar(20) COLLATE "und-x-icu""#,
    )
    .await;
    let plan = pair.plan().await;
    pair.copied(&plan, moved).await;
    let order = |on_target| pair.ordered_names(on_target, moved);
    assert_ne!(order(false).await, order(true).await);
    let equal = verified(&pair, &plan, moved, &settings(20)).await;
    assert!(equal.is_equal() && equal.rows == 504, "{:?}", equal.differences);

    pair.on_target(&format!(
        r#"DELETE FROM "Odd ""Shop"."A; hard one" WHERE tenant_id = '{moved}' AND name = 'many 42'"#
    ))
    .await;
    let found = verified(&pair, &plan, moved, &settings(20)).await;
    assert_eq!(faults(&found), [(many(42), Fault::Missing)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_keeps_the_pace() {
    let (pair, plan, moved) = equal_pair().await;
    let slow = VerifySettings { pace: Pace::bytes_per_second(NonZeroU64::MIN), ..settings(10) };
    let unpaced = async {
        for _ in 0..3 {
            assert!(verified(&pair, &plan, moved, &settings(10)).await.is_equal());
        }
    };
    tokio::select! {
        found = verified(&pair, &plan, moved, &slow) => panic!("128,000 bytes at one byte a second: {found:?}"),
        () = unpaced => {}
    }
}
