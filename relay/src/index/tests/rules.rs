//! Replacement, deletion, expiration, vanish and retention, one by one.

use super::*;

#[test]
fn a_message_is_new_once() {
    let bed = Bed::new();
    let note = event(1, ALICE, 100, 1, json!([]));
    assert_eq!(bed.index.status_of(&note, NOW).unwrap(), Known::Unknown);
    assert_eq!(
        bed.index.check_hint(&note, NOW * 1000, NOW).unwrap(),
        Applied::New
    );
    assert_eq!(bed.apply(&entry(&note, 1)), Applied::New);
    assert_eq!(bed.apply(&entry(&note, 1)), Applied::Duplicate);
    assert_eq!(bed.apply(&entry(&note, 7)), Applied::Duplicate);
    assert_eq!(bed.index.status_of(&note, NOW).unwrap(), Known::Present);
    assert_eq!(
        bed.index.check_hint(&note, NOW * 1000, NOW).unwrap(),
        Applied::Duplicate
    );
    let positions = bed.index.positions_of(&note).unwrap();
    assert_eq!(
        positions.iter().map(|at| at.seq).collect::<Vec<_>>(),
        [1, 7]
    );
    let mut query = bed
        .index
        .query(&[Filter::default()], &Readers::anonymous(), NOW)
        .unwrap();
    let batch = query.next_batch(&BatchLimits::default()).unwrap();
    assert_eq!(batch.events[0].json, *note.json());
}

#[test]
fn the_newest_version_wins_and_the_lower_id_among_equals() {
    let bed = Bed::new();
    let version = |number, time| event(number, ALICE, time, 30_000, json!([["d", "x"]]));
    assert_eq!(bed.apply(&entry(&version(5, 100), 1)), Applied::New);
    assert_eq!(bed.apply(&entry(&version(6, 100), 2)), Applied::Superseded);
    assert_eq!(bed.apply(&entry(&version(4, 100), 3)), Applied::New);
    assert_eq!(bed.apply(&entry(&version(9, 101), 4)), Applied::New);
    assert_eq!(bed.apply(&entry(&version(1, 99), 5)), Applied::Superseded);
    assert_eq!(
        bed.index.status_of(&version(4, 100), NOW).unwrap(),
        Known::Superseded
    );
    assert_eq!(bed.ids(json!({}), &[]), [id(9)]);
    let other = [
        event(20, ALICE, 1, 30_000, json!([["d", "y"]])),
        event(21, BOB, 1, 30_000, json!([["d", "x"]])),
        event(22, ALICE, 1, 30_001, json!([["d", "x"]])),
        event(23, ALICE, 1, 30_000, json!([])),
    ];
    for (seq, one) in other.iter().enumerate() {
        assert_eq!(bed.apply(&entry(one, 10 + seq as u64)), Applied::New);
    }
}

#[test]
fn a_deleted_version_does_not_uncover_an_older_one() {
    let bed = Bed::new();
    let version = |number, time| event(number, ALICE, time, 10_050, json!([]));
    assert_eq!(bed.apply(&entry(&version(2, 200), 1)), Applied::New);
    let delete = event(3, ALICE, 300, 5, json!([["e", hex_id(2)], ["k", "10050"]]));
    assert_eq!(bed.apply(&entry(&delete, 2)), Applied::New);
    assert_eq!(bed.apply(&entry(&version(1, 100), 3)), Applied::Superseded);
    assert_eq!(
        bed.index.status_of(&version(2, 200), NOW).unwrap(),
        Known::Deleted
    );
    assert_eq!(
        bed.ids(json!({"kinds": [10_050]}), &[]),
        Vec::<EventId>::new()
    );
    assert_eq!(bed.apply(&entry(&version(4, 201), 4)), Applied::New);
}

