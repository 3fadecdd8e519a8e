//! Private events: who gets them, and that no table of public events leads to them.

use super::*;

fn bed_with_private_events() -> Bed {
    let bed = Bed::new();
    let events = [
        wrap(1, BOB, 100),
        wrap(2, CAROL, 200),
        event(3, BOB, 300, 5, json!([["e", hex_id(77)], ["k", "1059"]])),
        event(4, BOB, 50, 62, json!([["relay", "ALL_RELAYS"]])),
        event(5, ALICE, 150, 1, json!([["p", hex::encode(BOB)]])),
    ];
    for (seq, one) in events.iter().enumerate() {
        assert_eq!(bed.apply(&entry(one, 1 + seq as u64)), Applied::New);
    }
    bed
}

/// Every way to ask for a wrap to Bob: by kind, kindless, by id, by author, by recipient, by time, all at once.
fn ways() -> Vec<Value> {
    let bob = hex::encode(BOB);
    let everyone = [ALICE, BOB, CAROL, [0x99; 32]].map(hex::encode);
    vec![
        json!({"kinds": [1059]}),
        json!({"kinds": [1059, 5, 62]}),
        json!({}),
        json!({"ids": [hex_id(1), hex_id(2), hex_id(3), hex_id(4)]}),
        json!({"authors": everyone}),
        json!({"authors": everyone, "kinds": [1059, 5, 62]}),
        json!({"#p": [bob]}),
        json!({"#p": [bob], "kinds": [1059]}),
        json!({"#e": [hex_id(77)]}),
        json!({"#k": ["1059"]}),
        json!({"since": 90, "until": 110}),
        json!({"limit": 1, "until": 120}),
    ]
}

#[test]
fn a_stranger_gets_nothing_private_in_any_way() {
    let bed = bed_with_private_events();
    for readers in [&[][..], &[ALICE][..], &[[0x99; 32]][..]] {
        for way in ways() {
            let ids = bed.ids(way.clone(), readers);
            assert!(ids.iter().all(|found| *found == id(5)), "{way}");
        }
    }
    assert_eq!(bed.index.stats().unwrap().door_violations, 0);
}

#[test]
fn readers_get_their_own_and_no_other() {
    let bed = bed_with_private_events();
    assert_eq!(bed.ids(json!({}), &[BOB]), [id(3), id(5), id(1), id(4)]);
    assert_eq!(bed.ids(json!({}), &[CAROL]), [id(2), id(5)]);
    assert_eq!(
        bed.ids(json!({}), &[BOB, CAROL]),
        [id(3), id(2), id(5), id(1), id(4)]
    );
    assert_eq!(bed.ids(json!({"kinds": [1059]}), &[BOB]), [id(1)]);
    assert_eq!(
        bed.ids(json!({"ids": [hex_id(1), hex_id(2)]}), &[BOB]),
        [id(1)]
    );
    assert_eq!(
        bed.ids(json!({"#p": [hex::encode(BOB)]}), &[BOB]),
        [id(5), id(1)]
    );
    assert_eq!(
        bed.ids(json!({"#p": [hex::encode(CAROL)]}), &[BOB]),
        Vec::<EventId>::new()
    );
    assert_eq!(
        bed.ids(json!({"authors": [hex::encode(BOB)]}), &[BOB]),
        [id(3), id(4)]
    );
    assert_eq!(
        bed.ids(
            json!({"authors": [hex::encode([0x99; 32])], "since": 100}),
            &[BOB]
        ),
        [id(1)]
    );
}

#[test]
fn limits_do_not_tell_a_stranger_that_hidden_events_exist() {
    let bed = bed_with_private_events();
    assert_eq!(bed.ids(json!({"limit": 1}), &[]), [id(5)]);
}

#[test]
fn no_table_of_public_events_holds_a_private_one() {
    let bed = bed_with_private_events();
    let (tables, txn) = (bed.index.tables(), bed.index.read_txn().unwrap());
    for table in [
        tables.events,
        tables.by_time,
        tables.by_kind,
        tables.by_author,
        tables.by_author_kind,
        tables.by_tag,
    ] {
        for row in table.iter(&txn).unwrap() {
            let (key, _) = row.unwrap();
            assert_eq!(key.last_chunk::<32>(), Some(&id(5)));
        }
    }
    for table in [
        tables.private_events,
        tables.private_by_time,
        tables.private_by_kind,
    ] {
        for row in table.iter(&txn).unwrap() {
            let (key, _) = row.unwrap();
            assert!(key.starts_with(&BOB) || key.starts_with(&CAROL));
        }
    }
}

#[test]
fn erasing_leaves_no_row_behind() {
    let bed = Bed::new();
    let until = (NOW + 1).to_string();
    let private = event(
        1,
        CAROL,
        100,
        1059,
        json!([["p", hex::encode(BOB)], ["expiration", until], ["t", "x"]]),
    );
    let long = "v".repeat(200);
    let public = event(
        2,
        CAROL,
        100,
        1,
        json!([
            ["t", long],
            ["t", long],
            ["r", ""],
            ["e"],
            ["expiration", until]
        ]),
    );
    bed.apply(&entry(&private, 1));
    bed.apply(&entry(&public, 2));
    assert_eq!(bed.ids(json!({"#t": [long]}), &[]), [id(2)]);
    assert_eq!(bed.ids(json!({"#r": [""]}), &[]), [id(2)]);
    assert_eq!(bed.index.sweep_expired(NOW + 1, 1).unwrap(), 1);
    assert_eq!(bed.index.sweep_expired(NOW + 1, 10).unwrap(), 1);
    let txn = bed.index.read_txn().unwrap();
    for table in bed.index.tables().all() {
        let is_streams = table
            .first(&txn)
            .unwrap()
            .is_some_and(|(key, _)| key == b"EV_a_1_0");
        assert!(is_streams || table.is_empty(&txn).unwrap());
    }
}
