//! The relay information document (NIP-11), with the fleet that this relay belongs to under `nightjar`.

use nightjar_config::{
    AdmissionConfig, AuthRequired, FirstContact, KindAccess, RelayConfig, WriteAccess,
};
use serde::Serialize;

/// Proof of work, which counts only where it is configured.
const PROOF_OF_WORK: u16 = 13;
/// Relay management and HTTP authorization, which are there only where there are administrators.
const MANAGEMENT: [u16; 2] = [86, 98];

/// What every relay serves, and is tested; nothing else.
pub const SUPPORTED_NIPS: [u16; 12] = [1, 9, 11, 17, 40, 42, 45, 59, 62, 67, 70, 77];

/// The document.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icon: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pubkey: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contact: Option<&'a str>,
    supported_nips: Vec<u16>,
    software: &'static str,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    terms_of_service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    privacy_policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    posting_policy: Option<&'a str>,
    limitation: Limitation,
    cursor: CursorOffer,
    nightjar: Nightjar,
}

/// The arrival cursor, as `docs/proposals/0001-arrival-cursor.md` offers it.
#[derive(Debug, Serialize)]
struct CursorOffer {
    version: u8,
    /// Seconds for which a cursor is understood.
    max_age: u64,
}

#[derive(Debug, Serialize)]
struct Limitation {
    max_message_length: usize,
    max_subscriptions: usize,
    max_limit: usize,
    max_subid_length: usize,
    max_event_tags: usize,
    max_filters: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_pow_difficulty: Option<u32>,
    default_limit: usize,
    auth_required: bool,
    payment_required: bool,
    restricted_writes: bool,
    created_at_upper_limit: u64,
}

/// Lets clients see which relays are one fleet, and how durable its OK is.
#[derive(Debug, Serialize)]
struct Nightjar {
    fleet: String,
    fleet_name: String,
    region: String,
    relay: String,
    durability: &'static str,
}

/// What a relay with this configuration serves, in ascending order.
pub fn supported_nips(config: &RelayConfig) -> Vec<u16> {
    let mut nips = SUPPORTED_NIPS.to_vec();
    let by_work = &config.admission.gift_wraps.any_of;
    if config.limits.min_pow_difficulty > 0 || by_work.contains(&FirstContact::ProofOfWork) {
        nips.push(PROOF_OF_WORK);
    }
    if !config.management.admins.is_empty() {
        nips.extend(MANAGEMENT);
    }
    nips.sort_unstable();
    nips
}

/// Whether a condition must be met to publish that has to do with who the client is or what it is for. What a gift wrap must come with is none:
/// that is there against spam, and a refusal says what to do.
fn restricts_writes(admission: &AdmissionConfig) -> bool {
    admission.write == WriteAccess::AllowedKeys
        || admission.kinds == KindAccess::AllowedKinds
        || admission.auth_required != AuthRequired::Never
        || !admission.trust.roots.is_empty()
}

impl<'a> Document<'a> {
    /// The document of a relay with this configuration.
    pub fn new(config: &'a RelayConfig) -> Self {
        let (info, limits) = (&config.info, &config.limits);
        Self {
            name: info.name.as_deref().or(Some(&config.fleet.name)),
            description: info.description.as_deref(),
            icon: info.icon.as_deref(),
            pubkey: info.pubkey.as_deref(),
            contact: info.contact.as_deref(),
            supported_nips: supported_nips(config),
            software: env!("CARGO_PKG_REPOSITORY"),
            version: env!("CARGO_PKG_VERSION"),
            terms_of_service: info.terms_of_service.as_deref(),
            privacy_policy: info.privacy_policy.as_deref(),
            posting_policy: info.posting_policy.as_deref(),
            limitation: Limitation {
                max_message_length: limits.max_message_length,
                max_subscriptions: limits.max_subscriptions,
                max_limit: limits.max_limit,
                max_subid_length: limits.max_subid_length,
                max_event_tags: limits.max_event_tags,
                max_filters: limits.max_filters,
                min_pow_difficulty: Some(limits.min_pow_difficulty).filter(|bits| *bits > 0),
                default_limit: limits.default_limit,
                auth_required: config.admission.auth_required == AuthRequired::Always,
                payment_required: false,
                restricted_writes: restricts_writes(&config.admission)
                    || config.plugins.write.is_some(),
                created_at_upper_limit: limits.created_at_ahead_seconds,
            },
            cursor: CursorOffer {
                version: 1,
                max_age: config.log.message_retention_seconds,
            },
            nightjar: Nightjar {
                fleet: config.fleet.id.to_string(),
                fleet_name: config.fleet.name.clone(),
                region: config.region.to_string(),
                relay: config.name.clone(),
                durability: if config.log.replicas >= 3 {
                    "replicated"
                } else {
                    "development"
                },
            },
        }
    }
}
