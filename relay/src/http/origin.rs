//! Which web pages may connect (`allowed_origins`). Pure.

use axum::http::{HeaderMap, header};

/// Whether a WebSocket may be opened: always without a list, and always by programs that name no origin, because only browsers must.
pub(super) fn is_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    let is_listed = |origin: &[u8]| {
        allowed
            .iter()
            .any(|listed| listed.as_bytes().eq_ignore_ascii_case(origin))
    };
    allowed.is_empty()
        || headers
            .get_all(header::ORIGIN)
            .iter()
            .all(|origin| is_listed(origin.as_bytes()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn list() -> Vec<String> {
        vec![
            "https://chat.example.org".to_owned(),
            "http://localhost:3000".to_owned(),
        ]
    }

    fn from(origins: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for origin in origins {
            let value = HeaderValue::from_bytes(origin).expect("a value");
            headers.append(header::ORIGIN, value);
        }
        headers
    }

    #[test]
    fn a_list_admits_its_own_and_programs_without_an_origin() {
        for (origins, expected) in [
            (vec![], true),
            (vec![b"https://chat.example.org".as_slice()], true),
            (vec![b"HTTPS://Chat.Example.org"], true),
            (vec![b"http://localhost:3000"], true),
            (vec![b"http://localhost"], false),
            (vec![b"http://chat.example.org"], false),
            (vec![b"https://chat.example.org.evil.example"], false),
            (vec![b"https://chat.example.org/"], false),
            (vec![b"null"], false),
            (vec![b""], false),
            (
                vec![b"https://chat.example.org", b"https://evil.example"],
                false,
            ),
        ] {
            let headers = from(&origins);
            assert_eq!(is_allowed(&headers, &list()), expected, "{headers:?}");
            assert!(is_allowed(&headers, &[]), "without a list every origin may");
        }
    }

    proptest! {
        #[test]
        fn other_bytes_are_refused(origin in proptest::collection::vec(0x20_u8..=0xff, 0..60)) {
            prop_assume!(HeaderValue::from_bytes(&origin).is_ok());
            let listed = list().iter().any(|listed| listed.as_bytes().eq_ignore_ascii_case(&origin));
            prop_assert_eq!(is_allowed(&from(&[&origin]), &list()), listed);
        }
    }
}
