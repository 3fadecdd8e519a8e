//! `cargo xtask cluster VERB`: a real Kubernetes on this machine, for tests and as a playground. One at a time.

mod config;
mod control_plane;
mod daemon;
mod images;
mod network;
mod node;
mod parts;
mod plan;
mod teardown;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use crate::run::{output, run, say};
pub(crate) use parts::{helm, promtool};
use plan::{Node, Topology};

const USAGE: &str = "\
cargo xtask cluster VERB

  up [small|zones]    start it: three nodes, one a region; or five, three of them in zones of region a
  down                end it, and remove all it made
  load-images [--tag TAG] [--profile PROFILE] [--operator VERSION] [--archive FILE]
                      build images of the programs and give them to every node; or give them those of a docker archive
  derive TAG FOLDER   build FOLDER/Dockerfile, whose base is localhost/nightjar/relay:dev, and give it to every node as relay:TAG
  status              nodes, programs that ended, faults in force
  env                 what to `eval` in a shell for kubectl and helm
  cut REGION          drop all packets between a region and the others; `heal REGION` undoes it
  isolate NODE        unplug a node from everything; `rejoin NODE` undoes it";

pub(crate) fn cluster(args: &[String]) -> Result<ExitCode> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["up"] => up(Topology::Small)?,
        ["up", topology] => up(Topology::parse(topology)?)?,
        ["down"] => down()?,
        ["load-images", options @ ..] => {
            images::load(&images::Request::parse(options)?, &running()?.nodes())?;
        }
        ["derive", tag, folder] => images::derive(tag, folder.as_ref(), &running()?.nodes())?,
        ["status"] => return status(),
        ["env"] => env()?,
        ["cut", region] => network::cut(region, &running()?.nodes())?,
        ["heal", region] => network::heal(region, &running()?.nodes())?,
        ["isolate", node] => network::plug(node, &running()?.nodes(), false)?,
        ["rejoin", node] => network::plug(node, &running()?.nodes(), true)?,
        [] | ["help" | "--help" | "-h"] => eprintln!("{USAGE}"),
        _ => bail!("`cluster {}` is no command\n\n{USAGE}", words.join(" ")),
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts the cluster that tests use; does nothing when it is up.
pub(crate) fn up_zones() -> Result<()> {
    up(Topology::Zones)
}

/// Whether a cluster is up, with all of its programs.
pub(crate) fn is_up() -> bool {
    whole().is_some()
}

/// Images of the programs under the first tag. Under the second the same again, with an operator that was built as that version.
pub(crate) fn load_test_images([first, second]: [&str; 2]) -> Result<()> {
    let nodes = running()?.nodes();
    images::load(&images::Request::of_operator(second)?, &nodes)?;
    images::load(&images::Request::parse(&["--tag", first])?, &nodes)?;
    images::alias(first, second, &nodes)
}

/// Credentials of an administrator.
pub(crate) fn kubeconfig() -> PathBuf {
    plan::kubeconfig()
}

/// kubectl and helm.
pub(crate) fn bin_dir() -> PathBuf {
    plan::bin_dir()
}

/// Everything of the cluster that is up.
pub(crate) fn run_dir() -> PathBuf {
    plan::run_dir()
}

