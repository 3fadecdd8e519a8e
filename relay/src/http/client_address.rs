//! Who a client is when proxies stand in between. Pure; an address goes from here to admission, and nowhere else.
//!
//! Only a proxy that the configuration names is believed: what it added to `X-Forwarded-For` or `Forwarded` (RFC 7239) stands at
//! the end, and whatever the client wrote itself stands before it and is not looked at.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use nightjar_config::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Proxies of ours that a request may have passed, one after the other.
const MAX_HOPS: usize = 32;

/// The address that counts for a connection from `peer`.
///
/// That is the last address in the headers that is not itself a trusted proxy, if `peer` is one. Without such an address, with one that
/// cannot be read, or when the two headers disagree, it is `peer`: then the client counts as its proxy, and never as somebody else.
pub(super) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let listed = told(headers, &X_FORWARDED_FOR, trusted, read_node);
    let forwarded = told(headers, &header::FORWARDED, trusted, read_element);
    // A proxy adds to one of them and hands on the other as the client wrote it.
    match (listed, forwarded) {
        (Told::Client(address), Told::Nothing) | (Told::Nothing, Told::Client(address)) => address,
        (Told::Client(one), Told::Client(other)) if one == other => one,
        _ => peer,
    }
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// What one header says of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// There is no such header.
    Nothing,
    /// It cannot be read, or names proxies alone.
    Unclear,
    /// The last address that is no proxy of ours.
    Client(IpAddr),
}

/// Walks a header from its end; several lines of it are one list.
fn told(
    headers: &HeaderMap,
    name: &HeaderName,
    trusted: &[IpNet],
    read: fn(&[u8]) -> Option<IpAddr>,
) -> Told {
    let lines: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
    if lines.is_empty() {
        return Told::Nothing;
    }
    let entries = lines
        .iter()
        .rev()
        .flat_map(|line| FromEnd(Some(line.as_bytes())));
    for entry in entries.take(MAX_HOPS) {
        match read(entry) {
            None => return Told::Unclear,
            Some(address) if is_trusted(address, trusted) => {}
            Some(address) => return Told::Client(address),
        }
    }
    Told::Unclear
}

/// Entries of a list, the last first. A comma between quotes separates nothing.
struct FromEnd<'a>(Option<&'a [u8]>);

impl<'a> Iterator for FromEnd<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0?;
        let mut quoted = false;
        let comma = rest.iter().rposition(|byte| {
            quoted ^= *byte == b'"';
            *byte == b',' && !quoted
        });
        let (rest, entry) = match comma {
            Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
            None => (None, rest),
        };
        self.0 = rest;
        Some(entry)
    }
}

/// The `for` of one element of `Forwarded`.
fn read_element(element: &[u8]) -> Option<IpAddr> {
    // An escaped sign, which no address needs, would make the end of a quoted text a matter of where one begins to read.
    if element.contains(&b'\\') {
        return None;
    }
    let mut found = None;
    for pair in element.split(|byte| *byte == b';') {
        let pair = pair.trim_ascii();
        let Some(at) = pair.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        if pair[..at].eq_ignore_ascii_case(b"for") {
            let node = unquoted(&pair[at + 1..])?;
            if found.replace(node).is_some() {
                return None;
            }
        }
    }
    read_node(found?)
}

fn unquoted(value: &[u8]) -> Option<&[u8]> {
    match value {
        [b'"', inner @ .., b'"'] => Some(inner),
        [b'"', ..] => None,
        value => Some(value),
    }
}

/// An address, alone or with a port: `192.0.2.7`, `192.0.2.7:4711`, `2001:db8::7`, `[2001:db8::7]`, `[2001:db8::7]:4711`.
fn read_node(node: &[u8]) -> Option<IpAddr> {
    let node = std::str::from_utf8(node.trim_ascii()).ok()?;
    let bare = match node.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            let has_port = port.strip_prefix(':').map(is_port);
            (port.is_empty() || has_port == Some(true)).then_some(address)?
        }
        None => match node.split_once(':') {
            Some((address, port)) if !port.contains(':') => is_port(port).then_some(address)?,
            _ => node,
        },
    };
    bare.parse::<IpAddr>()
        .ok()
        .map(|address| address.to_canonical())
}

