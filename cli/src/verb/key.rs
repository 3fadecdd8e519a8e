//! `nightjar key`: make, import, show. Keys lie encrypted (NIP-49) in files of mode 0600.

use std::io::IsTerminal;
use std::path::Path;

use nightjar_client::Identity;
use serde::Serialize;

use crate::args::{KeyNewArgs, KeyVerb};
use crate::code::Code;
use crate::context::Context;
use crate::error::CliError;
use crate::keyfile::{self, KeyFile, PassphraseSource};
use crate::output::{Record, write};
use crate::person;

#[derive(Debug, Serialize)]
pub(crate) struct KeyRecord {
    name: String,
    npub: String,
    encrypted: bool,
    file: String,
}
impl Record for KeyRecord {
    const COLUMNS: &'static [&'static str] = &["name", "npub", "encrypted", "file"];
}

pub(crate) fn run(verb: KeyVerb, context: &Context) -> Result<(), CliError> {
    match verb {
        KeyVerb::Make(args) => store(&args, context, |_| Ok(Identity::generate())),
        KeyVerb::Import(args) => store(&args, context, read_secret),
        KeyVerb::Show {
            name: Some(name),
            encrypted: true,
        } => show_encrypted(&name),
        KeyVerb::Show {
            name: Some(name), ..
        } => context.out.one(&record(&name, &person::key_file(&name)?)?),
        KeyVerb::Show { name: None, .. } => show_all(context),
    }
}

fn store(
    args: &KeyNewArgs,
    context: &Context,
    identity: impl FnOnce(&PassphraseSource) -> Result<Identity, CliError>,
) -> Result<(), CliError> {
    let path = person::key_file(&args.name)?;
    if path.exists() {
        let message = format!("{} exists, and keys are never overwritten", path.display());
        return Err(CliError::new(
            Code::KeyExists,
            message,
            format!("nightjar key show {}", args.name),
        ));
    }
    let source = PassphraseSource::from_flag(args.passphrase_file.as_deref());
    let identity = identity(&source)?;
    let passphrase = source.read_new()?;
    keyfile::create(&path, &identity, &passphrase)?;
    if source == PassphraseSource::Prompt {
        context.console.note(&format!(
            "without a prompt: nightjar key make {} --passphrase-file FILE",
            args.name
        ));
    }
    let acting = if args.name == person::DEFAULT {
        String::new()
    } else {
        format!(" --as {}", args.name)
    };
    context.console.note(&format!(
        "next: nightjar relays set wss://relay.example{acting}"
    ));
    context.out.one(&record(&args.name, &path)?)
}

/// Reads a secret key from stdin, or asks the terminal for it.
fn read_secret(source: &PassphraseSource) -> Result<Identity, CliError> {
    let text = if std::io::stdin().is_terminal() {
        keyfile::ask("Secret key (nsec1..., ncryptsec1... or hex): ")?
    } else if *source == PassphraseSource::Stdin {
        let next = "nightjar key import --passphrase-file FILE";
        return Err(CliError::new(
            Code::StdinTwice,
            "key and passphrase would both come from stdin",
            next,
        ));
    } else {
        keyfile::stdin_secret()?
    };
    let text = text.trim();
    if text.starts_with("ncryptsec1") {
        let passphrase = source.read("Passphrase of the key to import: ")?;
        return Ok(Identity::decrypt(text, &passphrase)?);
    }
    Ok(Identity::from_secret(text)?)
}

fn record(name: &str, path: &Path) -> Result<KeyRecord, CliError> {
    if !path.exists() {
        let message = format!(
            "there is no key `{name}`: {} does not exist",
            path.display()
        );
        return Err(CliError::new(
            Code::NoIdentity,
            message,
            "nightjar key show",
        ));
    }
    let key = KeyFile::read(path)?;
    let file = path.display().to_string();
    Ok(KeyRecord {
        name: name.to_owned(),
        encrypted: key.is_encrypted(),
        npub: key.npub,
        file,
    })
}

fn show_encrypted(name: &str) -> Result<(), CliError> {
    let path = person::key_file(name)?;
    record(name, &path)?;
    let key = KeyFile::read(&path)?;
    let encrypted = key.encrypted().ok_or_else(|| {
        let message = format!("{} holds an open key", path.display());
        CliError::new(
            Code::BadKeyFile,
            message,
            format!("nightjar key import NAME < {}", path.display()),
        )
    })?;
    write(&format!("{encrypted}\n"))
}

fn show_all(context: &Context) -> Result<(), CliError> {
    let mut records = Vec::new();
    for (name, path) in person::own_keys()? {
        match record(&name, &path) {
            Ok(record) => records.push(record),
            Err(error) => context.console.warn(&error.message),
        }
    }
    if records.is_empty() {
        context
            .console
            .note("no keys yet; make one: nightjar key make");
    }
    context.out.list(&records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::assert_same_fields;

    #[test]
    fn table_and_json_have_the_same_fields() {
        let text = String::new;
        assert_same_fields(&KeyRecord {
            name: text(),
            npub: text(),
            encrypted: true,
            file: text(),
        });
    }
}
