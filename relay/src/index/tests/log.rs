//! Positions in the log, and entries that the log can do without.

use super::*;

fn at(seq: u64) -> LogPosition {
    LogPosition {
        stream: stream("ST_a_1_0"),
        seq,
    }
}

#[test]
fn only_advances_move_the_position_and_never_back() {
    let bed = Bed::new();
    let note = event(1, ALICE, 100, 1, json!([]));
    bed.apply(&entry(&note, 9));
    assert!(bed.index.position().unwrap().is_empty());
    for (seq, expected) in [(5, 5), (3, 5), (9, 9)] {
        bed.index
            .apply(
                &[],
                &[Advance {
                    stream: stream("EV_b_2_3"),
                    seq,
                }],
                NOW,
            )
            .unwrap();
        assert_eq!(
            bed.index.position().unwrap().get(&stream("EV_b_2_3")),
            expected
        );
    }
    assert_eq!(
        bed.index.stats().unwrap().position,
        bed.index.position().unwrap()
    );
}

#[test]
fn an_entry_may_be_removed_once_its_successor_is_confirmed() {
    let bed = Bed::new();
    let version = |number, time| event(number, ALICE, time, 10_050, json!([]));
    bed.follow(&entry(&version(1, 100), 1));
    bed.apply(&entry(&version(2, 200), 2));
    assert_eq!(bed.index.superseded(10).unwrap(), []);
    bed.follow(&entry(&version(2, 200), 2));
    assert_eq!(bed.index.superseded(10).unwrap(), [at(1)]);
    assert_eq!(bed.index.superseded(0).unwrap(), []);
    bed.follow(&entry(&version(3, 50), 3));
    assert_eq!(bed.index.superseded(10).unwrap(), [at(1), at(3)]);
    bed.index.swept(&[at(1)]).unwrap();
    assert_eq!(bed.index.superseded(10).unwrap(), [at(3)]);
}

#[test]
fn every_position_of_a_superseded_event_may_be_removed() {
    let bed = Bed::new();
    let old = event(1, ALICE, 100, 10_050, json!([]));
    for seq in 1..=3 {
        bed.follow(&entry(&old, seq));
    }
    bed.follow(&entry(&event(2, ALICE, 200, 10_050, json!([])), 4));
    bed.follow(&entry(&old, 5));
    assert_eq!(
        bed.index.superseded(10).unwrap(),
        [at(1), at(2), at(3), at(5)]
    );
}

#[test]
fn a_deleted_floor_stays_in_the_log_until_something_newer_comes() {
    let bed = Bed::new();
    let version = |number, time| event(number, ALICE, time, 10_050, json!([]));
    bed.follow(&entry(&version(1, 100), 1));
    bed.follow(&entry(&version(2, 200), 2));
    bed.follow(&entry(
        &event(9, ALICE, 300, 5, json!([["e", hex_id(2)], ["k", "10050"]])),
        3,
    ));
    assert_eq!(bed.index.superseded(10).unwrap(), [at(1)]);
    bed.follow(&entry(&version(4, 250), 4));
    assert_eq!(bed.index.superseded(10).unwrap(), [at(1), at(2)]);
}
