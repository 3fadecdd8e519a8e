//! Any configuration that is written reads back, and any text is read or refused.

use proptest::prelude::*;

use super::*;

fn any_limits() -> impl Strategy<Value = Limits> {
    (
        (16_usize << 10..=16 << 20),
        1..=100_000_usize,
        0.001..1e6_f64,
        1..=u32::MAX,
        0.0..=1.0_f64,
        0..=8_u64,
        0..=64_u32,
        5..=3_600_u64,
    )
        .prop_map(
            |(
                max_message_length,
                max_limit,
                rate,
                burst,
                share,
                drain_seconds,
                min_pow_difficulty,
                ping_interval_seconds,
            )| Limits {
                max_message_length,
                max_limit,
                default_limit: max_limit.min(500),
                events_per_second_per_connection: rate,
                events_burst_per_address: burst,
                in_flight_publish_bytes_per_connection: max_message_length,
                unauthenticated_log_share: share,
                drain_seconds,
                min_pow_difficulty,
                ping_interval_seconds,
                idle_timeout_seconds: ping_interval_seconds * 3,
                ..Limits::default()
            },
        )
}

fn any_info() -> impl Strategy<Value = RelayInfo> {
    let text = || {
        proptest::option::of("\\PC{0,25}|[ \n\t:#'\"{}&*!|>%@`-]{0,20}|(yes|no|null|~|1e3|0x1F|on)")
    };
    (
        text(),
        text(),
        text(),
        proptest::option::of("[0-9a-f]{64}"),
        proptest::option::of("https?://[a-z:# ]{1,20}"),
    )
        .prop_map(|(name, description, contact, pubkey, icon)| RelayInfo {
            name,
            description,
            contact,
            pubkey,
            icon,
            ..RelayInfo::default()
        })
}

fn any_regions() -> impl Strategy<Value = Vec<RegionLog>> {
    proptest::collection::btree_map(
        "[a-z][a-z0-9-]{0,30}|yes|no|null|on",
        (1..=u32::MAX, 1..=64_u8, 1..=64_u8),
        1..5,
    )
    .prop_map(|regions| {
        regions
            .into_iter()
            .map(
                |(name, (generation, message_shards, state_shards))| RegionLog {
                    region: name.parse().unwrap(),
                    generation,
                    message_shards,
                    state_shards,
                },
            )
            .collect()
    })
}

/// What is asked of who sends; the lists are empty.
fn any_questions() -> impl Strategy<Value = AdmissionConfig> {
    let auth_required = prop_oneof![
        Just(AuthRequired::Never),
        Just(AuthRequired::Writes),
        Just(AuthRequired::Always),
    ];
    let ways = [
        FirstContact::Auth,
        FirstContact::ProofOfWork,
        FirstContact::Known,
    ];
    let any_of = proptest::sample::subsequence(ways.to_vec(), 0..=ways.len()).prop_shuffle();
    let roots = proptest::collection::vec("[0-9a-f]{64}", 0..3);
    (
        auth_required,
        any_of,
        1_u32..=64,
        roots,
        1_u8..=2,
        10_u64..=86_400,
        (0_u32..=100_000, 1_u32..=1_000_000),
    )
        .prop_map(
            |(
                auth_required,
                any_of,
                proof_of_work_difficulty,
                roots,
                depth,
                refresh_seconds,
                (events_per_minute, burst),
            )| {
                AdmissionConfig {
                    auth_required,
                    gift_wraps: GiftWrapAdmission {
                        any_of,
                        proof_of_work_difficulty,
                    },
                    trust: TrustConfig {
                        roots,
                        depth,
                        refresh_seconds,
                    },
                    key_budget: KeyBudget {
                        events_per_minute,
                        burst,
                    },
                    ..AdmissionConfig::default()
                }
            },
        )
}

fn any_admission() -> impl Strategy<Value = (AdmissionConfig, ManagementConfig)> {
    let keys = || proptest::collection::vec("[0-9a-f]{64}", 0..3);
    let kinds = || proptest::collection::vec(any::<u16>(), 0..3);
    (
        any::<bool>(),
        keys(),
        keys(),
        kinds(),
        kinds(),
        any_questions(),
    )
        .prop_map(
            |(listed, allow_pubkeys, deny_pubkeys, allow_kinds, deny_kinds, questions)| {
                let management = ManagementConfig {
                    admins: deny_pubkeys.clone(),
                };
                let admission = AdmissionConfig {
                    write: match listed {
                        true => WriteAccess::AllowedKeys,
                        false => WriteAccess::Everyone,
                    },
                    kinds: match listed {
                        true => KindAccess::AllowedKinds,
                        false => KindAccess::All,
                    },
                    allow_pubkeys,
                    deny_pubkeys,
                    allow_kinds,
                    deny_kinds,
                    ..questions
                };
                (admission, management)
            },
        )
}

fn any_config() -> impl Strategy<Value = RelayConfig> {
    let places = (
        "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
        any::<[u8; 4]>(),
        any::<[u8; 16]>(),
        1..=u16::MAX,
        "/[ -~]{1,30}",
    );
    let tracing = proptest::option::of((0.0..=1.0_f64).prop_map(|sample_ratio| TracingConfig {
        otlp_endpoint: "http://[::1]:4317".to_owned(),
        sample_ratio,
    }));
    (
        places,
        any_regions(),
        any_info(),
        any_limits(),
        any_admission(),
        tracing,
        any::<bool>(),
        16_u64 << 20..=u64::MAX >> 1,
    )
        .prop_map(
            |(
                (name, v4, bytes, port, path),
                regions,
                info,
                limits,
                (admission, management),
                tracing,
                sweeper,
                max_bytes,
            )| RelayConfig {
                fleet: FleetRef {
                    id: nightjar_envelope::FleetId::from_bytes(bytes),
                    name: name.clone(),
                },
                region: regions[0].region.clone(),
                listen: (v4, port).into(),
                admin: (bytes, port).into(),
                public_urls: vec![
                    format!("wss://{name}.example.org/"),
                    format!("ws://127.0.0.1:{port}"),
                ],
                nats: NatsClient {
                    servers: vec![format!("tls://{name}:{port}")],
                    nkey_seed_file: path.clone().into(),
                    ca_file: sweeper.then(|| path.clone().into()),
                },
                keyring_file: path.clone().into(),
                tls: sweeper.then(|| TlsFiles {
                    cert_file: path.clone().into(),
                    key_file: path.clone().into(),
                }),
                trusted_proxies: vec![
                    crate::IpNet::new(v4.into(), 20).unwrap(),
                    crate::IpNet::new(bytes.into(), 48).unwrap(),
                ],
                allowed_origins: vec![format!("https://{name}.example.org")],
                index: IndexConfig {
                    dir: path.into(),
                    max_bytes,
                },
                log: LogConfig {
                    replicas: if sweeper { 1 } else { 3 },
                    message_retention_seconds: 30 * 86_400 + u64::from(port),
                    regions,
                },
                name,
                sweeper,
                info,
                limits,
                admission,
                management,
                plugins: Plugins {
                    write: sweeper.then(|| any_plugin("_A1")),
                    read: (port > 9).then(|| any_plugin("b")),
                },
                tracing,
            },
        )
}

proptest! {
    #[test]
    fn what_is_written_reads_back(config in any_config()) {
        let yaml = config.to_yaml();
        prop_assert_eq!(RelayConfig::from_yaml(&yaml).unwrap(), config);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*|([a-z_]{1,12}: [\\[{\"'&*]?[a-z0-9]{0,5}\n){0,9}") {
        let _ = RelayConfig::from_yaml(&text);
    }
}
