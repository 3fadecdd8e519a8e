//! `nightjar-operator keys export | import`: the fleet's keyring under a passphrase. The passphrase comes from a terminal or a file, never from arguments or environment.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use crate::pki::{KeyFolder, PkiError};

/// Largest backup that is read, in bytes: a full keyring in armor, with room.
const MAX_BACKUP_BYTES: u64 = 256 * 1024;
/// Longest passphrase, in bytes.
const MAX_PASSPHRASE_BYTES: u64 = 1_024;

/// Back up or restore the keys that open the fleet's log.
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write the keyring to FILE, sealed under a passphrase (an age file). An existing FILE is kept
    Export {
        #[command(flatten)]
        place: Place,
    },
    /// Put the keyring of a backup back into the state folder. Another keyring that is there is kept
    Import {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
struct Place {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The fleet's state folder
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Read the passphrase from the first line of FILE (mode 0600), or of stdin with `-`; without it, ask at the terminal
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Why an export or import did not happen.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The state folder is not there.
    #[error("--state {path}: no such folder; it is the one given to `local --state` or `nightjar up --state`", path = path.display())]
    State {
        /// The folder.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A backup is larger than any keyring.
    #[error("{path}: longer than {limit} bytes, which no key backup is", path = path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Bytes allowed.
        limit: u64,
    },
    /// A passphrase file that others can read.
    #[error("{path}: mode {mode:o} lets others read the passphrase; run chmod 600 on it", path = path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// No terminal to ask at.
    #[error("--passphrase-file is needed: there is no terminal to ask for the passphrase")]
    NoTerminal,
    /// The passphrase cannot be used.
    #[error("passphrase: {0}")]
    Passphrase(&'static str),
    /// The key folder refused.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

impl KeysError {
    /// Whether what was given will not do, rather than that something failed.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::State { .. } | Self::NoTerminal | Self::Passphrase(_) | Self::Mode { .. }
        )
    }
}

/// Does what the command line asks. What was done is said on stderr.
pub fn run(args: &KeysArgs) -> Result<(), KeysError> {
    match &args.verb {
        Verb::Export { place } => {
            export(place)?;
            say(&format!(
                "wrote {}; it opens with the passphrase alone: keep the two apart, and fleet.json with the backup",
                place.file.display()
            ));
        }
        Verb::Import { place } => {
            import(place)?;
            say("the keyring is in place; a fleet that waits for it goes on by itself");
        }
    }
    Ok(())
}

fn export(place: &Place) -> Result<(), KeysError> {
    let folder = place.folder()?;
    if place.file.exists() {
        let source = io::ErrorKind::AlreadyExists.into();
        return Err(place.failed(source));
    }
    let passphrase = place.passphrase(true)?;
    let armored = folder.export_keyring(&passphrase)?;
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    let write = |mut file: File| {
        file.write_all(armored.as_bytes())?;
        file.sync_all()
    };
    options
        .open(&place.file)
        .and_then(write)
        .map_err(|source| place.failed(source))
}

fn import(place: &Place) -> Result<(), KeysError> {
    let folder = place.folder()?;
    let file = File::open(&place.file).map_err(|source| place.failed(source))?;
    let mut armored = String::new();
    file.take(MAX_BACKUP_BYTES + 1)
        .read_to_string(&mut armored)
        .map_err(|source| place.failed(source))?;
    if armored.len() as u64 > MAX_BACKUP_BYTES {
        return Err(KeysError::TooLong {
            path: place.file.clone(),
            limit: MAX_BACKUP_BYTES,
        });
    }
    let passphrase = place.passphrase(false)?;
    Ok(folder.import_keyring(&armored, &passphrase)?)
}

impl Place {
    /// The key folder of a state folder that is there: a typing error must not make a new one.
    fn folder(&self) -> Result<KeyFolder, KeysError> {
        if !self.state.is_dir() {
            return Err(KeysError::State {
                path: self.state.clone(),
            });
        }
        Ok(KeyFolder::open(&self.state.join("keys"))?)
    }

    fn failed(&self, source: io::Error) -> KeysError {
        KeysError::File {
            path: self.file.clone(),
            source,
        }
    }

    fn passphrase(&self, twice: bool) -> Result<Zeroizing<String>, KeysError> {
        let passphrase = match &self.passphrase_file {
            Some(path) if path.as_os_str() == "-" => first_line(path, io::stdin().lock())?,
            Some(path) => passphrase_file(path)?,
            None => ask(twice)?,
        };
        if passphrase.is_empty() {
            return Err(KeysError::Passphrase("must not be empty"));
        }
        Ok(passphrase)
    }
}

fn passphrase_file(path: &Path) -> Result<Zeroizing<String>, KeysError> {
    let failed = |source| KeysError::File {
        path: path.to_owned(),
        source,
    };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    first_line(path, BufReader::new(File::open(path).map_err(failed)?))
}

fn first_line(path: &Path, reader: impl BufRead) -> Result<Zeroizing<String>, KeysError> {
    let mut line = Zeroizing::new(String::new());
    reader
        .take(MAX_PASSPHRASE_BYTES)
        .read_line(&mut line)
        .map_err(|source| KeysError::File {
            path: path.to_owned(),
            source,
        })?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    Ok(line)
}

fn ask(twice: bool) -> Result<Zeroizing<String>, KeysError> {
    if !io::stdin().is_terminal() {
        return Err(KeysError::NoTerminal);
    }
    let prompt = |text: &str| {
        rpassword::prompt_password(text)
            .map(Zeroizing::new)
            .map_err(|_| KeysError::NoTerminal)
    };
    let first = prompt("Passphrase of the backup: ")?;
    if twice && *prompt("The same again: ")? != *first {
        return Err(KeysError::Passphrase("the two differ"));
    }
    Ok(first)
}

fn say(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::pki::Custody;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        keys: KeysArgs,
    }

    struct Case {
        dir: tempfile::TempDir,
    }

    impl Case {
        fn new() -> Self {
            let case = Self {
                dir: tempfile::tempdir().unwrap(),
            };
            fs::create_dir(case.path("state")).unwrap();
            case.write("passphrase", "correct horse\n", 0o600);
            case
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn write(&self, name: &str, text: &str, mode: u32) {
            fs::write(self.path(name), text).unwrap();
            fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
        }

        fn keyring(&self, state: &str, streams_made: bool) -> Custody {
            KeyFolder::open(&self.path(state).join("keys"))
                .unwrap()
                .keyring(streams_made)
                .unwrap()
        }

        fn run(&self, verb: &str, state: &str, passphrase: &str) -> Result<(), String> {
            let text = |name: &str| self.path(name).to_string_lossy().into_owned();
            let args = [
                "keys",
                verb,
                &text("backup.age"),
                "--state",
                &text(state),
                "--passphrase-file",
                &text(passphrase),
            ];
            let line = Line::try_parse_from(args).map_err(|error| error.to_string())?;
            run(&line.keys).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn an_exported_keyring_is_restored_into_another_folder() {
        let case = Case::new();
        let Custody::Present(made) = case.keyring("state", false) else {
            panic!("made")
        };
        case.run("export", "state", "passphrase").unwrap();
        let mode = fs::metadata(case.path("backup.age"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(mode, 0o600);
        assert!(
            case.run("export", "state", "passphrase")
                .unwrap_err()
                .contains("exists")
        );

        fs::create_dir(case.path("restored")).unwrap();
        case.run("import", "restored", "passphrase").unwrap();
        let Custody::Present(restored) = case.keyring("restored", true) else {
            panic!("restored")
        };
        assert_eq!(made.to_json(), restored.to_json());
        case.run("import", "restored", "passphrase").unwrap();
    }

    #[test]
    fn an_import_replaces_no_other_keyring() {
        let case = Case::new();
        case.keyring("state", false);
        case.run("export", "state", "passphrase").unwrap();
        fs::create_dir(case.path("other")).unwrap();
        case.keyring("other", false);
        assert!(
            case.run("import", "other", "passphrase")
                .unwrap_err()
                .contains("another keyring is there")
        );
    }

    #[test]
    fn mistakes_are_named_and_leave_nothing() {
        let case = Case::new();
        assert!(
            case.run("export", "nowhere", "passphrase")
                .unwrap_err()
                .contains("--state")
        );
        assert!(!case.path("nowhere").exists());
        assert!(
            case.run("export", "state", "passphrase")
                .unwrap_err()
                .contains("there is none to export")
        );
        case.keyring("state", false);
        case.write("open", "correct horse", 0o644);
        assert!(
            case.run("export", "state", "open")
                .unwrap_err()
                .contains("mode 644")
        );
        case.write("empty", "\n", 0o600);
        assert!(
            case.run("export", "state", "empty")
                .unwrap_err()
                .contains("must not be empty")
        );
        assert!(!case.path("backup.age").exists());
        assert!(
            case.run("import", "state", "passphrase")
                .unwrap_err()
                .contains("backup.age")
        );
        case.write("backup.age", "hello", 0o600);
        assert!(
            case.run("import", "state", "passphrase")
                .unwrap_err()
                .contains("not a passphrase-protected age file")
        );
    }
}
