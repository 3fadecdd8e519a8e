//! `nightjar-operator`: checks a RelayCluster, runs it on this machine, keeps its keys, and prints what is generated from its types.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use nightjar_operator::cluster::{self, LeaseTerms, RunOptions};
use nightjar_operator::crd::{Images, MAX_FILE_BYTES, crd_yaml, reference_markdown};
use nightjar_operator::keys::{self, KeysArgs};
use nightjar_operator::local::{Console, LocalError, LocalOptions, Style};
use nightjar_operator::validate::{FieldError, ValidFleet, from_yaml};

/// Exit code for input that will not do: arguments, a file, the machine.
const BAD_INPUT: u8 = 2;
/// Width of the table where the terminal does not tell.
const DEFAULT_WIDTH: u16 = 100;

/// Runs fleets of Nostr relays that a RelayCluster file describes.
#[derive(Debug, Parser)]
#[command(name = "nightjar-operator", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 bad arguments or a bad file.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a fleet on this machine: NATS servers, hubs and relays as child processes on loopback
    ///
    /// Changes of FILE are applied while it runs. Ctrl-C drains the relays and ends within 10 s; a second one kills everything.
    Local(Local),
    /// Look after the RelayClusters of a Kubernetes cluster; what the chart starts
    ///
    /// One of several operators works, the others wait. Everything is a setting of the chart; inside a pod no option is needed.
    Run(Run),
    /// Ask a URL and exit 0 if it answers with success: a check for pods without a shell
    Probe {
        /// An http:// URL, such as http://nightjar-metrics:8080/readyz
        url: String,
    },
    /// Check a RelayCluster file and say everything that is wrong with it
    Validate {
        /// The RelayCluster file
        file: PathBuf,
    },
    /// Back up or restore the keys that open the fleet's log
    Keys(KeysArgs),
    /// Print the CustomResourceDefinition, or the reference of its fields
    Crd {
        /// Print docs/reference/relaycluster.md instead
        #[arg(long, conflicts_with = "metrics_docs")]
        docs: bool,
        /// Print docs/reference/metrics-operator.md instead
        #[arg(long)]
        metrics_docs: bool,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// Namespace to watch; several times for several. All namespaces if left out
    #[arg(
        long = "watch-namespace",
        value_name = "NAMESPACE",
        env = "NIGHTJAR_WATCH_NAMESPACES",
        value_delimiter = ','
    )]
    watch_namespaces: Vec<String>,
    /// Image of relays, for fleets that name none
    #[arg(long, value_name = "IMAGE", env = "NIGHTJAR_RELAY_IMAGE", default_value = concat!("ghcr.io/nightjar-dev/relay:", env!("CARGO_PKG_VERSION")))]
    relay_image: String,
    /// Image of NATS servers, for fleets that name none
    #[arg(
        long,
        value_name = "IMAGE",
        env = "NIGHTJAR_NATS_IMAGE",
        default_value = "docker.io/library/nats:2.15.2"
    )]
    nats_image: String,
    /// Address of /healthz, /readyz and /metrics
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "NIGHTJAR_METRICS_ADDR",
        default_value = "0.0.0.0:8080"
    )]
    metrics_addr: std::net::SocketAddr,
    /// Namespace of the Lease
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "NIGHTJAR_LEASE_NAMESPACE",
        default_value = "default"
    )]
    lease_namespace: String,
    /// Name of the Lease
    #[arg(
        long,
        value_name = "NAME",
        env = "NIGHTJAR_LEASE_NAME",
        default_value = "nightjar-operator"
    )]
    lease_name: String,
    /// Name of this operator in the election, another one for each [default: POD_NAME, else made up]
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    identity: Option<String>,
    /// How long certificates between NATS servers are valid; they are renewed after two thirds of it
    #[arg(long, value_name = "SPAN", env = "NIGHTJAR_CERTIFICATE_LIFETIME", default_value = "365d", value_parser = nightjar_operator::crd::parse_duration)]
    certificate_lifetime: std::time::Duration,
    /// What to log, as RUST_LOG
    #[arg(
        long,
        value_name = "FILTER",
        env = "RUST_LOG",
        default_value = "info,async_nats=warn"
    )]
    log: String,
}

#[derive(Debug, Args)]
struct Local {
    /// The RelayCluster file; see examples/
    file: PathBuf,
    /// Folder for everything that lasts: keys, logs, indexes, ports. Made when absent; one fleet a folder
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Print one JSON object a line, each with `event`, instead of a table
    #[arg(long)]
    json: bool,
    /// The nats-server program, 2.15.1 or newer [default: NATS_SERVER in the environment, else nats-server in PATH]
    #[arg(long, value_name = "PATH")]
    nats_server: Option<PathBuf>,
    /// The nightjar-relay program [default: NIGHTJAR_RELAY in the environment, else beside this program, else in PATH]
    #[arg(long, value_name = "PATH")]
    relay: Option<PathBuf>,
}

