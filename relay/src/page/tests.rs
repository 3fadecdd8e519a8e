//! The page: whatever is configured, its tags are the template's, its links are harmless, and the policy fits its style.

use nightjar_config::AuthRequired;
use proptest::prelude::*;

use super::*;

const CONFIG: &str = r#"
fleet: {id: 00112233445566778899aabbccddeeff, name: test-fleet}
region: north
name: north-relay-0
listen: 127.0.0.1:0
admin: 127.0.0.1:0
public_urls: ["ws://north.cluster.test:4001", "wss://relay.example.org"]
nats: {servers: ["nats://127.0.0.1:4222"], nkey_seed_file: unused}
keyring_file: unused
index: {dir: unused, max_bytes: 1073741824}
log:
  replicas: 3
  message_retention_seconds: 7776000
  regions: [{region: north, generation: 1}]
"#;

fn config(change: impl FnOnce(&mut RelayConfig)) -> RelayConfig {
    let mut config = RelayConfig::from_yaml(CONFIG).expect("a configuration");
    change(&mut config);
    config
}

fn page(change: impl FnOnce(&mut RelayConfig)) -> String {
    render(&config(change))
}

fn everything(info: &mut RelayInfo) {
    let url = |path: &str| Some(format!("https://example.org/{path}"));
    *info = RelayInfo {
        name: Some("Nightingale & Sons".to_owned()),
        description: Some(
            "For the people of <the valley>.\n\nBe kind; we keep\nno logs.".to_owned(),
        ),
        contact: Some("mailto:ops@example.org".to_owned()),
        pubkey: Some("82341f882b6eabcd2ba7f1ef90aad961cf074af15b9ef44a09f9d2a8fbfbe6a2".to_owned()),
        icon: url("icon.png"),
        terms_of_service: url("terms"),
        privacy_policy: url("privacy"),
        posting_policy: url("posting"),
    };
}

#[test]
fn everything_that_is_configured_is_shown() {
    let page = page(|config| everything(&mut config.info));
    for shown in [
        "<title>Nightingale &amp; Sons: a Nostr relay</title>",
        "<h1 dir=\"auto\">Nightingale &amp; Sons</h1>",
        "<p class=\"told\" dir=\"auto\">For the people of &lt;the valley&gt;.</p>",
        "<p class=\"told\" dir=\"auto\">Be kind; we keep\nno logs.</p>",
        "<strong>test-fleet</strong>",
        "<code>wss://relay.example.org</code>",
        "<code>nightjar relays set wss://relay.example.org --via wss://relay.example.org</code>",
        "<code>nightjar send npub1... 'hello' --via wss://relay.example.org</code>",
        "<dd>north</dd>",
        "<dd>Replicated: ",
        "<dd>90 days",
        "<a href=\"mailto:ops@example.org\" rel=\"noreferrer\">ops@example.org</a>",
        "<a href=\"nostr:npub1sg6plzptd64u62a878hep2kev88swjh3tw00gjsfl8f237lmu63q0uf63m\" rel=\"noreferrer\">npub1",
        "<a href=\"https://example.org/terms\" rel=\"noreferrer\">Terms of service</a>",
        "<a href=\"https://example.org/privacy\" rel=\"noreferrer\">Privacy policy</a>",
        "<a href=\"https://example.org/posting\" rel=\"noreferrer\">Posting policy</a>",
        "<a href=\"https://github.com/nostr-protocol/nips/blob/master/01.md\" rel=\"noreferrer\">NIP-01</a> events and",
        "<a href=\"https://github.com/nostr-protocol/nips/blob/master/77.md\" rel=\"noreferrer\">NIP-77</a>",
    ] {
        assert!(page.contains(shown), "{shown} in\n{page}");
    }
    assert!(!page.contains("icon.png"), "its host would learn who looks");
    assert!(!page.contains("{{"), "an empty slot in\n{page}");
}

#[test]
fn what_is_not_configured_leaves_nothing_behind() {
    let page = page(|config| {
        config.log.replicas = 1;
        config.public_urls.pop();
        config.info.name = Some("  ".to_owned());
        config.info.description = Some("\n\n \n\n".to_owned());
    });
    assert!(page.contains("<h1 dir=\"auto\">test-fleet</h1>"), "{page}");
    assert!(
        page.contains("<code>ws://north.cluster.test:4001</code>"),
        "{page}"
    );
    assert!(page.contains("<dd>Development: "), "{page}");
    for absent in [
        "class=\"told\"",
        "Contact",
        "Operator",
        "policy",
        "Terms",
        "proof of work",
        "authenticate",
        "members",
        "{{",
    ] {
        assert!(!page.contains(absent), "{absent} in\n{page}");
    }
}

#[test]
fn proof_of_work_is_named_where_it_is_asked_for() {
    let page = page(|config| config.limits.min_pow_difficulty = 20);
    assert!(page.contains("of difficulty 20 on"), "{page}");
    assert!(page.contains(">NIP-13</a> proof of work"), "{page}");
}

