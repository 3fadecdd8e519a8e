//! Why admission refuses, as the client reads it and as the metrics count it.

use thiserror::Error;

use super::contact::Wanted;
use crate::event::EventError;
use crate::http_auth::HttpAuthError;
use crate::log::PublishError;
use crate::metrics::{EventResult, LimitRule};

/// The answer to an event that is not published. `Display` is the message of its OK, with the NIP-01 prefix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Shape, id or signature.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The author's clock, or the author, is ahead.
    #[error("invalid: created_at is {ahead} s ahead of this relay's clock, the limit is {limit} s")]
    TooFarAhead {
        /// Seconds ahead.
        ahead: u64,
        /// The limit in seconds.
        limit: u64,
    },
    /// NIP-40: expired when it came.
    #[error("invalid: the event expired {ago} s ago")]
    Expired {
        /// Seconds since then.
        ago: u64,
    },
    /// Already known; also a wrap that was deleted or has expired, so that nobody learns which.
    #[error("duplicate: already have this event")]
    Duplicate,
    /// A newer version of a replaceable or addressable event is known.
    #[error("duplicate: a newer version of this event is known")]
    Superseded,
    /// The event was deleted by its author.
    #[error("blocked: this event was deleted by its author")]
    Deleted,
    /// Kinds that are credentials.
    #[error("blocked: kind {kind} is a credential and is never stored or passed on")]
    Credential {
        /// The kind.
        kind: u16,
    },
    /// Too many tags.
    #[error("invalid: the event has {count} tags, the limit is {limit} (max_event_tags)")]
    TooManyTags {
        /// How many it has.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// NIP-13: the id shows too little work.
    #[error("pow: difficulty {required} is required, this event has {found}")]
    TooLittleWork {
        /// Leading zero bits that the id must have.
        required: u32,
        /// Those that it has.
        found: u32,
    },
    /// NIP-13: the id shows enough work by luck, its author aimed at less.
    #[error(
        "pow: difficulty {required} is required, the nonce tag of this event commits to {committed}; mine it with a nonce \
         tag that names {required} or more"
    )]
    TooLowTarget {
        /// Leading zero bits that the id must have.
        required: u32,
        /// The target in the nonce tag.
        committed: u32,
    },
    /// NIP-70: only the author may publish this, after AUTH.
    #[error("auth-required: this event is protected, only its author may publish it")]
    Protected,
    /// NIP-70: another key authenticated than the author's.
    #[error("restricted: this event is protected, only its author may publish it")]
    ProtectedByAnother,
    /// NIP-70: a repost that carries a protected event.
    #[error("blocked: this repost carries a protected event")]
    ProtectedRepost,
    /// NIP-62: a request to vanish that is not for this relay.
    #[error("invalid: this request to vanish names other relays")]
    OtherRelays,
    /// An administrator banned the author, or the configuration denies them.
    #[error("blocked: this key is banned here")]
    BannedKey,
    /// An administrator banned the event.
    #[error("blocked: this event is banned here")]
    BannedEvent,
    /// An administrator disallowed the kind, or the configuration denies it.
    #[error("blocked: kind {kind} is not taken here")]
    DisallowedKind {
        /// The kind.
        kind: u16,
    },
    /// Only kinds on a list are taken.
    #[error(
        "blocked: only kinds on this relay's list are taken here, and kind {kind} is not on it"
    )]
    KindNotAllowed {
        /// The kind.
        kind: u16,
    },
    /// Only keys on a list may publish.
    #[error(
        "restricted: only keys on this relay's allow list may publish here, and this key is not on it"
    )]
    KeyNotAllowed,
    /// A gift wrap for a key that is not on the list, from nobody that is known.
    #[error(
        "auth-required: this relay takes gift wraps for keys on its allow list, and from such keys once they have authenticated"
    )]
    WrapNeedsAuth,
    /// A gift wrap neither from nor for a key on the list.
    #[error(
        "restricted: this relay takes gift wraps for keys on its allow list and from such keys, and neither the recipient nor who \
         authenticated is on it"
    )]
    WrapNotAllowed,
    /// NIP-98: no authorization of this request.
    #[error("auth-required: {0}")]
    HttpAuth(#[from] HttpAuthError),
    /// Only clients that have authenticated may publish.
    #[error("auth-required: this relay takes events from clients that have authenticated")]
    WriteNeedsAuth,
    /// Only clients that have authenticated may read.
    #[error("auth-required: this relay answers clients that have authenticated")]
    ReadNeedsAuth,
    /// A gift wrap that came in none of the ways that are open to it.
    #[error("{prefix}: {0}", prefix = .0.prefix())]
    StrangeWrap(Wanted),
    /// The author is not in the web of trust.
    #[error(
        "restricted: this relay takes events from its members and from whom they follow, and this author is not among them"
    )]
    Untrusted,
    /// A gift wrap from nobody that is known, where a web of trust is asked.
    #[error(
        "auth-required: this relay takes gift wraps from its members and from whom they follow, once they have authenticated"
    )]
    UntrustedStranger,
    /// A gift wrap from somebody who is not in the web of trust.
    #[error(
        "restricted: this relay takes gift wraps from its members and from whom they follow, and nobody who authenticated is \
         among them"
    )]
    UntrustedSender,
    /// NIP-42: not an answer to this connection's challenge.
    #[error("invalid: {0}")]
    Auth(AuthProblem),
    /// NIP-42: as many keys as a connection may have.
    #[error("restricted: {limit} keys have authenticated on this connection already")]
    TooManyReaders {
        /// The limit.
        limit: usize,
    },
    /// A rate or an amount.
    #[error("rate-limited: {text}")]
    Limited {
        /// The rule, for metrics.
        rule: LimitRule,
        /// What is limited, and by how much.
        text: String,
    },
    /// Publishers without AUTH have used their share.
    #[error("auth-required: publishers without AUTH have used their share of this relay's storage")]
    ShareUsed,
    /// The write policy does not want it.
    #[error("{text}")]
    Policy {
        /// The reason, with its prefix.
        text: String,
        /// What it counts as.
        result: EventResult,
    },
    /// The write policy failed, and fails closed.
    #[error("error: the write policy does not answer, try again later")]
    PolicyFailed,
    /// The publisher could not.
    #[error("{prefix}: {0}", prefix = .0.prefix())]
    Publish(PublishError),
    /// The relay itself failed.
    #[error("error: {0}, send it again")]
    Failed(&'static str),
}

