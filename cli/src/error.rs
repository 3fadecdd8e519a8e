//! What every verb fails with: a code, a cause, and the next command to type.

use std::fmt;

use nightjar_client::connection::ConnectionError;
use nightjar_client::frame::Prefix;
use nightjar_client::identity::IdentityError;
use nightjar_client::{ClientError, RelayUrl};
use serde::Serialize;

use crate::code::Code;
use crate::output::{inert, steers_terminal};

/// An error as the user sees it.
#[derive(Debug, Clone)]
pub(crate) struct CliError {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) causes: Vec<String>,
    pub(crate) next: String,
}

/// The same error for programs, one JSON line on stderr.
#[derive(Serialize)]
struct ErrorRecord<'a> {
    error: String,
    message: &'a str,
    causes: &'a [String],
    next: &'a str,
    exit: u8,
}

impl CliError {
    /// An error with its next command.
    pub(crate) fn new(code: Code, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            causes: Vec::new(),
            next: next.into(),
        }
    }

    /// Adds a cause.
    pub(crate) fn because(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// A value of a flag or argument that cannot be used. `value` must not be a secret.
    pub(crate) fn bad_value(what: &str, value: &str, expected: &str) -> Self {
        Self::new(
            Code::BadValue,
            format!("{what} `{value}` cannot be used: expected {expected}"),
            "nightjar help",
        )
    }

    /// A file that could not be read or written.
    pub(crate) fn file(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let next = format!("ls -ld {}", path.display());
        Self::new(
            Code::File,
            format!("could not {what} {}", path.display()),
            next,
        )
        .because(error)
    }

    /// One JSON line.
    pub(crate) fn to_json(&self) -> String {
        let record = ErrorRecord {
            error: self.code.to_string(),
            message: &self.message,
            causes: &self.causes,
            next: &self.next,
            exit: self.code.exit(),
        };
        inert(&serde_json::to_string(&record).unwrap_or_default())
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A relay's words may be among them: they get no line of their own and no hold of the terminal.
        let shown = |text: &str| text.replace(steers_terminal, " ");
        write!(f, "{}: {}", self.code, shown(&self.message))?;
        for cause in &self.causes {
            write!(f, "\n  cause: {}", shown(cause))?;
        }
        write!(
            f,
            "\n  next:  {}\n  more:  nightjar explain {}",
            shown(&self.next),
            self.code
        )
    }
}

impl From<IdentityError> for CliError {
    fn from(error: IdentityError) -> Self {
        let (code, next) = match &error {
            IdentityError::WrongPassphrase => (Code::Passphrase, "nightjar key show"),
            IdentityError::NotASecretKey { .. } | IdentityError::NotEncrypted { .. } => {
                (Code::NotAKey, "nightjar key import --help")
            }
            IdentityError::TooCostly { .. } => (Code::BadKeyFile, "nightjar key import --help"),
            IdentityError::Crypto { .. } => (Code::CannotSeal, "nightjar key show"),
        };
        Self::new(code, error.to_string(), next)
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::NoRelay => no_relay(),
            ClientError::NoInbox { recipient } => {
                let who = nightjar_client::identity::npub(&recipient);
                Self::new(
                    Code::NoInbox,
                    message,
                    format!("nightjar relays show {who} --via wss://their.relay.example"),
                )
            }
            ClientError::NobodyAnswered(failed) | ClientError::NotTaken(failed) => {
                from_relays(&message, &failed)
            }
            ClientError::Wrap(error) => match error {
                nightjar_client::wrap::WrapError::Identity(error) => error.into(),
                error => Self::new(Code::CannotSeal, error.to_string(), "nightjar send --help"),
            },
            ClientError::Identity(error) => error.into(),
        }
    }
}

/// No relay is known: neither named nor running here.
pub(crate) fn no_relay() -> CliError {
    CliError::new(
        Code::NoRelay,
        "no relay is known",
        "nightjar up FILE, or name one with --via wss://relay.example",
    )
}

/// One error for several relays that all failed, with the code of the most telling one.
pub(crate) fn from_relays(message: &str, failed: &[(RelayUrl, ConnectionError)]) -> CliError {
    // The relay that said most decides: a refusal tells more than silence.
    let rank = |code: Code| {
        let order = [
            Code::NotLoopback,
            Code::Invalid,
            Code::RateLimited,
            Code::NotDurable,
            Code::AuthFailed,
            Code::NotAllowed,
            Code::TooLate,
        ];
        order
            .iter()
            .position(|known| *known == code)
            .unwrap_or(order.len())
    };
    let code = failed
        .iter()
        .map(|(_, error)| code_of(error))
        .min_by_key(|code| rank(*code));
    let code = code.unwrap_or(Code::Unreachable);
    let mut error = CliError::new(code, message, next_after(code));
    for (url, cause) in failed {
        error = error.because(format!("{url}: {cause}"));
    }
    error
}

