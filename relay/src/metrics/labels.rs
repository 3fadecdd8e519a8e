//! The closed labels of the relay's own metrics. A label holds one of the words here, never what a client sent.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};

/// Declares a closed label: its enum, its single-label set, and the list of all values (for zero series).
macro_rules! closed_label {
    ($(#[$doc:meta])* $name:ident, $set:ident, $label:ident, { $($values:tt)* }) => {
        closed_label!($(#[$doc])* $name, { $($values)* });

        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub(super) struct $set {
            pub(super) $label: $name,
        }
    };
    ($(#[$doc:meta])* $name:ident, { $($(#[$vdoc:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
        #[allow(non_camel_case_types)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every value of the label.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }
    };
}

closed_label!(
    /// How a WebSocket handshake ended.
    Handshake, HandshakeLabels, result, {
        /// A session was opened.
        ok,
        /// The relay holds as many connections as it may.
        relay_full,
        /// This address holds as many connections as it may.
        address_full,
        /// A web page of an origin that is not allowed.
        origin_refused,
        /// The relay is draining.
        not_ready,
        /// The request was no valid upgrade.
        bad_request,
    }
);

closed_label!(
    /// Why a WebSocket connection ended.
    Close, {
        /// The client closed it, or its network did.
        client,
        /// The client did not read fast enough and its out-queue was full.
        slow_reader,
        /// Nothing was heard from the client, not even a pong.
        idle,
        /// A message was larger than the hard limit.
        too_large,
        /// The client broke the WebSocket protocol.
        protocol,
        /// The relay is going away.
        drain,
    }
);

closed_label!(
    /// A step of NIP-42 authentication.
    AuthStep, AuthLabels, step, {
        /// A challenge was sent.
        challenged,
        /// An AUTH event was accepted.
        ok,
        /// An AUTH event was refused.
        failed,
        /// An AUTH attempt was refused by the rate limit, unseen.
        limited,
    }
);

closed_label!(
    /// The answer to an EVENT, by the machine-readable prefix of its OK.
    EventResult, EventLabels, result, {
        /// Stored, durable and visible; or handed on, if ephemeral.
        ok,
        /// Already known.
        duplicate,
        /// Malformed, badly signed, expired, or against a stated limit.
        invalid,
        /// A rate limit or a full queue.
        rate_limited,
        /// The event shows less proof of work than is asked for.
        pow,
        /// The publisher must authenticate first.
        auth_required,
        /// The publisher may not do this here.
        restricted,
        /// The relay does not take this.
        blocked,
        /// The relay failed; the publisher may send it again.
        error,
    }
);

closed_label!(
    /// A stage of admission.
    Stage, StageLabels, stage, {
        /// Waiting for a signature worker.
        queue,
        /// Parsing, rules, and the signature check.
        verify,
        /// From admission to the durable and visible answer.
        publish,
    }
);

closed_label!(
    /// The rule that refused something for its rate or amount.
    LimitRule, LimitLabels, rule, {
        /// Events a second of one connection.
        events_connection,
        /// Events a second of one address prefix.
        events_address,
        /// The budget of one key over the fleet.
        events_key,
        /// REQs and other reads a second of one connection.
        reqs_connection,
        /// AUTH attempts a minute of one connection.
        auth_attempts,
        /// Bytes under way of one connection.
        in_flight_connection,
        /// Bytes under way of the whole relay.
        in_flight_relay,
        /// The share of the log that publishers without AUTH may use.
        unauthenticated_share,
        /// Open subscriptions of one connection.
        subscriptions,
        /// The queue of the signature workers.
        verify_queue,
        /// Events in the open reconciliations of one connection, or of the whole relay.
        reconciled_events,
        /// Messages a second that were no valid request.
        bad_messages,
    }
);

closed_label!(
    /// Where a private read was refused or left out.
    Door, DoorLabels, door, {
        /// A REQ whose filter names private kinds, from a client without AUTH.
        req,
        /// A COUNT of the same sort.
        count,
        /// A NEG-OPEN of the same sort.
        neg,
        /// A stored event at output. Must stay 0: the index reads only the keyspaces of the reader.
        stored,
        /// A REQ with a cursor that does not speak of the private messages of one of its readers.
        arrival,
        /// A live event that matched a subscription whose reader may not see it.
        live,
    }
);

closed_label!(
    /// How a management call ended, by the prefix of its error.
    CallOutcome, {
        /// Answered.
        ok,
        /// Malformed, or overtaken by a later change.
        invalid,
        /// Not authorized, or with an authorization that was used before.
        auth_required,
        /// Not for this key, or not for this relay.
        restricted,
        /// Too many events and calls from one address.
        rate_limited,
        /// The relay failed; the caller may call again.
        error,
    }
);

/// The method of a management call, `none` if it has none that the relay knows, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CallLabels {
    pub(super) method: &'static str,
    pub(super) outcome: CallOutcome,
}

closed_label!(
    /// Where an event came from when it was offered to the live subscriptions.
    LiveSource, SourceLabels, source, {
        /// This relay's own publisher.
        publisher,
        /// A core NATS hint.
        hint,
        /// The pull consumer.
        consumer,
        /// An ephemeral message.
        ephemeral,
    }
);

closed_label!(
    /// Whether a send kept its promise, for the service level.
    Sli, SliLabels, result, {
        /// Answered as promised, also when the client was in the wrong.
        good,
        /// The relay failed the client.
        bad,
    }
);

closed_label!(
    /// A policy program.
    PluginName, {
        /// Asked for events.
        write,
        /// Asked for REQ, COUNT and NEG-OPEN.
        read,
    }
);

closed_label!(
    /// What a policy program answered.
    PluginAnswer, {
        /// It had nothing against it.
        accepted,
        /// The client was told a reason.
        rejected,
        /// The client was told that all is well.
        shadow_rejected,
    }
);

closed_label!(
    /// Why a question to a policy program was not answered.
    PluginFailure, {
        /// Not in time.
        timeout,
        /// The program ended, or was ended for what it did, before it answered.
        exit,
        /// It answered with something that it may not answer.
        nonsense,
        /// It was not running.
        down,
        /// Too many questions were waiting already.
        full,
    }
);

/// Why a connection ended, and the close code that its client was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CloseLabels {
    code: &'static str,
    reason: Close,
}

impl From<Close> for CloseLabels {
    fn from(reason: Close) -> Self {
        let code = reason.code_text();
        Self { code, reason }
    }
}

impl Close {
    /// The WebSocket close code that goes with the reason; `none` when there is nobody to tell.
    pub fn code_text(self) -> &'static str {
        match self {
            Self::client => "none",
            Self::drain => "1001",
            Self::protocol => "1002",
            Self::slow_reader | Self::idle => "1008",
            Self::too_large => "1009",
        }
    }
}