/// What is wrong with the event of an AUTH (NIP-42).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AuthProblem {
    /// Not kind 22242.
    #[error("an AUTH event has kind 22242, this one has kind {0}")]
    Kind(u16),
    /// Too old or too new.
    #[error(
        "created_at is {away} s away from this relay's clock, an AUTH event may be {limit} s away"
    )]
    Time {
        /// Seconds away.
        away: u64,
        /// The limit in seconds.
        limit: u64,
    },
    /// Another challenge, or none, or several.
    #[error("the challenge tag is not the challenge of this connection")]
    Challenge,
    /// The relay tag names another host, or none.
    #[error("the relay tag does not name this relay")]
    Relay,
}

impl Refusal {
    /// A refusal by rate or amount.
    pub(super) fn limited(rule: LimitRule, text: impl Into<String>) -> Self {
        Self::Limited {
            rule,
            text: text.into(),
        }
    }

    /// The second element of the OK: whether the client may forget the event.
    pub fn accepted(&self) -> bool {
        matches!(self, Self::Duplicate | Self::Superseded)
    }

    /// Whether one more entry on a list would have let it pass.
    pub fn is_for_want_of_an_entry(&self) -> bool {
        matches!(
            self,
            Self::KindNotAllowed { .. }
                | Self::KeyNotAllowed
                | Self::WrapNeedsAuth
                | Self::WrapNotAllowed
        )
    }

    /// What the metrics count.
    pub fn result(&self) -> EventResult {
        match self {
            Self::Duplicate | Self::Superseded => EventResult::duplicate,
            Self::Event(_)
            | Self::TooFarAhead { .. }
            | Self::Expired { .. }
            | Self::TooManyTags { .. }
            | Self::OtherRelays
            | Self::Auth(_) => EventResult::invalid,
            Self::Deleted
            | Self::Credential { .. }
            | Self::ProtectedRepost
            | Self::BannedKey
            | Self::BannedEvent
            | Self::DisallowedKind { .. }
            | Self::KindNotAllowed { .. } => EventResult::blocked,
            Self::TooLittleWork { .. } | Self::TooLowTarget { .. } => EventResult::pow,
            Self::Protected
            | Self::ShareUsed
            | Self::WriteNeedsAuth
            | Self::ReadNeedsAuth
            | Self::UntrustedStranger
            | Self::WrapNeedsAuth
            | Self::HttpAuth(_) => EventResult::auth_required,
            Self::ProtectedByAnother
            | Self::TooManyReaders { .. }
            | Self::Untrusted
            | Self::UntrustedSender
            | Self::KeyNotAllowed
            | Self::WrapNotAllowed => EventResult::restricted,
            Self::StrangeWrap(wanted) => match wanted.prefix() {
                "auth-required" => EventResult::auth_required,
                "pow" => EventResult::pow,
                _ => EventResult::restricted,
            },
            Self::Limited { .. } => EventResult::rate_limited,
            Self::Publish(error) => match error.prefix() {
                "invalid" => EventResult::invalid,
                "rate-limited" => EventResult::rate_limited,
                _ => EventResult::error,
            },
            Self::Policy { result, .. } => *result,
            Self::PolicyFailed | Self::Failed(_) => EventResult::error,
        }
    }

    /// The rule, if this is a refusal by rate or amount.
    pub fn rule(&self) -> Option<LimitRule> {
        match self {
            Self::Limited { rule, .. } => Some(*rule),
            Self::ShareUsed => Some(LimitRule::unauthenticated_share),
            _ => None,
        }
    }
}