fn main() -> ExitCode {
    let failed = match Cli::parse().verb {
        Verb::Local(options) => return local(options),
        Verb::Run(options) => return run(options),
        Verb::Probe { url } => return probe(&url),
        Verb::Validate { file } => validate(&file),
        Verb::Keys(args) => keys::run(&args).map_err(|error| {
            complain(&error.to_string());
            ExitCode::from(if error.is_usage() { BAD_INPUT } else { 1 })
        }),
        Verb::Crd { docs, metrics_docs } => print(&if docs {
            reference_markdown()
        } else if metrics_docs {
            cluster::metrics_markdown()
        } else {
            crd_yaml()
        }),
    };
    failed.err().unwrap_or(ExitCode::SUCCESS)
}

fn validate(file: &Path) -> Result<(), ExitCode> {
    let fleet = read(file).map_err(|errors| {
        for error in errors {
            complain(&format!("{}: {error}", file.display()));
        }
        ExitCode::from(BAD_INPUT)
    })?;
    let relays: u32 = fleet
        .regions
        .iter()
        .map(|region| region.relay_replicas)
        .sum();
    print(&format!(
        "{}: valid: {} with {} regions, {relays} relays\n",
        file.display(),
        fleet.name,
        fleet.regions.len()
    ))
}

fn read(file: &Path) -> Result<ValidFleet, Vec<FieldError>> {
    let unreadable = |message: String| vec![FieldError::new("", message)];
    let length = std::fs::metadata(file)
        .map_err(|error| unreadable(format!("cannot be read: {error}")))?
        .len();
    if length > MAX_FILE_BYTES as u64 {
        return Err(unreadable(format!(
            "has {length} bytes, more than the {MAX_FILE_BYTES} that are read"
        )));
    }
    let text = std::fs::read_to_string(file)
        .map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    from_yaml(&text)
}

fn run(verb: Run) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(&verb.log))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let options = RunOptions {
        namespaces: verb
            .watch_namespaces
            .into_iter()
            .filter(|namespace| !namespace.is_empty())
            .collect(),
        images: Images {
            relay: verb.relay_image,
            nats: verb.nats_image,
        },
        metrics_addr: verb.metrics_addr,
        lease_namespace: verb.lease_namespace,
        lease_name: verb.lease_name,
        identity: verb
            .identity
            .unwrap_or_else(|| format!("operator-{:08x}", rand::random::<u32>())),
        lease: LeaseTerms::default(),
        certificate_lifetime: verb.certificate_lifetime,
        version: option_env!("NIGHTJAR_VERSION")
            .unwrap_or(env!("CARGO_PKG_VERSION"))
            .to_owned(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no threads: {error}")),
    };
    match runtime.block_on(cluster::run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

/// One GET over plain HTTP, without following anything.
fn probe(url: &str) -> ExitCode {
    match ask(url) {
        Ok(status) if (200..300).contains(&status) => ExitCode::SUCCESS,
        Ok(status) => fail(&format!("{url}: status {status}")),
        Err(error) => fail(&format!("{url}: {error}")),
    }
}

fn ask(url: &str) -> anyhow::Result<u16> {
    use anyhow::Context as _;
    use std::io::Read as _;
    use std::net::ToSocketAddrs as _;
    const WITHIN: std::time::Duration = std::time::Duration::from_secs(5);
    let rest = url
        .strip_prefix("http://")
        .context("must begin with http://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let address = address.to_socket_addrs()?.next().context("no such host")?;
    let mut stream = std::net::TcpStream::connect_timeout(&address, WITHIN)?;
    stream.set_read_timeout(Some(WITHIN))?;
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).context("no HTTP answer")?;
    Ok(status.parse()?)
}

fn local(verb: Local) -> ExitCode {
    let mut options = LocalOptions::new(verb.file, verb.state);
    options.nats_server = verb.nats_server.unwrap_or(options.nats_server);
    options.relay_bin = verb.relay.unwrap_or(options.relay_bin);
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let stdout = std::io::stdout();
    let terminal = stdout.is_terminal();
    let width = if terminal {
        rustix::termios::tcgetwinsize(&stdout).map_or(DEFAULT_WIDTH, |size| size.ws_col)
    } else {
        DEFAULT_WIDTH
    };
    let mut console = Console::new(stdout, Style::choose(verb.json, terminal), width);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no threads: {error}")),
    };
    match runtime.block_on(nightjar_operator::local::run(options, &mut console)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            refuse(&error, &mut console, verb.json);
            ExitCode::from(BAD_INPUT)
        }
    }
}

/// Says why nothing was started: each wrong field a line.
fn refuse(error: &LocalError, console: &mut Console<std::io::Stdout>, json: bool) {
    if json {
        // A reader that is gone needs no reason.
        error
            .events()
            .iter()
            .for_each(|event| drop(console.show(event)));
    } else {
        error.to_string().lines().for_each(complain);
    }
}

/// Writes data to stdout. A reader that went away early had what it wanted.
fn print(text: &str) -> Result<(), ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(fail(&format!("cannot write: {error}")))
        }
        _ => Ok(()),
    }
}

fn fail(message: &str) -> ExitCode {
    complain(message);
    ExitCode::FAILURE
}

fn complain(message: &str) {
    // With stderr gone there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "nightjar-operator: {message}");
}