#[test]
fn only_its_author_deletes_an_event() {
    let bed = Bed::new();
    let note = event(1, ALICE, 100, 1, json!([]));
    bed.apply(&entry(&note, 1));
    bed.apply(&entry(
        &event(2, BOB, 200, 5, json!([["e", hex_id(1)], ["k", "1"]])),
        2,
    ));
    assert_eq!(bed.ids(json!({"kinds": [1]}), &[]), [id(1)]);
    bed.apply(&entry(
        &event(3, ALICE, 50, 5, json!([["e", hex_id(1)], ["k", "1"]])),
        3,
    ));
    assert_eq!(bed.ids(json!({"kinds": [1]}), &[]), Vec::<EventId>::new());
    assert_eq!(bed.apply(&entry(&note, 4)), Applied::Deleted);
    assert_eq!(
        bed.index.check_hint(&note, NOW * 1000, NOW).unwrap(),
        Applied::Deleted
    );
}

#[test]
fn deletion_requests_cannot_be_deleted_by_id() {
    let bed = Bed::new();
    let delete = event(1, ALICE, 100, 5, json!([["e", hex_id(9)], ["k", "1"]]));
    bed.apply(&entry(&delete, 1));
    bed.apply(&entry(
        &event(2, ALICE, 200, 5, json!([["e", hex_id(1)], ["k", "5"]])),
        2,
    ));
    assert_eq!(bed.ids(json!({"kinds": [5]}), &[]), [id(2), id(1)]);
    assert_eq!(
        bed.apply(&entry(&event(9, ALICE, 90, 1, json!([])), 3)),
        Applied::Deleted
    );
}

#[test]
fn a_coordinate_is_deleted_up_to_the_time_of_the_request() {
    let bed = Bed::new();
    let version = |number, time| event(number, ALICE, time, 30_000, json!([["d", "x"]]));
    let address = format!("30000:{}:x", hex::encode(ALICE));
    bed.apply(&entry(&version(1, 100), 1));
    bed.apply(&entry(&event(9, BOB, 500, 5, json!([["a", address]])), 2));
    assert_eq!(bed.ids(json!({"kinds": [30_000]}), &[]), [id(1)]);
    bed.apply(&entry(&event(2, ALICE, 150, 5, json!([["a", address]])), 3));
    assert_eq!(
        bed.ids(json!({"kinds": [30_000]}), &[]),
        Vec::<EventId>::new()
    );
    assert_eq!(bed.apply(&entry(&version(3, 150), 4)), Applied::Deleted);
    assert_eq!(bed.apply(&entry(&version(4, 151), 5)), Applied::New);
}

#[test]
fn a_wrap_is_deleted_by_its_recipient_or_its_author_in_either_order() {
    for deleter in [BOB, [0x99; 32]] {
        for wrap_first in [true, false] {
            let bed = Bed::new();
            let delete = entry(
                &event(2, deleter, 200, 5, json!([["e", hex_id(1)], ["k", "1059"]])),
                1,
            );
            let wrap = wrap(1, BOB, 100);
            if wrap_first {
                assert_eq!(bed.apply(&entry(&wrap, 1)), Applied::New);
            }
            bed.apply(&delete);
            assert_eq!(bed.apply(&entry(&wrap, 2)), Applied::Deleted);
            assert_eq!(bed.index.status_of(&wrap, NOW).unwrap(), Known::Deleted);
            assert_eq!(
                bed.ids(json!({"kinds": [1059]}), &[BOB]),
                Vec::<EventId>::new()
            );
        }
    }
    let bed = Bed::new();
    bed.apply(&entry(&wrap(1, BOB, 100), 1));
    bed.apply(&entry(
        &event(2, CAROL, 200, 5, json!([["e", hex_id(1)], ["k", "1059"]])),
        1,
    ));
    assert_eq!(bed.ids(json!({"kinds": [1059]}), &[BOB]), [id(1)]);
}