#[test]
fn what_is_asked_of_senders_is_named_where_it_is_asked() {
    let auth = |auth_required| page(|config| config.admission.auth_required = auth_required);
    assert!(auth(AuthRequired::Writes).contains("must authenticate (NIP-42) to send."));
    assert!(auth(AuthRequired::Always).contains("to send and to read"));
    let trust = page(|config| config.admission.trust.roots = vec!["11".repeat(32)]);
    assert!(trust.contains("from its members"), "{trust}");
}

#[test]
fn every_nip_has_a_title() {
    let config = config(|config| config.limits.min_pow_difficulty = 1);
    for nip in nip11::supported_nips(&config) {
        assert_ne!(title_of(nip), "", "NIP {nip}");
    }
}

#[test]
fn only_harmless_schemes_become_links() {
    for (contact, is_link) in [
        ("https://example.org", true),
        ("MAILTO:ops@example.org", true),
        ("nostr:npub1x", true),
        ("javascript:alert(1)", false),
        (" javascript:alert(1)", false),
        ("data:text/html,x", false),
        ("ops at example.org", false),
        ("é", false),
    ] {
        let html = linked(contact).into_string();
        assert_eq!(html.starts_with("<a href"), is_link, "{html}");
    }
}

#[test]
fn a_line_to_copy_is_one_word_for_a_shell() {
    for (url, word) in [
        ("wss://a.example.org:443/x", "wss://a.example.org:443/x"),
        ("ws://[::1]:4001", "'ws://[::1]:4001'"),
        ("wss://x; rm -rf ~", "'wss://x; rm -rf ~'"),
        ("wss://it's", r"'wss://it'\''s'"),
        ("", "''"),
    ] {
        assert_eq!(shell_word(url), word);
    }
}

/// What is between `<style>` and `</style>` is what a browser hashes.
#[test]
fn the_policy_allows_the_style_that_is_sent_and_nothing_else() {
    let config = config(|config| everything(&mut config.info));
    let page = render(&config);
    let style = page
        .split_once("<style>")
        .and_then(|(_, rest)| rest.split_once("</style>"))
        .expect("a style")
        .0;
    let hash = STANDARD.encode(Sha256::digest(style));
    let response = response(&config);
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .expect("text");
    assert!(
        policy.starts_with(&format!(
            "default-src 'none'; style-src 'sha256-{hash}'; base-uri"
        )),
        "{policy}"
    );
    assert_eq!(page.matches("<style").count(), 1);
    for forbidden in [
        "<script", "<img", "<link", "<iframe", "<form", "style=", "url(", "@import", "onload",
    ] {
        assert!(!page.contains(forbidden), "{forbidden} in\n{page}");
    }
}

/// The names of the tags, in order.
fn tags(page: &str) -> Vec<&str> {
    page.split('<')
        .skip(1)
        .map(|tag| tag.split([' ', '>', '\n']).next().unwrap_or_default())
        .collect()
}

/// Text as a browser shows it.
fn shown(html: &str) -> String {
    html.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&amp;", "&")
}

fn hostile() -> impl Strategy<Value = String> {
    "x\\PC{0,20}|x([<>&\"'{}=/a-z ]|</p>|\\{\\{name\\}\\}|<script>|&lt;|\" onclick=\"){0,12}"
}

proptest! {
    #[test]
    fn escaped_text_reads_as_it_was_and_holds_no_markup(text in "\\PC*|[<>&\"'a;#]{0,40}") {
        let html = Html::text(&text).into_string();
        prop_assert!(!html.contains(['<', '>', '"', '\'']), "{}", html);
        for after in html.split('&').skip(1) {
            let known = ["amp;", "lt;", "gt;", "quot;", "#39;"];
            prop_assert!(known.iter().any(|entity| after.starts_with(entity)), "{}", html);
        }
        prop_assert_eq!(shown(&html), text);
    }

    #[test]
    fn no_text_of_the_configuration_changes_the_markup(
        (name, description, contact, path) in (hostile(), hostile(), hostile(), hostile())
    ) {
        let with = |name: &str, description: &str, contact: &str, path: &str| page(|config| {
            everything(&mut config.info);
            config.info.name = Some(name.to_owned());
            config.info.description = Some(description.to_owned());
            config.info.contact = Some(contact.to_owned());
            config.info.terms_of_service = Some(format!("https://{path}"));
            config.public_urls = vec![format!("wss://{path}")];
        });
        let plain = with("x", "x", "x", "x");
        let page = with(&name, &description, &contact, &path);
        prop_assert_eq!(tags(&page), tags(&plain));
        for sign in ['<', '>', '"'] {
            prop_assert_eq!(page.matches(sign).count(), plain.matches(sign).count(), "{} in {}", sign, page);
        }
        let heading = format!("<h1 dir=\"auto\">{}</h1>", Html::text(name.trim()).into_string());
        prop_assert!(page.contains(&heading), "{} in {}", heading, page);
    }
}
