//! Keys of a fleet: made once, private, and accepted or refused by a real nats-server as they should be.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nightjar_operator::pki::{Custody, KeyFolder};
use nightjar_operator::plan::{CertificatePlan, FileRef, Issuer, ProcessId, Role};

fn certificate(keys: &KeyFolder, region: &str) -> CertificatePlan {
    let process = ProcessId {
        region: region.parse().unwrap(),
        role: Role::Nats,
        ordinal: 0,
    };
    let issuer = Issuer::Region(process.region.clone());
    let path = |file| keys.path(&process, &file).unwrap();
    CertificatePlan {
        hosts: vec!["127.0.0.1".to_owned()],
        authority: path(FileRef::Authority(issuer.clone())),
        certificate: path(FileRef::Certificate(issuer.clone())),
        private_key: path(FileRef::PrivateKey(issuer.clone())),
        issuer,
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            assert_eq!(
                entry.metadata().unwrap().permissions().mode() & 0o777,
                0o700,
                "{:?}",
                entry.path()
            );
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

#[test]
fn keys_are_made_once_and_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let pass = || {
        let keys = KeyFolder::open(&dir.path().join("keys")).unwrap();
        let users = keys.users(&"a".parse().unwrap()).unwrap();
        keys.ensure_certificate(&certificate(&keys, "a"), SystemTime::now())
            .unwrap();
        assert!(matches!(keys.keyring(false).unwrap(), Custody::Present(_)));
        let contents: Vec<_> = files(dir.path())
            .iter()
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
        (users, contents)
    };
    let (users, contents) = pass();
    assert!(users.relay.starts_with('U') && users.relay != users.admin);
    for (path, _) in &contents {
        assert_eq!(
            std::fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o600,
            "{path:?}"
        );
    }
    assert_eq!(pass(), (users, contents));
}

#[test]
fn a_missing_keyring_is_never_replaced_once_streams_were_made() {
    let dir = tempfile::tempdir().unwrap();
    let keys = KeyFolder::open(dir.path()).unwrap();
    assert!(matches!(keys.keyring(true).unwrap(), Custody::Missing));
    assert!(!keys.keyring_path().exists());
}

#[test]
fn a_lost_keyring_comes_back_from_its_export_and_is_not_overwritten_by_another() {
    let dir = tempfile::tempdir().unwrap();
    let keys = KeyFolder::open(&dir.path().join("first")).unwrap();
    keys.keyring(false).unwrap();
    let before = std::fs::read(keys.keyring_path()).unwrap();
    let export = keys.export_keyring("correct horse").unwrap();
    std::fs::remove_file(keys.keyring_path()).unwrap();
    assert!(keys.import_keyring(&export, "wrong horse").is_err());
    keys.import_keyring(&export, "correct horse").unwrap();
    assert_eq!(std::fs::read(keys.keyring_path()).unwrap(), before);

    let other = KeyFolder::open(&dir.path().join("second")).unwrap();
    other.keyring(false).unwrap();
    let refusal = other
        .import_keyring(&export, "correct horse")
        .unwrap_err()
        .to_string();
    assert!(
        refusal.contains("another keyring is there already"),
        "{refusal}"
    );
}