#[test]
fn expired_events_are_hidden_then_erased_and_keep_their_floor() {
    let bed = Bed::new();
    let until = (NOW + 10).to_string();
    let list = event(1, ALICE, 100, 10_050, json!([["expiration", until]]));
    let wrap = event(
        2,
        CAROL,
        100,
        1059,
        json!([["p", hex::encode(BOB)], ["expiration", until]]),
    );
    assert_eq!(bed.apply(&entry(&list, 1)), Applied::New);
    assert_eq!(bed.apply(&entry(&wrap, 1)), Applied::New);
    assert_eq!(bed.ids_at(&[json!({})], &[BOB], NOW + 9).len(), 2);
    assert_eq!(bed.ids_at(&[json!({})], &[BOB], NOW + 10).len(), 0);
    for _ in 0..2 {
        assert_eq!(
            bed.index.status_of(&wrap, NOW + 10).unwrap(),
            Known::Expired
        );
        bed.index.sweep_expired(NOW + 10, 100).unwrap();
        assert_eq!(bed.index.stats().unwrap().private_events, 0);
    }
    assert_eq!(bed.apply_at(&entry(&wrap, 2), NOW + 10), Applied::Expired);
    let older = event(3, ALICE, 99, 10_050, json!([]));
    assert_eq!(
        bed.apply_at(&entry(&older, 2), NOW + 10),
        Applied::Superseded
    );
}

#[test]
fn an_event_expired_on_arrival_still_sets_the_floor() {
    let bed = Bed::new();
    let expired = event(1, ALICE, 100, 10_050, json!([["expiration", "5"]]));
    assert_eq!(bed.apply(&entry(&expired, 1)), Applied::Expired);
    assert_eq!(
        bed.apply(&entry(&event(2, ALICE, 99, 10_050, json!([])), 2)),
        Applied::Superseded
    );
}

#[test]
fn a_request_to_vanish_hides_all_up_to_its_time_and_wraps_to_its_author() {
    let vanish = event(50, BOB, 200, 62, json!([["relay", "ALL_RELAYS"]]));
    let gone = [
        event(1, BOB, 200, 1, json!([])),
        event(2, BOB, 100, 10_050, json!([])),
        wrap(3, BOB, 150),
        event(4, BOB, 120, 5, json!([["e", hex_id(90)], ["k", "1059"]])),
        event(5, BOB, 100, 1059, json!([["p", hex::encode(CAROL)]])),
    ];
    let kept = [
        event(10, BOB, 201, 1, json!([])),
        wrap(11, BOB, 201),
        event(12, ALICE, 100, 1, json!([])),
        wrap(13, CAROL, 100),
    ];
    for vanish_first in [true, false] {
        let bed = Bed::new();
        if vanish_first {
            bed.apply(&entry(&vanish, 100));
        }
        for (seq, one) in gone.iter().chain(&kept).enumerate() {
            bed.apply(&entry(one, 1 + seq as u64));
        }
        bed.apply(&entry(&vanish, 100));
        assert_eq!(
            bed.ids(json!({}), &[BOB, CAROL]),
            [id(10), id(11), id(50), id(12), id(13)]
        );
        assert_eq!(bed.index.status_of(&gone[2], NOW).unwrap(), Known::Deleted);
        let fresh = wrap(14, BOB, 150);
        assert_eq!(bed.index.status_of(&fresh, NOW).unwrap(), Known::Unknown);
        assert_eq!(bed.apply(&entry(&fresh, 101)), Applied::Deleted);
        assert_eq!(bed.index.status_of(&fresh, NOW).unwrap(), Known::Deleted);
    }
}

