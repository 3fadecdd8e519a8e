//! The part of `cargo xtask test` on a real Kubernetes: finds a cluster or starts one, gives it the images, and takes down what it
//! started. Says what is missing where there can be none; writes no test.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::cluster;
use crate::run::{on_path, run, say};

/// The targets of `tests/tests/` that need a cluster, in the order in which they run: the first installs the operator.
pub(crate) const TARGETS: [&str; 2] = ["kubernetes", "fleet_cli"];
/// Tests wait for their turn by themselves: all wait at once, and few go on.
pub(crate) const THREADS: &str = "--test-threads=64";
/// Tags of the images that the tests ask for: relays and NATS servers differ by nothing but the name, operators by their version.
const TAGS: [&str; 2] = ["dev", "dev-2"];

/// A cluster for the tests; one that was started for them is taken down at the end.
pub(crate) struct Ready {
    /// Environment of the tests.
    pub(crate) environment: Vec<(String, OsString)>,
    started: bool,
}

impl Ready {
    /// Finds or starts a cluster. Where there can be none, the environment tells the tests why.
    pub(crate) fn prepare() -> Ready {
        let mut ready = Ready {
            environment: Vec::new(),
            started: false,
        };
        if let Err(error) = ready.find() {
            let why = format!("{error:#}");
            say(&format!("no Kubernetes for the tests: {why}"));
            ready.environment = vec![("NIGHTJAR_KUBERNETES_MISSING".to_owned(), why.into())];
        }
        ready
    }

    fn find(&mut self) -> Result<()> {
        if let Some(kubeconfig) = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty())
            && Path::new(&kubeconfig) != cluster::kubeconfig()
        {
            for program in ["kubectl", "helm"] {
                on_path(program)
                    .with_context(|| format!("KUBECONFIG is set and {program} is not on PATH"))?;
            }
            say(
                "tests use the cluster of KUBECONFIG; its nodes must have the images nightjar/{relay,operator,nats-server}:{dev,dev-2} of NIGHTJAR_TEST_REGISTRY",
            );
            self.environment = vec![("NIGHTJAR_TEST_KUBECONFIG".to_owned(), kubeconfig)];
            return Ok(());
        }
        // One that is up already is used, whatever its topology.
        if !cluster::is_up() {
            cluster::up_zones()?;
            self.started = true;
        }
        cluster::load_test_images(TAGS)?;
        let programs = cluster::bin_dir();
        self.environment = vec![
            (
                "NIGHTJAR_TEST_KUBECONFIG".to_owned(),
                cluster::kubeconfig().into(),
            ),
            (
                "NIGHTJAR_TEST_CLUSTER_DIR".to_owned(),
                cluster::run_dir().into(),
            ),
            (
                "NIGHTJAR_KUBECTL".to_owned(),
                programs.join("kubectl").into(),
            ),
            ("NIGHTJAR_HELM".to_owned(), programs.join("helm").into()),
            (
                "NIGHTJAR_XTASK".to_owned(),
                std::env::current_exe().context("where xtask lies")?.into(),
            ),
        ];
        Ok(())
    }
}

impl Ready {
    /// Fleets that tests left: the one that they share, and those of tests that were killed.
    fn remove_fleets(&self) -> Result<()> {
        let variable = |name: &str| {
            let found = self.environment.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value)
        };
        let Some(kubeconfig) = variable("NIGHTJAR_TEST_KUBECONFIG") else {
            return Ok(());
        };
        let kubectl = variable("NIGHTJAR_KUBECTL").cloned();
        run(Command::new(kubectl.unwrap_or_else(|| "kubectl".into()))
            .args(["delete", "namespaces", "--wait=false", "--selector"])
            .arg("nightjar.dev/test=fleet")
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null()))
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if !self.started
            && let Err(error) = self.remove_fleets()
        {
            say(&format!("fleets of the tests are left over: {error:#}"));
        }
        if self.started
            && let Err(error) = cluster::down()
        {
            say(&format!("the test cluster is left over: {error:#}"));
        }
    }
}

/// The filter for one of the targets: the target's own name stands for all of its tests.
pub(crate) fn filter<'a>(target: &str, filter: Option<&'a str>) -> Option<&'a str> {
    let filter = filter?;
    match filter.strip_prefix(target) {
        Some("") => None,
        Some(rest) => Some(rest.strip_prefix("::").unwrap_or(filter)),
        None => Some(filter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_target_stands_for_all_of_its_tests() {
        for (asked, is) in [
            (None, None),
            (Some("kubernetes"), None),
            (Some("kubernetes::data"), Some("data")),
            (Some("kubernetes_x"), Some("kubernetes_x")),
            (Some("relay"), Some("relay")),
        ] {
            assert_eq!(filter("kubernetes", asked), is);
        }
    }
}