fn is_port(text: &str) -> bool {
    (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.9";

    fn trusted() -> Vec<IpNet> {
        ["10.0.0.0/8", "2001:db8:ffff::/48"]
            .map(|network| network.parse().expect("a network"))
            .into()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let value = HeaderValue::from_bytes(value).expect("a value");
            headers.append(HeaderName::from_static(name), value);
        }
        headers
    }

    /// Who counts for a request through the proxy.
    fn counted(lines: &[(&'static str, &str)]) -> String {
        let lines: Vec<_> = lines
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        client_address(address(PROXY), &headers(&lines), &trusted()).to_string()
    }

    #[test]
    fn a_trusted_proxys_word_counts() {
        for (name, value, expected) in [
            ("x-forwarded-for", "192.0.2.7", "192.0.2.7"),
            ("x-forwarded-for", " 192.0.2.7:4711 ", "192.0.2.7"),
            ("x-forwarded-for", "2001:db8::7", "2001:db8::7"),
            ("x-forwarded-for", "[2001:db8::7]:443", "2001:db8::7"),
            ("x-forwarded-for", "::ffff:192.0.2.7", "192.0.2.7"),
            // What the client wrote itself stands before it, and trusted proxies after it.
            ("x-forwarded-for", "9.9.9.9, 192.0.2.7", "192.0.2.7"),
            ("x-forwarded-for", "\", x, 192.0.2.7", "192.0.2.7"),
            (
                "x-forwarded-for",
                "192.0.2.7, 10.1.2.3, 2001:db8:ffff::1",
                "192.0.2.7",
            ),
            ("forwarded", "for=192.0.2.7", "192.0.2.7"),
            (
                "forwarded",
                "For=\"[2001:db8::7]:4711\";proto=https;by=10.0.0.9",
                "2001:db8::7",
            ),
            (
                "forwarded",
                "for=9.9.9.9, proto=https ; for=\"192.0.2.7:80\"",
                "192.0.2.7",
            ),
            ("forwarded", "for=\"open, for=192.0.2.7", "192.0.2.7"),
            (
                "forwarded",
                "for=192.0.2.7, for=10.3.3.3;host=\"a, b\"",
                "192.0.2.7",
            ),
        ] {
            assert_eq!(counted(&[(name, value)]), expected, "{name}: {value}");
        }
        let lines = [
            ("x-forwarded-for", "9.9.9.9"),
            ("x-forwarded-for", "192.0.2.7"),
        ];
        assert_eq!(counted(&lines), "192.0.2.7", "several lines are one list");
    }

    #[test]
    fn what_is_unclear_counts_as_the_proxy() {
        for (name, value) in [
            ("x-forwarded-for", ""),
            ("x-forwarded-for", "unknown"),
            ("x-forwarded-for", "192.0.2.7,"),
            ("x-forwarded-for", "192.0.2.7, 192.0.2.300"),
            ("x-forwarded-for", "[2001:db8::7"),
            ("x-forwarded-for", "[2001:db8::7]x"),
            ("x-forwarded-for", "192.0.2.7:port"),
            ("x-forwarded-for", "10.1.1.1, 10.2.2.2"),
            ("forwarded", "for=unknown"),
            ("forwarded", "for=_hidden"),
            ("forwarded", "proto=https"),
            ("forwarded", "for=192.0.2.7;for=192.0.2.8"),
            ("forwarded", "for=\"192.0.2.7"),
            (
                "forwarded",
                "for=192.0.2.7, for=10.1.1.1;host=\"a\\\", for=9.9.9.9;x=\\\"\"",
            ),
        ] {
            assert_eq!(counted(&[(name, value)]), PROXY, "{name}: {value}");
        }
        let hops = vec!["10.1.1.1"; MAX_HOPS].join(", ");
        assert_eq!(
            counted(&[("x-forwarded-for", &format!("192.0.2.7, {hops}"))]),
            PROXY
        );
    }

    #[test]
    fn headers_that_disagree_count_as_the_proxy() {
        let both = |one, other| counted(&[("x-forwarded-for", one), ("forwarded", other)]);
        assert_eq!(both("192.0.2.7", "for=192.0.2.7"), "192.0.2.7");
        assert_eq!(both("192.0.2.7", "for=9.9.9.9"), PROXY);
        assert_eq!(both("192.0.2.7", "for=unknown"), PROXY);
    }

    fn any_headers() -> impl Strategy<Value = HeaderMap> {
        let name = prop_oneof![Just("x-forwarded-for"), Just("forwarded")];
        let bytes = proptest::collection::vec(
            any::<u8>().prop_filter("a header's", |byte| {
                HeaderValue::from_bytes(&[*byte]).is_ok()
            }),
            0..60,
        );
        let plausible =
            "(for=|\"|\\[|\\]|,|;|:| |\\\\|=|9\\.9\\.9\\.9|10\\.0\\.0\\.1|::1|by=){0,20}"
                .prop_map(String::into_bytes);
        let lines = proptest::collection::vec((name, prop_oneof![bytes, plausible]), 0..4);
        lines.prop_map(|lines| {
            let lines: Vec<_> = lines
                .iter()
                .map(|(name, value)| (*name, value.as_slice()))
                .collect();
            headers(&lines)
        })
    }

    /// What the proxy makes of a request: it adds to the last line of its header, or a line of its own.
    fn passed_on(
        mut headers: HeaderMap,
        name: &'static str,
        entry: &str,
        own_line: bool,
    ) -> HeaderMap {
        let name = HeaderName::from_static(name);
        let mut lines: Vec<HeaderValue> = headers.get_all(&name).iter().cloned().collect();
        let before = if own_line { None } else { lines.pop() };
        let value = match before {
            Some(before) => [before.as_bytes(), b", ", entry.as_bytes()].concat(),
            None => entry.as_bytes().to_vec(),
        };
        lines.push(HeaderValue::from_bytes(&value).expect("a value"));
        headers.remove(&name);
        for line in lines {
            headers.append(&name, line);
        }
        headers
    }

    proptest! {
        #[test]
        fn who_comes_through_no_trusted_proxy_cannot_change_its_address(
            peer in any::<[u8; 4]>(),
            headers in any_headers(),
        ) {
            let peer = IpAddr::from(peer);
            prop_assume!(!is_trusted(peer, &trusted()));
            prop_assert_eq!(client_address(peer, &headers, &trusted()), peer);
            prop_assert_eq!(client_address(address(PROXY), &headers, &[]), address(PROXY));
        }

        #[test]
        fn who_comes_through_one_counts_as_itself_or_as_the_proxy_whatever_it_wrote(
            headers in any_headers(),
            own_line in any::<bool>(),
            listed in any::<bool>(),
        ) {
            let client = address("192.0.2.7");
            let (name, entry, other) = match listed {
                true => ("x-forwarded-for", "192.0.2.7", header::FORWARDED),
                false => ("forwarded", "for=\"192.0.2.7:4711\";proto=https", X_FORWARDED_FOR),
            };
            let told_of_both = headers.contains_key(&other);
            let headers = passed_on(headers, name, entry, own_line);
            let counted = client_address(address(PROXY), &headers, &trusted());
            if told_of_both {
                prop_assert!(counted == client || counted == address(PROXY), "{}", counted);
            } else {
                prop_assert_eq!(counted, client, "what stands before has no effect");
            }
        }
    }
}
