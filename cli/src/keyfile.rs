//! Key files: written once with mode 0600, never overwritten, encrypted (NIP-49) but for demo identities.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nightjar_client::Identity;
use zeroize::Zeroizing;

use crate::code::Code;
use crate::error::CliError;

/// Longest passphrase and key line that is read, in bytes.
const MAX_SECRET: u64 = 4096;

/// What a key file says, without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyFile {
    /// `npub1...`.
    pub(crate) npub: String,
    /// `ncryptsec1...`, or the open `nsec1...` of a demo identity.
    secret: Zeroizing<String>,
}

/// Where a passphrase comes from. Never from arguments or the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PassphraseSource {
    /// The terminal is asked.
    Prompt,
    /// The first line of a file.
    File(PathBuf),
    /// The first line of stdin.
    Stdin,
}

impl KeyFile {
    /// Reads a key file.
    pub(crate) fn read(path: &Path) -> Result<Self, CliError> {
        let text = read_private(path, "key file")?;
        let damaged = || {
            let next = "nightjar key import --help";
            CliError::new(
                Code::BadKeyFile,
                format!("{} is not a key file", path.display()),
                next,
            )
        };
        let line = |prefix: &str| {
            text.lines()
                .map(str::trim)
                .find(|line| line.starts_with(prefix))
        };
        let npub = line("npub1").ok_or_else(damaged)?.to_owned();
        let secret = line("ncryptsec1")
            .or_else(|| line("nsec1"))
            .ok_or_else(damaged)?;
        Ok(Self {
            npub,
            secret: Zeroizing::new(secret.to_owned()),
        })
    }

    /// Whether a passphrase is needed.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.secret.starts_with("ncryptsec1")
    }

    /// The encrypted key as it is stored.
    pub(crate) fn encrypted(&self) -> Option<&str> {
        self.is_encrypted().then_some(self.secret.as_str())
    }

    /// Opens an encrypted key.
    pub(crate) fn open(
        &self,
        path: &Path,
        source: &PassphraseSource,
    ) -> Result<Identity, CliError> {
        if !self.is_encrypted() {
            let message = format!(
                "{} holds an open key, as only demo identities may",
                path.display()
            );
            let next = format!("nightjar key import NAME < {}", path.display());
            return Err(CliError::new(Code::BadKeyFile, message, next));
        }
        let passphrase = source.read(&format!("Passphrase of {}: ", path.display()))?;
        Ok(Identity::decrypt(&self.secret, &passphrase)?)
    }

    /// Opens the open key of a demo identity.
    pub(crate) fn open_demo(&self) -> Result<Identity, CliError> {
        Ok(Identity::from_secret(&self.secret)?)
    }
}

/// Writes a new key file, encrypted under `passphrase`.
pub(crate) fn create(path: &Path, identity: &Identity, passphrase: &str) -> Result<(), CliError> {
    let secret = Zeroizing::new(identity.encrypt(passphrase)?);
    write_new(
        path,
        &format!(
            "# Nightjar key, encrypted with a passphrase (NIP-49)\n{}\n{}\n",
            identity.npub(),
            *secret
        ),
    )
}

/// Writes the open key file of a demo identity.
pub(crate) fn create_demo(path: &Path, identity: &Identity) -> Result<(), CliError> {
    let secret = Zeroizing::new(identity.expose_secret());
    let text = Zeroizing::new(format!(
        "# Nightjar demo key: open, for relays on this machine only\n{}\n{}\n",
        identity.npub(),
        *secret
    ));
    write_new(path, &text)
}

fn write_new(path: &Path, text: &str) -> Result<(), CliError> {
    let fail = |error: &io::Error| CliError::file("write", path, error);
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| fail(&error))?;
    }
    let mut file = match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let message = format!("{} exists, and keys are never overwritten", path.display());
            return Err(CliError::new(Code::KeyExists, message, "nightjar key show"));
        }
        other => other.map_err(|error| fail(&error))?,
    };
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| fail(&error))
}

/// Reads a small text file that only its owner may read.
fn read_private(path: &Path, what: &str) -> Result<Zeroizing<String>, CliError> {
    let fail = |error: &io::Error| CliError::file("read", path, error);
    let file = File::open(path).map_err(|error| fail(&error))?;
    let mode = file.metadata().map_err(|error| fail(&error))?.mode();
    if mode & 0o077 != 0 {
        let message = format!(
            "{what} {} has mode {:o}: others may read it",
            path.display(),
            mode & 0o777
        );
        return Err(CliError::new(
            Code::OpenToOthers,
            message,
            format!("chmod 600 {}", path.display()),
        ));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_SECRET)
        .read_to_string(&mut text)
        .map_err(|error| fail(&error))?;
    Ok(text)
}

