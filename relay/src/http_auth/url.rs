//! As much of a URL as a comparison needs: scheme, authority, path and query. Pure.

/// A URL of a relay, by its `http` or its `ws` name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url<'a> {
    secure: bool,
    /// Host and port, in lowercase, without the scheme's own port.
    authority: String,
    /// Begins with `/` or `?`, or is empty.
    path_and_query: &'a str,
}

impl<'a> Url<'a> {
    /// Reads an absolute URL. One with user name or fragment is none that a relay has.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" | "wss" => true,
            "http" | "ws" => false,
            _ => return None,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path_and_query) = rest.split_at(end);
        if authority.is_empty() || authority.contains('@') || path_and_query.contains('#') {
            return None;
        }
        let authority = authority.to_ascii_lowercase();
        let own_port = if secure { ":443" } else { ":80" };
        Some(Self {
            secure,
            authority: authority
                .strip_suffix(own_port)
                .map_or(authority.clone(), str::to_owned),
            path_and_query,
        })
    }

    pub(super) fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether this is `ours` for a request of this path and query.
    pub(super) fn names(&self, ours: &Url<'_>, path_and_query: &str) -> bool {
        let asked = split(path_and_query);
        let (path, query) = split(self.path_and_query);
        let is_path = path == asked.0 || path == split(ours.path_and_query).0;
        self.secure == ours.secure
            && self.authority == ours.authority
            && is_path
            && query == asked.1
    }

    /// Its `http` name with another path.
    pub(super) fn with_path(&self, path_and_query: &str) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}{path_and_query}", self.authority)
    }
}

/// Path, `/` if empty, and query with its `?`.
fn split(path_and_query: &str) -> (&str, &str) {
    let at = path_and_query.find('?').unwrap_or(path_and_query.len());
    let (path, query) = path_and_query.split_at(at);
    (if path.is_empty() { "/" } else { path }, query)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(signed: &str, ours: &str, asked: &str) -> bool {
        let ours = Url::parse(ours).expect("a URL of ours");
        Url::parse(signed).is_some_and(|signed| signed.names(&ours, asked))
    }

    #[test]
    fn a_url_is_the_same_by_either_name_and_with_its_own_port_or_none() {
        for signed in [
            "https://relay.example.com",
            "https://relay.example.com/",
            "HTTPS://Relay.Example.com:443/",
            "wss://relay.example.com",
        ] {
            assert!(names(signed, "wss://relay.example.com", "/"), "{signed}");
        }
        assert!(names("http://[::1]:4001/", "ws://[::1]:4001", "/"));
        assert!(names(
            "https://relay.example.com/a?b=c",
            "wss://relay.example.com:443/",
            "/a?b=c"
        ));
    }

    #[test]
    fn a_proxy_may_take_away_the_path_of_the_public_url() {
        let ours = "wss://example.com/relay";
        assert!(names("https://example.com/relay", ours, "/"));
        assert!(names("https://example.com/relay?x", ours, "/?x"));
        assert!(!names("https://example.com/relay", ours, "/?x"));
        assert!(!names("https://example.com/other", ours, "/"));
    }

    #[test]
    fn another_scheme_host_port_path_or_query_is_another_url() {
        for signed in [
            "http://relay.example.com/",
            "https://relay.example.com:8443/",
            "https://relay.example.com.evil.test/",
            "https://evil.test/relay.example.com",
            "https://user@relay.example.com/",
            "https://relay.example.com/#x",
            "https://relay.example.com/?x",
            "https://relay.example.com/x",
            "https:///",
            "relay.example.com",
            "ftp://relay.example.com/",
            "",
        ] {
            assert!(!names(signed, "wss://relay.example.com", "/"), "{signed}");
        }
    }

    #[test]
    fn the_url_that_is_told_is_one_that_does() {
        let ours = Url::parse("wss://relay.example.com").expect("a URL");
        let told = ours.with_path("/a?b");
        assert_eq!(told, "https://relay.example.com/a?b");
        assert!(names(&told, "wss://relay.example.com", "/a?b"));
    }
}