fn up(topology: Topology) -> Result<()> {
    demand_root()?;
    let parts = parts::ready()?;
    let _lock = lock()?;
    match whole() {
        Some(running) if running == topology => {
            say(&format!("the cluster `{}` is up", running.name()));
            return Ok(());
        }
        Some(running) => bail!(
            "the cluster `{}` is up: end it first with `cargo xtask cluster down`",
            running.name()
        ),
        None => teardown::clean().context("cannot remove what an earlier cluster left")?,
    }
    let start = Instant::now();
    if let Err(error) = build(topology, &parts) {
        return Err(match teardown::clean() {
            Ok(()) => error,
            Err(cleaning) => anyhow!("{error:#}\nAlso, cleaning up failed: {cleaning:#}"),
        });
    }
    say(&format!(
        "the cluster `{}` is up after {:.1} s. To use it: eval \"$(cargo xtask cluster env)\"",
        topology.name(),
        start.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn build(topology: Topology, parts: &parts::Parts) -> Result<()> {
    if teardown::has_kube_proxy()? {
        bail!("another kube-proxy works on this machine: a test cluster would break its Services");
    }
    let nodes = topology.nodes();
    let run_dir = plan::run_dir();
    fs::create_dir_all(&run_dir).with_context(|| format!("cannot make {}", plan::RUN))?;
    fs::set_permissions(&run_dir, fs::Permissions::from_mode(0o700))?;
    for folder in ["bin", "etcd", "logs", "pids", "volumes"] {
        fs::create_dir_all(run_dir.join(folder))?;
    }
    fs::set_permissions(run_dir.join("etcd"), fs::Permissions::from_mode(0o700))?;
    fs::write(run_dir.join("resolv.conf"), "")?;
    teardown::remember()?;
    for (name, program) in [
        ("kubectl", &parts.program("kubectl")),
        ("helm", &parts.helm),
        ("helm3", &parts.helm3),
    ] {
        symlink(program, plan::bin_dir().join(name))?;
    }
    network::build(&nodes)?;
    control_plane::write_credentials(&nodes)?;
    // The nodes unpack their images while the API server starts.
    thread::scope(|scope| {
        let runtimes: Vec<_> = nodes
            .iter()
            .map(|node| scope.spawn(move || node::start_runtime(node, parts)))
            .collect();
        control_plane::start_api(parts)?;
        control_plane::start_controllers(parts, &nodes)?;
        for (node, runtime) in nodes.iter().zip(runtimes) {
            runtime
                .join()
                .map_err(|_| anyhow!("starting {} panicked", node.name))??;
            node::start_kubelet(node, parts)?;
        }
        control_plane::apply_manifests(parts)?;
        control_plane::wait_ready(parts, &nodes)
    })?;
    fs::write(run_dir.join("topology"), topology.name()).context("cannot note the topology")
}

/// Ends the cluster, if one is up.
pub(crate) fn down() -> Result<()> {
    demand_root()?;
    let _lock = lock()?;
    teardown::clean()?;
    fs::remove_file(plan::LOCK).ok();
    Ok(())
}

/// The topology of a cluster that started to the end and of which every program still runs.
fn whole() -> Option<Topology> {
    let name = fs::read_to_string(plan::run_dir().join("topology")).ok()?;
    let programs = daemon::recorded();
    (!programs.is_empty() && programs.iter().all(|(_, runs)| *runs))
        .then(|| Topology::parse(&name).ok())
        .flatten()
}

/// The topology of the cluster that is up, also when some of its programs have ended.
fn running() -> Result<Topology> {
    demand_root()?;
    let name = fs::read_to_string(plan::run_dir().join("topology"))
        .context("no cluster is up: `cargo xtask cluster up`")?;
    Topology::parse(&name)
}

fn status() -> Result<ExitCode> {
    let nodes = running()?.nodes();
    run(Command::new(plan::bin_dir().join("kubectl"))
        .arg("--kubeconfig")
        .arg(plan::kubeconfig())
        .args(["get", "nodes", "--label-columns"])
        .arg("topology.kubernetes.io/region,topology.kubernetes.io/zone")
        .args(["--request-timeout", "5s"]))
    .ok();
    let mut code = ExitCode::SUCCESS;
    for (name, _) in daemon::recorded().iter().filter(|(_, runs)| !runs) {
        say(&format!(
            "{name} has ended; see {}",
            daemon::log_file(name).display()
        ));
        code = ExitCode::FAILURE;
    }
    for fault in network::faults(&nodes)? {
        say(&fault);
    }
    Ok(code)
}

fn env() -> Result<()> {
    running()?;
    writeln!(
        std::io::stdout(),
        "export KUBECONFIG={}\nexport PATH={}:$PATH",
        plan::kubeconfig().display(),
        plan::bin_dir().display()
    )
    .context("cannot write to stdout")
}

fn demand_root() -> Result<()> {
    let id = output(Command::new("id").arg("-u"))?;
    if String::from_utf8_lossy(&id).trim() != "0" {
        bail!(
            "a cluster needs root, for network namespaces, mounts and cgroups: run as root, or set KUBECONFIG to test on a cluster you have"
        );
    }
    Ok(())
}

/// Waits for whoever starts or ends the cluster now.
fn lock() -> Result<File> {
    loop {
        let file = File::create(plan::LOCK)
            .with_context(|| format!("cannot open the lock {}", plan::LOCK))?;
        if file.try_lock().is_err() {
            say("waiting for another `cargo xtask cluster` to finish");
            file.lock().context("cannot lock")?;
        }
        // Whoever ended a cluster removed the file: a lock on a removed file keeps nobody out.
        if fs::metadata(plan::LOCK)
            .is_ok_and(|now| file.metadata().is_ok_and(|held| held.ino() == now.ino()))
        {
            return Ok(file);
        }
    }
}

/// Runs `each` for all nodes at once.
fn on_all_nodes(nodes: &[Node], each: impl Fn(&Node) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = nodes
            .iter()
            .map(|node| scope.spawn(|| each(node)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })
}
