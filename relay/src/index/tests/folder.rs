//! Opening, closing, crashing and filling up.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

fn reopen(
    bed: Bed,
    change: impl FnOnce(&mut IndexOptions),
) -> (Result<(Index, OpenedAs), IndexError>, TempDir) {
    let Bed { index, dir } = bed;
    drop(index);
    let mut options = options(&dir);
    change(&mut options);
    (Index::open(&options), dir)
}

fn filled() -> Bed {
    let bed = Bed::new();
    bed.follow(&entry(&event(1, ALICE, 100, 1, json!([])), 4));
    bed
}

fn edit_marker(bed: &Bed, from: &str, to: &str) {
    let path = bed.dir.path().join("index/marker.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replace(from, to)).unwrap();
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap()
        .trim()
        .to_owned()
}

fn assert_resumed(opened: Result<(Index, OpenedAs), IndexError>) {
    let (index, opened) = opened.unwrap();
    assert_eq!(opened, OpenedAs::Resumed);
    assert_eq!(index.position().unwrap().get(&stream("EV_a_1_0")), 4);
    assert_eq!(index.stats().unwrap().public_events, 1);
}

fn assert_fresh(
    opened: Result<(Index, OpenedAs), IndexError>,
    check: impl Fn(&FreshReason) -> bool,
) {
    let (index, opened) = opened.unwrap();
    assert!(
        matches!(&opened, OpenedAs::Fresh(reason) if check(reason)),
        "{opened:?}"
    );
    assert!(index.position().unwrap().is_empty());
    assert_eq!(index.stats().unwrap().public_events, 0);
    let note = event(1, ALICE, 100, 1, json!([]));
    assert_eq!(
        index.apply(&[entry(&note, 1)], &[], NOW).unwrap(),
        [Applied::New]
    );
}

#[test]
fn an_index_that_was_closed_resumes_after_a_reboot() {
    let bed = filled();
    bed.index.close().unwrap();
    edit_marker(&bed, &boot(), "another boot");
    assert_resumed(reopen(bed, |_| {}).0);
}

#[test]
fn an_index_whose_process_was_killed_resumes_in_the_same_boot() {
    assert_resumed(reopen(filled(), |_| {}).0);
}

#[test]
fn an_index_whose_machine_went_down_is_rebuilt() {
    let bed = filled();
    edit_marker(&bed, &boot(), "another boot");
    assert_fresh(reopen(bed, |_| {}).0, |reason| {
        *reason == FreshReason::UncleanBoot
    });
}

#[test]
fn another_format_fleet_or_damage_is_rebuilt() {
    let bed = filled();
    bed.index.close().unwrap();
    edit_marker(&bed, "\"format\":2", "\"format\":7");
    assert_fresh(reopen(bed, |_| {}).0, |reason| {
        *reason == FreshReason::OtherFormat { found: 7 }
    });

    let (opened, _dir) = reopen(filled(), |options| options.fleet = "f2".to_owned());
    assert_fresh(opened, |reason| *reason == FreshReason::OtherFleet);

    let is_unreadable = |reason: &FreshReason| matches!(reason, FreshReason::Unreadable(_));
    let bed = filled();
    fs::remove_file(bed.dir.path().join("index/marker.json")).unwrap();
    assert_fresh(reopen(bed, |_| {}).0, is_unreadable);

    let bed = filled();
    fs::write(bed.dir.path().join("index/marker.json"), "{").unwrap();
    assert_fresh(reopen(bed, |_| {}).0, is_unreadable);

    let bed = filled();
    fs::remove_file(bed.dir.path().join("index/data.mdb")).unwrap();
    assert_fresh(reopen(bed, |_| {}).0, is_unreadable);
}

#[test]
fn a_database_that_does_not_open_is_rebuilt_and_other_files_are_left_alone() {
    let Bed { index, dir } = filled();
    index.close().unwrap();
    drop(index);
    fs::write(dir.path().join("index/data.mdb"), vec![7; 65_536]).unwrap();
    fs::write(dir.path().join("index/notes.txt"), "mine").unwrap();
    assert_fresh(Index::open(&options(&dir)), |reason| {
        matches!(reason, FreshReason::Unreadable(_))
    });
    assert_eq!(
        fs::read_to_string(dir.path().join("index/notes.txt")).unwrap(),
        "mine"
    );
}

#[test]
fn a_folder_in_use_is_refused() {
    let bed = Bed::new();
    assert!(matches!(
        Index::open(&options(&bed.dir)),
        Err(IndexError::InUse { .. })
    ));
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("index"), "a file").unwrap();
    let message = Index::open(&options(&dir)).unwrap_err().to_string();
    assert!(
        message.contains("cannot make") && message.contains("index"),
        "{message}"
    );
}