impl PassphraseSource {
    /// From `--passphrase-file`; `-` is stdin.
    pub(crate) fn from_flag(file: Option<&Path>) -> Self {
        match file {
            None => Self::Prompt,
            Some(path) if path == Path::new("-") => Self::Stdin,
            Some(path) => Self::File(path.to_owned()),
        }
    }

    /// The passphrase.
    pub(crate) fn read(&self, prompt: &str) -> Result<Zeroizing<String>, CliError> {
        match self {
            Self::Prompt => ask(prompt),
            Self::File(path) => {
                let text = read_private(path, "passphrase file")?;
                Ok(Zeroizing::new(
                    text.lines().next().unwrap_or_default().to_owned(),
                ))
            }
            Self::Stdin => stdin_line(),
        }
    }

    /// A passphrase for a new key: asked for twice at a terminal, and never empty.
    pub(crate) fn read_new(&self) -> Result<Zeroizing<String>, CliError> {
        let passphrase = self.read("New passphrase: ")?;
        let refuse = |why: &str| CliError::new(Code::Passphrase, why, "the same command again");
        if passphrase.is_empty() {
            return Err(refuse("the passphrase is empty"));
        }
        if *self == Self::Prompt && ask("The same again: ")? != passphrase {
            return Err(refuse("the two passphrases differ"));
        }
        Ok(passphrase)
    }
}

/// Asks at the terminal without showing what is typed.
pub(crate) fn ask(prompt: &str) -> Result<Zeroizing<String>, CliError> {
    if !io::stderr().is_terminal() && !io::stdin().is_terminal() {
        let next = "the same command with --passphrase-file FILE";
        return Err(CliError::new(
            Code::NoTerminal,
            "there is no terminal to ask for the passphrase",
            next,
        ));
    }
    rpassword::prompt_password(prompt)
        .map(Zeroizing::new)
        .map_err(|error| {
            let next = "the same command with --passphrase-file FILE";
            CliError::new(
                Code::NoTerminal,
                "the terminal could not be asked for the passphrase",
                next,
            )
            .because(error)
        })
}

/// The secret key on stdin: alone, or in a key file, whose comments and public key are passed over.
pub(crate) fn stdin_secret() -> Result<Zeroizing<String>, CliError> {
    loop {
        let mut line = Zeroizing::new(String::new());
        let read = io::stdin().lock().take(MAX_SECRET).read_line(&mut line);
        let len = read.map_err(|error| {
            CliError::new(Code::File, "could not read stdin", "the same command again")
                .because(error)
        })?;
        let text = line.trim();
        if len == 0 || !(text.is_empty() || text.starts_with('#') || text.starts_with("npub1")) {
            return Ok(Zeroizing::new(text.to_owned()));
        }
    }
}

/// The first line of stdin, without its end.
pub(crate) fn stdin_line() -> Result<Zeroizing<String>, CliError> {
    let mut line = Zeroizing::new(String::new());
    io::stdin()
        .lock()
        .take(MAX_SECRET)
        .read_line(&mut line)
        .map_err(|error| {
            CliError::new(Code::File, "could not read stdin", "the same command again")
                .because(error)
        })?;
    Ok(Zeroizing::new(
        line.trim_end_matches(['\r', '\n']).to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn key_file_is_private_encrypted_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (path, words) = (
            folder.path().join("keys/me.key"),
            folder.path().join("words"),
        );
        let identity = Identity::generate();
        create(&path, &identity, "one two").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(!fs::read_to_string(&path).unwrap().contains("nsec1"));
        assert_eq!(
            create(&path, &identity, "one two").unwrap_err().code,
            Code::KeyExists
        );

        write_new(&words, "one two\nignored\n").unwrap();
        let key = KeyFile::read(&path).unwrap();
        let source = PassphraseSource::File(words.clone());
        assert_eq!(
            key.open(&path, &source).unwrap().public_key(),
            identity.public_key()
        );
        fs::set_permissions(&words, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(
            key.open(&path, &source).unwrap_err().code,
            Code::OpenToOthers
        );
    }

    #[test]
    fn open_key_is_refused_as_an_ordinary_identity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alice.key");
        create_demo(&path, &Identity::generate()).unwrap();
        let key = KeyFile::read(&path).unwrap();
        assert_eq!(
            key.open(&path, &PassphraseSource::Prompt).unwrap_err().code,
            Code::BadKeyFile
        );
        assert!(key.open_demo().is_ok());
    }

    #[test]
    fn damaged_and_readable_key_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.key");
        write_new(&path, "nothing\n").unwrap();
        assert_eq!(KeyFile::read(&path).unwrap_err().code, Code::BadKeyFile);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(KeyFile::read(&path).unwrap_err().code, Code::OpenToOthers);
    }
}