#[test]
fn messages_age_out_by_their_latest_nats_timestamp_and_state_does_not() {
    let bed = Bed::new();
    let at = |event: &Event, seq, time_s: u64| LogEntry {
        log_time: LogTime::Nats(time_s * 1000),
        ..entry(event, seq)
    };
    let (note, list) = (
        event(1, ALICE, 100, 1, json!([])),
        event(2, ALICE, 100, 10_050, json!([])),
    );
    assert_eq!(bed.apply(&at(&note, 1, NOW - 91 * DAY)), Applied::Expired);
    assert_eq!(bed.apply(&at(&list, 1, NOW - 91 * DAY)), Applied::New);
    assert_eq!(bed.apply(&at(&note, 2, NOW - 89 * DAY)), Applied::New);
    assert_eq!(bed.apply(&at(&note, 3, NOW - 88 * DAY)), Applied::Duplicate);
    assert_eq!(bed.ids_at(&[json!({})], &[], NOW + DAY + DAY / 2).len(), 2);
    assert_eq!(
        bed.index.sweep_expired(NOW + DAY + DAY / 2, 100).unwrap(),
        0
    );
    assert_eq!(bed.ids_at(&[json!({})], &[], NOW + 2 * DAY), [id(2)]);
    assert_eq!(
        bed.index.status_of(&note, NOW + 2 * DAY).unwrap(),
        Known::Unknown
    );
    assert_eq!(bed.index.sweep_expired(NOW + 2 * DAY, 100).unwrap(), 1);
    assert_eq!(bed.index.positions_of(&note).unwrap(), []);
    let again = LogEntry {
        log_time: LogTime::Nats((NOW + 2 * DAY) * 1000),
        ..entry(&note, 9)
    };
    assert_eq!(bed.apply_at(&again, NOW + 2 * DAY), Applied::New);
}

#[test]
fn the_pull_consumer_corrects_a_provisional_timestamp_and_the_publisher_does_not() {
    let began = (NOW - 90 * DAY) * 1000;
    let note = event(1, ALICE, 100, 1, json!([]));
    let copy = |log_time| LogEntry {
        log_time,
        ..entry(&note, 1)
    };
    let publisher = copy(LogTime::Provisional(began + 500));
    let consumer = copy(LogTime::Nats(began + 2_500));
    for order in [[&publisher, &consumer], [&consumer, &publisher]] {
        let bed = Bed::new();
        bed.index
            .apply(&order.map(LogEntry::clone), &[], NOW)
            .unwrap();
        assert_eq!(bed.ids_at(&[json!({})], &[], NOW + 2), [id(1)]);
        assert_eq!(bed.ids_at(&[json!({})], &[], NOW + 3).len(), 0);
    }
}

#[test]
fn an_event_may_be_applied_before_its_position_is_known() {
    let bed = Bed::new();
    let note = event(1, ALICE, 100, 1, json!([]));
    let nowhere = LogEntry {
        at: None,
        ..entry(&note, 1)
    };
    assert_eq!(bed.apply(&nowhere), Applied::New);
    assert_eq!(bed.index.positions_of(&note).unwrap(), []);
    assert_eq!(bed.follow(&entry(&note, 3)), Applied::Duplicate);
    assert_eq!(bed.apply(&nowhere), Applied::Duplicate);
    assert_eq!(
        bed.index.positions_of(&note).unwrap(),
        [LogPosition {
            stream: stream("EV_a_1_0"),
            seq: 3
        }]
    );
}

#[test]
fn ephemeral_events_are_never_stored() {
    let bed = Bed::new();
    let wrap = event(1, CAROL, 100, 21059, json!([["p", hex::encode(BOB)]]));
    assert_eq!(
        bed.index.check_hint(&wrap, NOW * 1000, NOW).unwrap(),
        Applied::New
    );
    assert_eq!(bed.apply(&entry(&wrap, 1)), Applied::Expired);
    assert_eq!(bed.ids(json!({}), &[BOB]), Vec::<EventId>::new());
    let expired = event(2, CAROL, 100, 20_000, json!([["expiration", "5"]]));
    assert_eq!(
        bed.index.check_hint(&expired, NOW * 1000, NOW).unwrap(),
        Applied::Expired
    );
}

#[test]
fn an_old_hint_that_is_sent_again_is_past_its_retention() {
    let bed = Bed::new();
    let hint = |kind, age_s: u64| {
        let event = event(1, ALICE, 100, kind, json!([]));
        let admitted_ms = (NOW - age_s) * 1000;
        bed.index.check_hint(&event, admitted_ms, NOW).unwrap()
    };
    assert_eq!(hint(1, 90 * DAY), Applied::Expired);
    assert_eq!(hint(1, 89 * DAY), Applied::New);
    assert_eq!(hint(10_050, 900 * DAY), Applied::New, "state is kept");
}