#[test]
fn a_closed_index_takes_no_writes() {
    let bed = filled();
    bed.index.close().unwrap();
    assert!(matches!(
        bed.index.apply(&[], &[], NOW),
        Err(IndexError::Closed)
    ));
    assert_eq!(bed.ids(json!({}), &[]), [id(1)]);
}

#[test]
fn a_full_index_still_erases_and_then_applies_again() {
    let dir = tempfile::tempdir().unwrap();
    let small = IndexOptions {
        max_bytes: 4 << 20,
        ..options(&dir)
    };
    let (index, _) = Index::open(&small).unwrap();
    let expiring = |number| {
        let tags = json!([
            ["t", "x".repeat(40_000)],
            ["expiration", (NOW + 5).to_string()]
        ]);
        entry(&event(number, ALICE, number, 1, tags), number)
    };
    let mut last = 0;
    while index.apply(&[expiring(last + 1)], &[], NOW).is_ok() {
        last += 1;
    }
    assert!(last > 50, "{last}");
    while index.sweep_expired(NOW + 5, 10).unwrap() > 0 {}
    let note = event(9_999, ALICE, 100, 1, json!([]));
    assert_eq!(
        index.apply(&[entry(&note, 9_999)], &[], NOW).unwrap(),
        [Applied::New]
    );
}

#[test]
fn a_full_index_applies_nothing_of_the_call_and_goes_on_when_enlarged() {
    let dir = tempfile::tempdir().unwrap();
    let small = IndexOptions {
        max_bytes: 2 << 20,
        ..options(&dir)
    };
    let (index, _) = Index::open(&small).unwrap();
    let big = |number| {
        let tag = "x".repeat(100_000);
        LogEntry {
            ..entry(
                &event(number, ALICE, number, 1, json!([["t", tag]])),
                number,
            )
        }
    };
    let mut last = 0;
    let error = loop {
        let entries = [big(last + 1), big(last + 2)];
        let advance = Advance {
            stream: stream("EV_a_1_0"),
            seq: last + 2,
        };
        match index.apply(&entries, &[advance], NOW) {
            Ok(_) => last += 2,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, IndexError::Full { max_bytes } if max_bytes == 2 << 20),
        "{error}"
    );
    assert_eq!(index.stats().unwrap().public_events, last);
    assert_eq!(index.position().unwrap().get(&stream("EV_a_1_0")), last);
    drop(index);
    let (index, opened) = Index::open(&options(&dir)).unwrap();
    assert_eq!(opened, OpenedAs::Resumed);
    assert_eq!(
        index.apply(&[big(last + 1)], &[], NOW).unwrap(),
        [Applied::New]
    );
}

const CHILD_DIR: &str = "NIGHTJAR_TEST_INDEX_DIR";

/// Runs in a process of its own, see below: applies until killed, and says what it has applied.
#[test]
#[ignore = "a process that another test starts and kills"]
fn child_that_applies_until_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let options = IndexOptions {
        dir: dir.into(),
        max_bytes: 256 << 20,
        message_retention: Duration::from_secs(DAY),
        fleet: "f1".to_owned(),
    };
    let (index, _) = Index::open(&options).unwrap();
    for number in 1..200_000 {
        let advance = Advance {
            stream: stream("EV_a_1_0"),
            seq: number,
        };
        index
            .apply(
                &[entry(
                    &event(number, ALICE, number, 1, json!([["t", "x"]])),
                    number,
                )],
                &[advance],
                NOW,
            )
            .unwrap();
        std::io::stdout()
            .write_all(format!("applied {number}\n").as_bytes())
            .unwrap();
    }
}

#[test]
fn what_was_applied_before_a_kill_is_there_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(&dir);
    options.max_bytes = 256 << 20;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "index::tests::folder::child_that_applies_until_killed",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD_DIR, &options.dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(number) = line.strip_prefix("applied ") {
            said = number.parse().unwrap();
        }
        if said == 500 {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(said >= 500, "the child ended after {said}");

    let (index, opened) = Index::open(&options).unwrap();
    assert_eq!(opened, OpenedAs::Resumed);
    let stats = index.stats().unwrap();
    assert!(
        stats.public_events >= said,
        "{} of {said}",
        stats.public_events
    );
    assert_eq!(
        stats.position.get(&stream("EV_a_1_0")),
        stats.public_events,
        "position and events move together"
    );
    let mut query = index
        .query(&[filter(&json!({"#t": ["x"]}))], &Readers::anonymous(), NOW)
        .unwrap();
    assert_eq!(
        drain(&mut query, &BatchLimits::default()).len() as u64,
        stats.public_events
    );
    index
        .apply(
            &[entry(&event(1_000_000, ALICE, 1, 1, json!([])), 1_000_000)],
            &[],
            NOW,
        )
        .unwrap();
}
