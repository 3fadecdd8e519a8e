//! Who acts and who is meant: `alice@demo`, the name of a key of ours, `npub1...`, `nprofile1...`, hex.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nightjar_client::{Identity, PublicKey};

use crate::code::Code;
use crate::error::CliError;
use crate::keyfile::{KeyFile, PassphraseSource};
use crate::{paths, running};

/// Key that is used when none is named.
pub(crate) const DEFAULT: &str = "default";
/// The demo identities of every local fleet.
pub(crate) const DEMO: [&str; 2] = ["alice", "bob"];

/// Who acts.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    pub(crate) identity: Identity,
    /// A demo identity: its key lies open, so it stays on this machine.
    pub(crate) demo: bool,
}

/// How an identity is named on the command line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Named {
    /// `--as`.
    pub(crate) name: Option<String>,
    /// `--key`.
    pub(crate) key: Option<PathBuf>,
    /// `--passphrase-file`.
    pub(crate) passphrase: Option<PathBuf>,
    /// `--state`.
    pub(crate) state: Option<PathBuf>,
}

impl Named {
    /// Opens the identity; asks for its passphrase when needed.
    pub(crate) fn open(&self) -> Result<Actor, CliError> {
        let source = PassphraseSource::from_flag(self.passphrase.as_deref());
        if let Some(path) = &self.key {
            return Ok(Actor {
                identity: KeyFile::read(path)?.open(path, &source)?,
                demo: false,
            });
        }
        let name = self.name.as_deref().unwrap_or(DEFAULT);
        if let Some(demo) = name.strip_suffix("@demo") {
            let path = demo_file(&running::state_folder(self.state.as_deref())?, demo)?;
            return Ok(Actor {
                identity: existing(&path, name)?.open_demo()?,
                demo: true,
            });
        }
        let path = key_file(name)?;
        Ok(Actor {
            identity: existing(&path, name)?.open(&path, &source)?,
            demo: false,
        })
    }

    /// Whether the passphrase will be read from stdin.
    pub(crate) fn uses_stdin(&self) -> bool {
        PassphraseSource::from_flag(self.passphrase.as_deref()) == PassphraseSource::Stdin
    }
}

/// The public key that `text` means. Needs no passphrase.
pub(crate) fn public_key(text: &str, state: Option<&Path>) -> Result<PublicKey, CliError> {
    if let Some(demo) = text.strip_suffix("@demo") {
        let path = demo_file(&running::state_folder(state)?, demo)?;
        return parse(&existing(&path, text)?.npub);
    }
    if let Ok(key) = PublicKey::parse(text) {
        return Ok(key);
    }
    if is_name(text)
        && let Ok(path) = key_file(text)
        && path.exists()
    {
        return parse(&existing(&path, text)?.npub);
    }
    parse(text)
}

fn parse(text: &str) -> Result<PublicKey, CliError> {
    if looks_bech32_secret(text) {
        // The argument itself is a secret, so it is not repeated.
        let expected = "npub1..., never a secret key";
        return Err(CliError::bad_value("person", "<a secret key>", expected));
    }
    let expected = "npub1..., nprofile1..., 64 hex digits, a key of yours, or alice@demo";
    PublicKey::parse(text).map_err(|_| CliError::bad_value("person", text, expected))
}

/// The file of one of our keys.
pub(crate) fn key_file(name: &str) -> Result<PathBuf, CliError> {
    if looks_secret(name) {
        // Whoever types a key where a name belongs must not find it again in a file name or on the screen.
        let expected = "a name; a secret key is read from stdin or the terminal";
        return Err(CliError::bad_value("key name", "<a secret key>", expected));
    }
    if !is_name(name) {
        return Err(CliError::bad_value(
            "key name",
            name,
            "letters, digits, `-` and `_`, at most 64",
        ));
    }
    Ok(paths::keys()?.join(format!("{name}.key")))
}

/// Our keys by name, in order.
pub(crate) fn own_keys() -> Result<BTreeMap<String, PathBuf>, CliError> {
    let folder = paths::keys()?;
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => other.map_err(|error| CliError::file("list", &folder, &error))?,
    };
    let named = |path: PathBuf| {
        let is_key = path.extension().is_some_and(|extension| extension == "key");
        let name = path.file_stem()?.to_str()?.to_owned();
        is_key.then_some((name, path))
    };
    Ok(entries
        .flatten()
        .filter_map(|entry| named(entry.path()))
        .collect())
}

/// The file of a demo identity.
pub(crate) fn demo_file(state: &Path, name: &str) -> Result<PathBuf, CliError> {
    if !DEMO.contains(&name) {
        return Err(CliError::bad_value(
            "demo identity",
            &format!("{name}@demo"),
            "alice@demo or bob@demo",
        ));
    }
    Ok(state.join("demo").join(format!("{name}.key")))
}

fn existing(path: &Path, name: &str) -> Result<KeyFile, CliError> {
    if path.exists() {
        return KeyFile::read(path);
    }
    let next = if name.ends_with("@demo") {
        "nightjar up examples/three-regions.yaml".to_owned()
    } else if name == DEFAULT {
        "nightjar key make, or a demo identity: --as alice@demo".to_owned()
    } else {
        format!("nightjar key make {name}, or nightjar key show for those there are")
    };
    let message = format!(
        "there is no identity `{name}`: {} does not exist",
        path.display()
    );
    Err(CliError::new(Code::NoIdentity, message, next))
}

/// Whether a name could be a secret key: bech32, or 64 hex digits.
fn looks_secret(name: &str) -> bool {
    let is_hex = name.len() == 64 && name.chars().all(|c| c.is_ascii_hexdigit());
    is_hex || looks_bech32_secret(name)
}

fn looks_bech32_secret(text: &str) -> bool {
    let text = text.trim().to_ascii_lowercase();
    text.starts_with("nsec1") || text.starts_with("ncryptsec1")
}

fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !text.is_empty() && text.len() <= 64 && text.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_given_as_a_person_is_refused_and_not_repeated() {
        let nsec = Identity::generate().expose_secret();
        let error = public_key(&nsec, None).unwrap_err();
        assert!(!error.to_string().contains(&nsec[5..20]), "{error}");
    }

    #[test]
    fn secret_given_as_a_name_is_refused_and_not_repeated() {
        let nsec = Identity::generate().expose_secret();
        let hex = "0123456789abcdef".repeat(4);
        for secret in [nsec.as_str(), &nsec.to_uppercase(), &hex] {
            let error = key_file(secret).unwrap_err();
            assert!(!error.to_json().contains(&secret[5..20]), "{error}");
        }
        let error = public_key(&format!(" {}", nsec.to_uppercase()), None).unwrap_err();
        assert!(!error.to_json().contains(&nsec[5..20].to_uppercase()));
    }

    #[test]
    fn names_cannot_leave_the_key_folder() {
        for name in ["../x", "a/b", "", ".", "a b", "x.key"] {
            assert_eq!(key_file(name).unwrap_err().code, Code::BadValue, "{name:?}");
        }
        assert!(demo_file(Path::new("/tmp"), "../alice").is_err());
    }
}
