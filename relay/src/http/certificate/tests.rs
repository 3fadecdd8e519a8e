//! Tests of the certificate's files: taken, refused, taken again.

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;

/// A certificate of its own authority and its key, PEM.
fn pair(name: &str, until: (i32, u8, u8)) -> (String, String) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

struct Folder(TempDir);

impl Folder {
    fn new((certificate, key): &(String, String)) -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        folder.put(certificate, key);
        folder
    }

    fn files(&self) -> TlsFiles {
        TlsFiles {
            cert_file: self.0.path().join("tls.crt"),
            key_file: self.0.path().join("tls.key"),
        }
    }

    /// By rename, so that each is another file.
    fn put(&self, certificate: &str, key: &str) {
        for (name, text) in [("tls.crt", certificate), ("tls.key", key)] {
            let new = self.0.path().join("new");
            std::fs::write(&new, text).expect("written");
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).expect("mode");
            std::fs::rename(&new, self.0.path().join(name)).expect("renamed");
        }
    }

    fn open(&self) -> Result<CertificateWatch, CertificateError> {
        CertificateWatch::open(&self.files(), CertificateMetrics::default()).map(|(watch, _)| watch)
    }
}

/// Reloads, failures, and until when what is served is valid.
fn state(watch: &CertificateWatch) -> (u64, u64, i64) {
    let served = watch.served.load().until;
    assert_eq!(
        watch.metrics.until.get(),
        served,
        "the gauge tells of what is served"
    );
    (
        watch.metrics.reloads.get(),
        watch.metrics.reload_failures.get(),
        served,
    )
}

/// Seconds of Unix.
const Y2040: i64 = 2_208_988_800;
const Y2050: i64 = 2_524_608_000;

#[test]
fn a_new_pair_is_taken_once_both_files_are_written_and_a_bad_one_is_not() {
    let folder = Folder::new(&pair("one.test", (2040, 1, 1)));
    let mut watch = folder.open().expect("a certificate");
    watch.look();
    assert_eq!(state(&watch), (0, 0, Y2040));

    let (certificate, key) = pair("two.test", (2050, 1, 1));
    std::fs::write(folder.files().cert_file, &certificate).expect("written");
    watch.look();
    // The key follows before the next look: nobody sees the half of it.
    folder.put(&certificate, &key);
    watch.look();
    assert_eq!(
        state(&watch),
        (0, 0, Y2040),
        "it may still be being written"
    );
    watch.look();
    assert_eq!(state(&watch), (1, 0, Y2050));

    // A key of another certificate.
    folder.put(&certificate, &pair("three.test", (2060, 1, 1)).1);
    for _ in 0..5 {
        watch.look();
    }
    assert_eq!(
        state(&watch),
        (1, 1, Y2050),
        "counted once, what was served stays"
    );

    // A file that others may read, which is then mended without being written.
    folder.put(&certificate, &key);
    let mode = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(folder.files().key_file, mode).expect("mode");
    };
    mode(0o644);
    watch.look();
    watch.look();
    assert_eq!(state(&watch), (1, 2, Y2050));
    mode(0o600);
    watch.look();
    assert_eq!(state(&watch), (2, 2, Y2050));
}

#[test]
fn a_certificate_that_ended_does_not_replace_one_that_did_not() {
    let folder = Folder::new(&pair("one.test", (2040, 1, 1)));
    let mut watch = folder.open().expect("a certificate");
    let (certificate, key) = pair("two.test", (2001, 1, 1));
    folder.put(&certificate, &key);
    watch.look();
    watch.look();
    assert_eq!(state(&watch), (0, 1, Y2040));
    std::fs::remove_file(folder.files().key_file).expect("removed");
    watch.look();
    watch.look();
    assert_eq!(state(&watch), (0, 2, Y2040), "files that are gone");
    // At the start there is nothing better to serve.
    assert!(Folder::new(&(certificate, key)).open().is_ok());
}

#[test]
fn a_refusal_names_the_file_and_shows_nothing_of_the_key() {
    let (certificate, key) = pair("one.test", (2040, 1, 1));
    let other = pair("two.test", (2040, 1, 1)).1;
    let secret = key.lines().nth(1).expect("a line").to_owned();
    let broken = format!("-----BEGIN {secret}\n{secret}\n");
    for (certificate, key, expected) in [
        ("", key.as_str(), "tls.crt: not certificates in PEM"),
        (
            key.as_str(),
            key.as_str(),
            "tls.crt: not certificates in PEM",
        ),
        (
            certificate.as_str(),
            "",
            "tls.key: not a private key in PEM",
        ),
        (
            certificate.as_str(),
            broken.as_str(),
            "tls.key: not a private key in PEM",
        ),
        (certificate.as_str(), other.as_str(), "do not go together"),
    ] {
        let folder = Folder::new(&(certificate.to_owned(), key.to_owned()));
        let error = folder.open().expect_err("refused");
        let text = format!("{error} {error:?}");
        assert!(text.contains(expected), "{expected}: {text}");
        assert!(!text.contains(&secret), "{text}");
    }
    let folder = Folder::new(&(certificate, key));
    std::fs::remove_file(folder.files().cert_file).expect("removed");
    let text = folder.open().expect_err("refused").to_string();
    assert!(text.starts_with("tls.cert_file: /"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn files_of_any_content_are_taken_or_refused(
        certificate in "(-----(BEGIN|END) (CERTIFICATE|PRIVATE KEY)-----\n|[A-Za-z0-9+/=]{0,40}\n|\\PC{0,5}){0,6}",
        key in "(-----(BEGIN|END) (EC |RSA |)PRIVATE KEY-----\n|[A-Za-z0-9+/=]{0,40}\n|\\PC{0,5}){0,6}",
    ) {
        drop(Folder::new(&(certificate, key)).open());
    }
}
