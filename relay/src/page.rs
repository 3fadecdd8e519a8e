//! What a person sees who opens the relay's address in a browser. One template; no script, nothing loaded from anywhere, and nothing
//! about who asks. The icon of NIP-11 is left out: its host would learn who looks.

mod html;

use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nightjar_config::{AdmissionConfig, AuthRequired, RelayConfig, RelayInfo};
use nostr::key::PublicKey;
use nostr::nips::nip19::ToBech32;
use sha2::{Digest, Sha256};

use crate::event::parse_hex;
use crate::nip11;
use html::Html;

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// Where the NIPs are read.
const NIPS: &str = "https://github.com/nostr-protocol/nips/blob/master/";
/// What a contact may be to become a link; anything else is shown as text.
const LINKED_SCHEMES: [&str; 4] = ["https:", "http:", "mailto:", "nostr:"];
const DAY_SECONDS: u64 = 86_400;

/// Allows the style of the template, by its hash, and nothing else.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        STANDARD.encode(Sha256::digest(STYLE))
    )
});

/// The page of a relay with this configuration.
pub(crate) fn response(config: &RelayConfig) -> Response {
    let mut response = render(config).into_response();
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        // Not for shared caches: some ignore Vary, and would give the page to clients that ask for NIP-11.
        (header::CACHE_CONTROL, "private, max-age=60"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn render(config: &RelayConfig) -> String {
    let name = name_of(config);
    let url = url_of(config);
    let page = Html::filled(TEMPLATE, |slot| match slot {
        "style" => Html::markup(STYLE),
        "title" => Html::text(&format!("{name}: a Nostr relay")),
        "name" => Html::text(name),
        "description" => description(&config.info),
        "fleet" => Html::text(&config.fleet.name),
        "url" => Html::text(url),
        "url_word" => Html::text(&shell_word(url)),
        "work" => work(config.limits.min_pow_difficulty),
        "senders" => senders(&config.admission),
        "region" => Html::text(config.region.as_str()),
        "durability" => durability(config.log.replicas),
        "retention" => {
            let days = config.log.message_retention_seconds / DAY_SECONDS;
            Html::text(&format!("{days} days, unless a message says less"))
        }
        "operator" => operator(&config.info),
        "nips" => nips(config),
        "links" => links(&config.info),
        "software" => Html::markup(env!("CARGO_PKG_REPOSITORY")),
        "version" => Html::markup(env!("CARGO_PKG_VERSION")),
        _ => Html::default(),
    });
    page.into_string()
}

fn name_of(config: &RelayConfig) -> &str {
    let given = config.info.name.as_deref().map(str::trim);
    given
        .filter(|name| !name.is_empty())
        .unwrap_or(&config.fleet.name)
}

/// The address for people: one with TLS if there is one. The first is often known only inside a cluster.
fn url_of(config: &RelayConfig) -> &str {
    let urls = &config.public_urls;
    let best = urls
        .iter()
        .find(|url| url.starts_with("wss://"))
        .or(urls.first());
    best.map_or("", String::as_str)
}

/// NIP-11 separates paragraphs by empty lines.
fn description(info: &RelayInfo) -> Html {
    let text = info.description.as_deref().unwrap_or_default();
    let mut html = Html::default();
    for paragraph in text.split("\n\n").map(str::trim).filter(|p| !p.is_empty()) {
        html.push(Html::markup("<p class=\"told\" dir=\"auto\">"));
        html.push(Html::text(paragraph));
        html.push(Html::markup("</p>\n"));
    }
    html
}

fn work(difficulty: u32) -> Html {
    if difficulty == 0 {
        return Html::default();
    }
    Html::filled(
        "<p>The client must do proof of work (NIP-13) of difficulty {{difficulty}} on everything it sends here; <code>nightjar</code> does \
         none.</p>\n",
        |_| Html::text(&difficulty.to_string()),
    )
}

/// What is asked of who sends, where it has to do with who they are.
fn senders(admission: &AdmissionConfig) -> Html {
    Html::markup(match admission.auth_required {
        _ if !admission.trust.roots.is_empty() => {
            "<p>It takes messages from its members and from whom they follow; the client must authenticate (NIP-42).</p>\n"
        }
        AuthRequired::Always => {
            "<p>The client must authenticate (NIP-42), to send and to read.</p>\n"
        }
        AuthRequired::Writes => "<p>The client must authenticate (NIP-42) to send.</p>\n",
        AuthRequired::Never => "",
    })
}

fn durability(replicas: u8) -> Html {
    Html::markup(if replicas >= 3 {
        "Replicated: a message is accepted once most of the region's servers hold it."
    } else {
        "Development: a message is accepted once one server holds it. Not for messages that matter."
    })
}

/// Whom to turn to.
fn operator(info: &RelayInfo) -> Html {
    let mut html = Html::default();
    if let Some(contact) = info.contact.as_deref().filter(|text| !text.is_empty()) {
        html.push(fact("Contact", linked(contact)));
    }
    let key = info.pubkey.as_deref().and_then(parse_hex::<32>);
    let npub = key.and_then(|key| PublicKey::from_byte_array(key).to_bech32().ok());
    if let Some(npub) = npub {
        html.push(fact("Operator", link(&format!("nostr:{npub}"), &npub)));
    }
    html
}

fn nips(config: &RelayConfig) -> Html {
    let mut html = Html::default();
    for nip in nip11::supported_nips(config) {
        let title = title_of(nip);
        html.push(Html::markup("<li>"));
        html.push(link(
            &format!("{NIPS}{nip:02}.md"),
            &format!("NIP-{nip:02}"),
        ));
        html.push(Html::markup(" "));
        html.push(Html::markup(title));
        html.push(Html::markup("</li>\n"));
    }
    html
}

/// What a NIP is about, in two or three words.
fn title_of(nip: u16) -> &'static str {
    match nip {
        1 => "events and subscriptions",
        9 => "deletion requests",
        11 => "relay information",
        13 => "proof of work",
        17 => "private messages",
        40 => "expiring events",
        42 => "authentication",
        45 => "counting",
        59 => "gift wraps",
        62 => "requests to vanish",
        67 => "complete answers",
        70 => "protected events",
        77 => "reconciliation",
        86 => "relay management",
        98 => "HTTP authorization",
        _ => "",
    }
}

fn links(info: &RelayInfo) -> Html {
    let mut html = Html::default();
    for (text, url) in [
        ("Terms of service", &info.terms_of_service),
        ("Privacy policy", &info.privacy_policy),
        ("Posting policy", &info.posting_policy),
    ] {
        if let Some(url) = url {
            html.push(link(url, text));
            html.push(Html::markup("\n"));
        }
    }
    html
}

fn fact(name: &'static str, value: Html) -> Html {
    let mut html = Html::markup("<div><dt>");
    html.push(Html::markup(name));
    html.push(Html::markup("</dt><dd>"));
    html.push(value);
    html.push(Html::markup("</dd></div>\n"));
    html
}

/// A link if the text is a URI of a harmless scheme. A script's is not.
fn linked(text: &str) -> Html {
    let is_link = LINKED_SCHEMES.iter().any(|scheme| {
        text.get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    if is_link {
        let shown = text.strip_prefix("mailto:").unwrap_or(text);
        link(text, shown)
    } else {
        Html::text(text)
    }
}

fn link(url: &str, text: &str) -> Html {
    let mut html = Html::markup("<a href=\"");
    html.push(Html::text(url));
    html.push(Html::markup("\" rel=\"noreferrer\">"));
    html.push(Html::text(text));
    html.push(Html::markup("</a>"));
    html
}

/// One word for a shell, as it is if it has no sign that a shell would look at.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:/@%+,=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests;
