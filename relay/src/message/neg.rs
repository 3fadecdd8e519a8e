//! The messages of NIP-77 from a client: `NEG-OPEN`, `NEG-MSG`, `NEG-CLOSE`. Whatever shows its id is refused under that id:
//! a client that is answered with a NOTICE would wait for ever.

use serde_json::value::RawValue;

use super::{
    About, ClientMessage, MessageError, MessageLimits, Problem, object, one, subscription_id,
};

/// `["NEG-OPEN", <id>, <filter>, <message in hex>]`.
pub(super) fn open<'a>(
    rest: &[&'a RawValue],
    has: usize,
    limits: &MessageLimits,
) -> Result<ClientMessage<'a>, MessageError> {
    const TAKES: &str = "an id, one filter and a message in hex";
    let (sync, rest) = begin("NEG-OPEN", TAKES, rest, has, limits)?;
    let [filter, message] = rest else {
        return Err(refuse(sync, wrong_count("NEG-OPEN", TAKES, has)));
    };
    let parts = object("the filter", filter).and_then(|filter| Ok((filter, bytes(message)?)));
    match parts {
        Ok((filter, message)) => Ok(ClientMessage::NegOpen {
            sync,
            filter,
            message,
        }),
        Err(problem) => Err(refuse(sync, problem)),
    }
}

/// `["NEG-MSG", <id>, <message in hex>]`.
pub(super) fn message<'a>(
    rest: &[&'a RawValue],
    has: usize,
    limits: &MessageLimits,
) -> Result<ClientMessage<'a>, MessageError> {
    const TAKES: &str = "an id and a message in hex";
    let (sync, rest) = begin("NEG-MSG", TAKES, rest, has, limits)?;
    match one("NEG-MSG", TAKES, rest, has).and_then(bytes) {
        Ok(message) => Ok(ClientMessage::NegMessage { sync, message }),
        Err(problem) => Err(refuse(sync, problem)),
    }
}

/// `["NEG-CLOSE", <id>]`.
pub(super) fn close<'a>(
    rest: &[&'a RawValue],
    has: usize,
    limits: &MessageLimits,
) -> Result<ClientMessage<'a>, MessageError> {
    let id = one("NEG-CLOSE", "one id", rest, has)?;
    let sync = subscription_id(id, limits)?;
    Ok(ClientMessage::NegClose { sync })
}

/// The id, and what comes after it.
fn begin<'r, 'a>(
    verb: &'static str,
    takes: &'static str,
    rest: &'r [&'a RawValue],
    has: usize,
    limits: &MessageLimits,
) -> Result<(String, &'r [&'a RawValue]), Problem> {
    let (id, rest) = rest
        .split_first()
        .ok_or_else(|| wrong_count(verb, takes, has))?;
    Ok((subscription_id(id, limits)?, rest))
}

fn wrong_count(verb: &'static str, takes: &'static str, has: usize) -> Problem {
    Problem::WrongCount { verb, takes, has }
}

fn refuse(sync: String, problem: Problem) -> MessageError {
    MessageError {
        problem,
        about: About::Sync(sync),
    }
}

fn bytes(raw: &RawValue) -> Result<Vec<u8>, Problem> {
    let text: Option<String> = serde_json::from_str(raw.get()).ok();
    text.and_then(|text| hex::decode(text).ok())
        .ok_or(Problem::WrongType {
            what: "the message",
            must_be: "a string of hex digits, two for each byte",
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse;
    use super::*;

    const LIMITS: MessageLimits = MessageLimits {
        max_filters: 3,
        max_subid_length: 8,
    };

    fn check_refused(text: &str, expected: &str, about: About) {
        let error = parse(text, &LIMITS).expect_err(text);
        assert!(error.to_string().contains(expected), "{text}: {error}");
        assert_eq!(error.about, about, "{text}");
    }

    #[test]
    fn what_shows_its_id_is_refused_under_it() {
        let s = || About::Sync("s".to_owned());
        check_refused(r#"["NEG-OPEN"]"#, "NEG-OPEN takes an id", About::Nothing);
        check_refused(r#"["NEG-OPEN",7,{},"61"]"#, "a string", About::Nothing);
        check_refused(r#"["NEG-OPEN","s",{}]"#, "has 2 elements", s());
        check_refused(r#"["NEG-OPEN","s",{},16,"61"]"#, "has 4 elements", s());
        check_refused(r#"["NEG-OPEN","s","id","61"]"#, "must be an object", s());
        check_refused(r#"["NEG-OPEN","s",{},"6"]"#, "hex digits", s());
        check_refused(r#"["NEG-MSG","s"]"#, "NEG-MSG takes an id", s());
        check_refused(r#"["NEG-MSG","s",{}]"#, "hex digits", s());
        check_refused(r#"["NEG-CLOSE"]"#, "NEG-CLOSE takes one id", About::Nothing);
    }

    #[test]
    fn well_formed_messages_are_taken_apart() {
        assert!(matches!(
            parse(r#"["NEG-OPEN","s",{"kinds":[1]},"6100"]"#, &LIMITS),
            Ok(ClientMessage::NegOpen { sync, filter, message })
                if sync == "s" && filter.get() == r#"{"kinds":[1]}"# && message == [0x61, 0]
        ));
        assert!(matches!(
            parse(r#"["NEG-MSG","s","61fF"]"#, &LIMITS),
            Ok(ClientMessage::NegMessage { sync, message }) if sync == "s" && message == [0x61, 0xff]
        ));
        assert!(matches!(
            parse(r#"["NEG-CLOSE","s"]"#, &LIMITS),
            Ok(ClientMessage::NegClose { sync }) if sync == "s"
        ));
    }

    proptest! {
        #[test]
        fn any_elements_are_answered_without_panic(
            verb in prop_oneof!["NEG-OPEN", "NEG-MSG", "NEG-CLOSE"],
            rest in proptest::collection::vec(
                prop_oneof!["\\{\\}", "\"[a-z]{1,3}\"", "\"[0-9a-f]{0,8}\"", "null", "[0-9]{1,5}"], 0..5),
        ) {
            let mut text = format!("[\"{verb}\"");
            for element in &rest {
                text.push(',');
                text.push_str(element);
            }
            text.push(']');
            let _ = parse(&text, &LIMITS);
        }
    }
}
