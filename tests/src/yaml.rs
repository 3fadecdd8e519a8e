//! RelayCluster files for tests.

/// A small fleet with the given regions: `replicas` NATS servers and one relay each.
pub fn fleet(regions: &[&str], replicas: u8) -> String {
    let regions: String = regions
        .iter()
        .map(|name| format!("    - {{name: {name}, relays: {{replicas: 1}}, nats: {{replicas: {replicas}, storage: 2Gi}}}}\n"))
        .collect();
    format!(
        "apiVersion: nightjar.dev/v1alpha1\nkind: RelayCluster\nmetadata: {{name: test}}\nspec:\n  regions:\n{regions}  \
         log: {{maxBytesPerRegion: 256Mi}}\n  relay:\n    info: {{name: test relay}}\n    limits:\n{GENEROUS}"
    )
}

/// The same fleet, managed by this key (NIP-86).
pub fn managed_fleet(regions: &[&str], replicas: u8, admin: &str) -> String {
    let management = format!("  relay:\n    management: {{admins: [{admin}]}}\n");
    fleet(regions, replicas).replace("  relay:\n", &management)
}

/// Tests come from one address, and some of them publish fast.
const GENEROUS: &str = "      eventsPerSecondPerConnection: 1000
      eventsBurstPerConnection: 5000
      eventsPerSecondPerAddress: 5000
      eventsBurstPerAddress: 20000
      reqsPerSecondPerConnection: 1000
      reqsBurstPerConnection: 5000
      readPercentPerConnection: 100
";