/// The error of one relay.
pub(crate) fn from_relay(url: &RelayUrl, error: &ConnectionError) -> CliError {
    let code = code_of(error);
    CliError::new(code, format!("{url}: {error}"), next_after(code))
}

/// The code of what happened on a connection.
pub(crate) fn code_of(error: &ConnectionError) -> Code {
    match error {
        ConnectionError::Unreachable(_) | ConnectionError::Ended(_) => Code::Unreachable,
        ConnectionError::TooLate { .. } => Code::TooLate,
        ConnectionError::AuthFailed(_) => Code::AuthFailed,
        ConnectionError::NotLoopback => Code::NotLoopback,
        ConnectionError::Protocol(_) => Code::Protocol,
        ConnectionError::Identity(_) => Code::CannotSeal,
        ConnectionError::Refused { prefix, message } => match prefix {
            Prefix::AuthRequired => Code::AuthFailed,
            Prefix::Restricted | Prefix::Blocked => Code::NotAllowed,
            Prefix::RateLimited => Code::RateLimited,
            Prefix::Invalid | Prefix::Pow => Code::Invalid,
            Prefix::Error if message.contains("durable") => Code::NotDurable,
            _ => Code::Protocol,
        },
    }
}

fn next_after(code: Code) -> &'static str {
    match code {
        Code::NotDurable | Code::RateLimited => "the same command again in a few seconds",
        Code::AuthFailed | Code::NotAllowed => {
            "the same command with --verbose, to see the AUTH steps"
        }
        Code::NotLoopback => "nightjar key make, then the same command with --as default",
        Code::Invalid | Code::Protocol => "the same command with --wire, to see the frames",
        _ => "nightjar status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: &str) -> ConnectionError {
        ConnectionError::Refused {
            prefix: Prefix::of(message),
            message: message.into(),
        }
    }

    #[test]
    fn relay_answers_have_the_promised_exit_codes() {
        let exit = |error: &ConnectionError| code_of(error).exit();
        assert_eq!(exit(&ConnectionError::Unreachable("refused".into())), 3);
        assert_eq!(exit(&refused("auth-required: who are you")), 4);
        assert_eq!(exit(&refused("restricted: not you")), 4);
        assert_eq!(
            exit(&refused("error: not durable in time, send it again")),
            5
        );
        assert_eq!(exit(&refused("rate-limited: slow down")), 7);
        assert_eq!(exit(&refused("invalid: bad signature")), 1);
    }

    #[test]
    fn most_telling_relay_decides() {
        let url = RelayUrl::parse("ws://127.0.0.1:1").unwrap();
        let down = ConnectionError::Unreachable("refused".into());
        let failed = [
            (url.clone(), down),
            (url, refused("rate-limited: slow down")),
        ];
        let error = from_relays("no relay took it", &failed);
        assert_eq!((error.code, error.causes.len()), (Code::RateLimited, 2));
    }

    #[test]
    fn words_of_a_relay_cannot_steer_the_terminal_or_pose_as_a_line_of_ours() {
        let url = RelayUrl::parse("ws://127.0.0.1:1").unwrap();
        let evil = refused("blocked: \u{1b}]0;x\u{7}\u{9b}2J\u{202e}\n  next:  rm -r .");
        let error = from_relays("no relay took it", &[(url, evil)]);
        let text = error.to_string();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(!text.lines().any(|line| line.contains(steers_terminal)));
        assert!(!error.to_json().contains(steers_terminal));
    }

    #[test]
    fn text_and_json_say_the_same() {
        let error = CliError::new(Code::NoFleet, "no fleet runs here", "nightjar up FILE")
            .because("no status file");
        let json: serde_json::Value = serde_json::from_str(&error.to_json()).unwrap();
        let text = error.to_string();
        for field in ["error", "message", "next"] {
            assert!(text.contains(json[field].as_str().unwrap()), "{field}");
        }
        assert!(text.contains(json["causes"][0].as_str().unwrap()));
        assert_eq!(json["exit"], 8);
    }
}
