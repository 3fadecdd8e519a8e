//! The body of a management call (NIP-86): method and parameters, strictly read. Pure.

use serde::Deserialize;
use serde_json::Value;

use super::lists::{Change, List, Target};
use crate::event::parse_hex;

/// Longest reason, in bytes.
pub const MAX_REASON: usize = 1_000;
/// Methods that no relay of a fleet has, because the `RelayCluster` says what they would change.
const DECLARED: [&str; 3] = [
    "changerelayname",
    "changerelaydescription",
    "changerelayicon",
];
const ADDRESSES: [&str; 3] = ["blockip", "unblockip", "listblockedips"];
/// A method's name that an answer repeats.
const MAX_SHOWN: usize = 40;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// The names of the methods.
    SupportedMethods,
    /// What is on a list.
    Read(List),
    /// A change of the lists.
    Change(Change),
}

/// Why a body is no call of this relay. The text is for whoever wrote the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Not the JSON of NIP-86.
    #[error("invalid: the body must be {{\"method\": \"<name>\", \"params\": [...]}}: {0}")]
    Form(String),
    /// No method of this name.
    #[error("invalid: there is no method {0}; supportedmethods tells which there are")]
    Unknown(String),
    /// A setting of the fleet.
    #[error(
        "restricted: {0} is not for this relay: name, description and icon are declared for the whole fleet, in spec.relay.info of its RelayCluster"
    )]
    Declared(&'static str),
    /// A list that would hold what a relay never stores.
    #[error(
        "restricted: {0} is not for this relay: it stores no client addresses; block them in front of it"
    )]
    Addresses(&'static str),
    /// Too few or too many parameters.
    #[error("invalid: {method} takes {expected}, this call has {count}")]
    Count {
        /// The method.
        method: &'static str,
        /// What it takes.
        expected: &'static str,
        /// How many there are.
        count: usize,
    },
    /// A parameter of the wrong kind.
    #[error("invalid: parameter {number} of {method} must be {expected}")]
    Parameter {
        /// Counted from 1.
        number: usize,
        /// The method.
        method: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// The reason is too long.
    #[error("invalid: the reason has {len} bytes, the limit is {MAX_REASON}")]
    Reason {
        /// Its length in bytes.
        len: usize,
    },
}

/// What a method does.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Methods,
    Read(List),
    Pubkey(&'static [(List, bool)]),
    Event(&'static [(List, bool)]),
    Kind(&'static [(List, bool)]),
}

use List::{
    AllowedEvents, AllowedKinds, AllowedPubkeys, BannedEvents, BannedPubkeys, DisallowedKinds,
};

/// Every method, as NIP-86 defines it.
const METHODS: [(&str, Shape); 17] = [
    ("supportedmethods", Shape::Methods),
    (
        "banpubkey",
        Shape::Pubkey(&[(BannedPubkeys, true), (AllowedPubkeys, false)]),
    ),
    ("unbanpubkey", Shape::Pubkey(&[(BannedPubkeys, false)])),
    ("listbannedpubkeys", Shape::Read(BannedPubkeys)),
    (
        "allowpubkey",
        Shape::Pubkey(&[(AllowedPubkeys, true), (BannedPubkeys, false)]),
    ),
    ("unallowpubkey", Shape::Pubkey(&[(AllowedPubkeys, false)])),
    ("listallowedpubkeys", Shape::Read(AllowedPubkeys)),
    (
        "banevent",
        Shape::Event(&[(BannedEvents, true), (AllowedEvents, false)]),
    ),
    ("unbanevent", Shape::Event(&[(BannedEvents, false)])),
    ("listbannedevents", Shape::Read(BannedEvents)),
    (
        "allowevent",
        Shape::Event(&[(AllowedEvents, true), (BannedEvents, false)]),
    ),
    ("unallowevent", Shape::Event(&[(AllowedEvents, false)])),
    ("listallowedevents", Shape::Read(AllowedEvents)),
    (
        "allowkind",
        Shape::Kind(&[(AllowedKinds, true), (DisallowedKinds, false)]),
    ),
    (
        "disallowkind",
        Shape::Kind(&[(DisallowedKinds, true), (AllowedKinds, false)]),
    ),
    ("listallowedkinds", Shape::Read(AllowedKinds)),
    ("listdisallowedkinds", Shape::Read(DisallowedKinds)),
];

/// The names of all methods.
pub fn methods() -> impl Iterator<Item = &'static str> {
    METHODS.iter().map(|(name, _)| *name)
}

#[derive(Deserialize)]
struct Body {
    method: String,
    #[serde(default)]
    params: Vec<Value>,
}

/// Reads a body. The name of the method is told also when the rest is wrong, for metrics.
pub fn parse(body: &[u8]) -> (Option<&'static str>, Result<Call, CallError>) {
    let body: Body = match serde_json::from_slice(body) {
        Ok(body) => body,
        Err(error) => return (None, Err(CallError::Form(place_of(&error)))),
    };
    let Some((name, shape)) = METHODS.iter().find(|(name, _)| *name == body.method) else {
        return (None, Err(unknown(&body.method)));
    };
    (Some(name), call_of(name, *shape, &body.params))
}

/// The kind of mistake and where, without what the body holds.
fn place_of(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Data => "method must be a string and params an array",
        _ => "it is not JSON",
    };
    format!("{what} (line {}, column {})", error.line(), error.column())
}

fn unknown(method: &str) -> CallError {
    let one_of = |names: [&'static str; 3]| names.into_iter().find(|name| *name == method);
    if let Some(name) = one_of(DECLARED) {
        return CallError::Declared(name);
    }
    if let Some(name) = one_of(ADDRESSES) {
        return CallError::Addresses(name);
    }
    let is_name = method.len() <= MAX_SHOWN && method.bytes().all(|b| b.is_ascii_alphanumeric());
    CallError::Unknown(if is_name {
        format!("{method:?}")
    } else {
        format!("of that name ({} bytes)", method.len())
    })
}

fn call_of(method: &'static str, shape: Shape, params: &[Value]) -> Result<Call, CallError> {
    match shape {
        Shape::Methods => no_parameters(method, params).map(|()| Call::SupportedMethods),
        Shape::Read(list) => no_parameters(method, params).map(|()| Call::Read(list)),
        Shape::Pubkey(moves) => {
            let (key, reason) = with_reason(
                method,
                params,
                "a public key in 64 lowercase hex digits (not an npub)",
            )?;
            Ok(change(Target::Pubkey(key), moves, reason))
        }
        Shape::Event(moves) => {
            let (id, reason) = with_reason(
                method,
                params,
                "an event id in 64 lowercase hex digits (not a note or nevent)",
            )?;
            Ok(change(Target::Event(id), moves, reason))
        }
        Shape::Kind(moves) => {
            let [kind] = params else {
                return Err(CallError::Count {
                    method,
                    expected: "one parameter, the kind",
                    count: params.len(),
                });
            };
            let kind = kind.as_u64().and_then(|kind| u16::try_from(kind).ok());
            let kind = kind.ok_or(CallError::Parameter {
                number: 1,
                method,
                expected: "a kind, a number from 0 to 65535",
            })?;
            Ok(change(Target::Kind(kind), moves, None))
        }
    }
}

fn change(target: Target, moves: &'static [(List, bool)], reason: Option<String>) -> Call {
    Call::Change(Change {
        target,
        moves,
        reason,
    })
}

fn no_parameters(method: &'static str, params: &[Value]) -> Result<(), CallError> {
    if params.is_empty() {
        return Ok(());
    }
    Err(CallError::Count {
        method,
        expected: "no parameters",
        count: params.len(),
    })
}

/// 32 bytes in hex, and a reason that may be left out, empty or null.
fn with_reason(
    method: &'static str,
    params: &[Value],
    expected: &'static str,
) -> Result<([u8; 32], Option<String>), CallError> {
    let (target, reason) = match params {
        [target] => (target, None),
        [target, reason] => (target, Some(reason)),
        _ => {
            return Err(CallError::Count {
                method,
                expected: "one or two parameters, the second a reason",
                count: params.len(),
            });
        }
    };
    let target = target
        .as_str()
        .and_then(parse_hex::<32>)
        .ok_or(CallError::Parameter {
            number: 1,
            method,
            expected,
        })?;
    let reason = match reason {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::String(text)) if text.len() <= MAX_REASON => Some(text.clone()),
        Some(Value::String(text)) => return Err(CallError::Reason { len: text.len() }),
        Some(_) => {
            return Err(CallError::Parameter {
                number: 2,
                method,
                expected: "a reason, a string",
            });
        }
    };
    Ok((target, reason))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn refusal(body: &str) -> String {
        parse(body.as_bytes()).1.expect_err(body).to_string()
    }

    fn read(body: Value) -> Call {
        parse(body.to_string().as_bytes()).1.expect("a call")
    }

    #[test]
    fn a_ban_takes_a_key_off_the_allow_list_and_an_unban_leaves_that_alone() {
        let key = "ab".repeat(32);
        let Call::Change(ban) = read(json!({"method": "banpubkey", "params": [key, "spam"]}))
        else {
            panic!("no change");
        };
        assert_eq!(ban.target, Target::Pubkey([0xab; 32]));
        assert_eq!(
            ban.moves,
            [(List::BannedPubkeys, true), (List::AllowedPubkeys, false)]
        );
        assert_eq!(ban.reason.as_deref(), Some("spam"));
        let Call::Change(unban) = read(json!({"method": "unbanpubkey", "params": [key, null]}))
        else {
            panic!("no change");
        };
        assert_eq!(unban.moves, [(List::BannedPubkeys, false)]);
        assert_eq!(unban.reason, None);
    }

    #[test]
    fn params_may_be_left_out_where_there_are_none() {
        assert_eq!(
            read(json!({"method": "listbannedevents"})),
            Call::Read(List::BannedEvents)
        );
        assert_eq!(
            read(json!({"method": "supportedmethods", "params": []})),
            Call::SupportedMethods
        );
    }

    #[test]
    fn every_refusal_says_what_would_be_right() {
        let key = "ab".repeat(32);
        let long = "x".repeat(MAX_REASON + 1);
        for (body, expected) in [
            ("", "it ends too early"),
            ("nonsense", "it is not JSON"),
            ("[]", "method must be a string and params an array"),
            (r#"{"params": []}"#, "method must be a string"),
            (r#"{"method": 1}"#, "method must be a string"),
            (
                r#"{"method": "banpubkey", "params": {}}"#,
                "params an array",
            ),
            (
                r#"{"method": "createrole"}"#,
                "invalid: there is no method \"createrole\"; supportedmethods tells which there are",
            ),
            (
                r#"{"method": "<script>"}"#,
                "invalid: there is no method of that name (8 bytes)",
            ),
            (
                r#"{"method": "changerelayname", "params": ["x"]}"#,
                "restricted: changerelayname is not for this relay: name, description and icon are declared",
            ),
            (
                r#"{"method": "blockip", "params": ["192.0.2.1"]}"#,
                "restricted: blockip is not for this relay: it stores no client addresses",
            ),
            (
                r#"{"method": "banpubkey"}"#,
                "invalid: banpubkey takes one or two parameters, the second a reason, this call has 0",
            ),
            (
                r#"{"method": "banpubkey", "params": ["npub1x"]}"#,
                "invalid: parameter 1 of banpubkey must be a public key in 64 lowercase hex digits (not an npub)",
            ),
            (
                r#"{"method": "banevent", "params": [7]}"#,
                "invalid: parameter 1 of banevent must be an event id",
            ),
            (
                r#"{"method": "allowkind", "params": [65536]}"#,
                "invalid: parameter 1 of allowkind must be a kind, a number from 0 to 65535",
            ),
            (
                r#"{"method": "allowkind", "params": [1, 2]}"#,
                "invalid: allowkind takes one parameter, the kind, this call has 2",
            ),
            (
                r#"{"method": "listbannedpubkeys", "params": [1]}"#,
                "invalid: listbannedpubkeys takes no parameters, this call has 1",
            ),
            (
                &format!(r#"{{"method": "banpubkey", "params": ["{key}", 7]}}"#),
                "invalid: parameter 2 of banpubkey must be a reason, a string",
            ),
            (
                &format!(r#"{{"method": "banpubkey", "params": ["{key}", "{long}"]}}"#),
                "invalid: the reason has 1001 bytes, the limit is 1000",
            ),
        ] {
            let refusal = refusal(body);
            assert!(refusal.contains(expected), "{body}: {refusal}");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(body: Vec<u8>) {
            let _ = parse(&body);
        }

        #[test]
        fn parameters_of_any_kind_are_read_or_refused(
            method in prop::sample::select(methods().collect::<Vec<_>>()),
            params in prop::collection::vec(
                prop_oneof![
                    any::<i64>().prop_map(Value::from),
                    "[0-9a-f]{64}".prop_map(Value::from),
                    "\\PC{0,20}".prop_map(Value::from),
                    Just(Value::Null),
                ],
                0..4,
            ),
        ) {
            let (name, call) = parse(json!({"method": method, "params": params}).to_string().as_bytes());
            prop_assert_eq!(name, Some(method));
            if let Err(error) = call {
                let text = error.to_string();
                prop_assert!(text.starts_with("invalid: "), "{}", text);
            }
        }
    }
}
