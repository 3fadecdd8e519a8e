//! Every metric of the operator by name, type, labels and meaning, and the page that is made of them. Pure.

use std::fmt::Write as _;

/// A metric: name as it is scraped, type, labels, meaning.
type Row = (&'static str, &'static str, &'static str, &'static str);

/// Every metric of the operator.
pub const TABLE: &[Row] = &[
    (
        "nj_operator_build_info",
        "gauge",
        "version",
        "1, for the version that runs",
    ),
    (
        "nj_operator_leader",
        "gauge",
        "",
        "1 while this operator holds the lease, else 0",
    ),
    (
        "nj_operator_reconciles_total",
        "counter",
        "outcome",
        "Passes over fleets: applied, unchanged, waiting, failed",
    ),
    (
        "nj_operator_reconcile_seconds",
        "histogram",
        "",
        "Time of a pass, in seconds",
    ),
    (
        "nj_operator_api_writes_total",
        "counter",
        "kind, verb",
        "Objects written: apply, putback, recreate, delete",
    ),
    (
        "nj_operator_fleets",
        "gauge",
        "",
        "Fleets that are looked after",
    ),
    (
        "nj_operator_last_success_timestamp_seconds",
        "gauge",
        "namespace, fleet",
        "When a pass last went through",
    ),
    (
        "nj_fleet_condition",
        "gauge",
        "namespace, fleet, type",
        "A condition: 1 true, 0 false, -1 unknown",
    ),
    (
        "nj_fleet_waiting_for",
        "gauge",
        "namespace, fleet, what, region",
        "Seconds since the fleet began to wait for this; region is empty where it concerns the fleet",
    ),
    (
        "nj_fleet_key_epochs",
        "gauge",
        "namespace, fleet, state",
        "Key epochs by state",
    ),
    (
        "nj_fleet_certificate_expiry_timestamp_seconds",
        "gauge",
        "namespace, fleet, region, issuer",
        "When the first certificate of a region ends",
    ),
    (
        "nj_fleet_pods",
        "gauge",
        "namespace, fleet, region, role, state",
        "Pods: wanted, ready, outdated",
    ),
    (
        "nj_region_reachable",
        "gauge",
        "namespace, fleet, region",
        "1 if the region's NATS servers answer the operator",
    ),
    (
        "nj_nats_servers",
        "gauge",
        "namespace, fleet, region, role, state",
        "NATS servers: wanted, answering, healthy",
    ),
    (
        "nj_nats_leafs",
        "gauge",
        "namespace, fleet, region, server",
        "Leaf links of a server",
    ),
    (
        "nj_nats_gateways",
        "gauge",
        "namespace, fleet, region, server",
        "Other regions that a hub reaches",
    ),
    (
        "nj_stream_leader",
        "gauge",
        "namespace, fleet, region, stream, server",
        "1 for the server that leads a stream",
    ),
    (
        "nj_stream_leader_changes_total",
        "counter",
        "namespace, fleet, region, stream",
        "Times that another server was seen to lead a stream",
    ),
    (
        "nj_stream_messages",
        "gauge",
        "namespace, fleet, region, stream",
        "Entries of a stream",
    ),
    (
        "nj_stream_bytes",
        "gauge",
        "namespace, fleet, region, stream",
        "Bytes of a stream",
    ),
    (
        "nj_stream_max_bytes",
        "gauge",
        "namespace, fleet, region, stream",
        "Bytes that a stream may have; only of streams that the region writes",
    ),
    (
        "nj_stream_last_sequence",
        "gauge",
        "namespace, fleet, region, stream",
        "Sequence of the last entry",
    ),
    (
        "nj_stream_replica_current",
        "gauge",
        "namespace, fleet, region, stream, server",
        "1 if the replica has everything its leader has",
    ),
    (
        "nj_stream_replica_lag",
        "gauge",
        "namespace, fleet, region, stream, server",
        "Entries that a replica is behind its leader",
    ),
    (
        "nj_mirror_lag",
        "gauge",
        "namespace, fleet, region, stream, of",
        "Entries that a copy is behind its origin, as it knows itself",
    ),
    (
        "nj_mirror_silence_seconds",
        "gauge",
        "namespace, fleet, region, stream, of",
        "Time since a copy heard of its origin",
    ),
    (
        "nj_jetstream_storage_used_bytes",
        "gauge",
        "namespace, fleet, region, server",
        "Bytes that a server stores",
    ),
    (
        "nj_jetstream_storage_max_bytes",
        "gauge",
        "namespace, fleet, region, server",
        "Bytes that a server may store",
    ),
];

/// The table as a page.
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "<!-- Generated from operator/src/cluster/metrics_table.rs by `cargo xtask generate`; changes here are lost. -->\n\n# Metrics of the operator\n\n\
         On `/metrics` of the operator, port 8080. Those of fleets are served by the leader.\n\n| name | type | labels | meaning |\n| --- | --- | --- | --- |\n",
    );
    for (name, kind, labels, meaning) in TABLE {
        let labels: Vec<String> = labels
            .split(", ")
            .filter(|label| !label.is_empty())
            .map(|label| format!("`{label}`"))
            .collect();
        let labels = labels.join(", ");
        let _ = writeln!(page, "| `{name}` | {kind} | {labels} | {meaning} |");
    }
    page
}
