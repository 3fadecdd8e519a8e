//! Certificates, tokens, etcd, the API server and its controllers, on this machine's side of the bridge.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::config::{base64, fill, template};
use super::daemon;
use super::parts::Parts;
use super::plan::{self, API_PORT, ETCD_PORT, HOST, KUBERNETES_SERVICE, Node, SERVICES};
use crate::run::{on_path, run};

const ADMINS: &str = "system:masters";

fn pki() -> PathBuf {
    plan::run_dir().join("pki")
}

/// Where the kubeconfig of `user` lies: a component's name, or a node's.
pub(super) fn kubeconfig_of(user: &str) -> PathBuf {
    pki().join(format!("{user}.kubeconfig"))
}

/// Writes keys, certificates, tokens and kubeconfig files: new ones for each cluster.
pub(super) fn write_credentials(nodes: &[Node]) -> Result<()> {
    let dir = pki();
    fs::create_dir_all(&dir)?;
    let names = format!(
        "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:{HOST},IP:{KUBERNETES_SERVICE}"
    );
    fs::write(
        dir.join("openssl.cnf"),
        fill(template::OPENSSL, &[("names", &names)])?,
    )?;
    certificate("ca", "/CN=nightjar-test-ca", "ca")?;
    certificate("apiserver", "/CN=kube-apiserver", "server")?;
    certificate(
        "kubelet-client",
        &format!("/O={ADMINS}/CN=kube-apiserver-kubelet-client"),
        "client",
    )?;
    // The API server takes the public half from a certificate.
    certificate("service-accounts", "/CN=service-accounts", "client")?;

    let ca = base64(&fs::read(dir.join("ca.crt"))?);
    let mut users = vec![
        ("admin".to_owned(), "admin".to_owned(), ADMINS),
        (
            "storage".to_owned(),
            "nightjar-test:storage".to_owned(),
            ADMINS,
        ),
    ];
    for component in ["kube-controller-manager", "kube-scheduler", "kube-proxy"] {
        users.push((component.to_owned(), format!("system:{component}"), ""));
    }
    for node in nodes {
        users.push((
            node.name.to_owned(),
            format!("system:node:{}", node.name),
            "system:nodes",
        ));
    }
    let mut tokens = String::new();
    for (file, user, group) in users {
        let token = random_token()?;
        tokens.push_str(&format!("{token},{user},{user},{group}\n"));
        let text = fill(
            template::KUBECONFIG,
            &[
                ("server", &format!("https://{HOST}:{API_PORT}")),
                ("ca_base64", &ca),
                ("user", &user),
                ("token", &token),
            ],
        )?;
        write_private(&kubeconfig_of(&file), &text)?;
    }
    fs::copy(kubeconfig_of("admin"), plan::kubeconfig())?;
    write_private(&dir.join("tokens.csv"), &tokens)
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o600),
    )?)
}

/// `<name>.key` and `<name>.crt`, signed by the CA or, for the CA, by itself.
fn certificate(name: &str, subject: &str, section: &str) -> Result<()> {
    let dir = pki();
    let mut command = Command::new("openssl");
    command
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-days",
            "30",
            "-subj",
            subject,
            "-extensions",
            section,
            "-config",
        ])
        .arg(dir.join("openssl.cnf"))
        .arg("-keyout")
        .arg(dir.join(format!("{name}.key")))
        .arg("-out")
        .arg(dir.join(format!("{name}.crt")))
        .stderr(Stdio::null());
    if name != "ca" {
        command
            .arg("-CA")
            .arg(dir.join("ca.crt"))
            .arg("-CAkey")
            .arg(dir.join("ca.key"));
    }
    run(&mut command)
}

/// 128 bits from the kernel, in hex.
fn random_token() -> Result<String> {
    let mut bytes = [0_u8; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Starts etcd and the API server, and returns when the API answers.
pub(super) fn start_api(parts: &Parts) -> Result<()> {
    let run_dir = plan::run_dir();
    let etcd = on_path("etcd").context("etcd is not on PATH")?;
    let etcd_url = format!("http://127.0.0.1:{ETCD_PORT}");
    daemon::start(
        "etcd",
        None,
        &etcd,
        &[
            format!("--data-dir={}", run_dir.join("etcd").display()),
            format!("--listen-client-urls={etcd_url}"),
            format!("--advertise-client-urls={etcd_url}"),
            format!("--listen-peer-urls=http://127.0.0.1:{}", ETCD_PORT + 1),
            "--unsafe-no-fsync".to_owned(),
            "--logger=zap".to_owned(),
        ],
    )?;
    let policy = run_dir.join("audit-policy.yaml");
    fs::write(&policy, template::AUDIT_POLICY)?;
    daemon::start(
        "kube-apiserver",
        None,
        &parts.program("kube-apiserver"),
        &apiserver_flags(&etcd_url, &policy),
    )?;
    let api = SocketAddr::from((HOST, API_PORT));
    daemon::wait_for("the API server", Duration::from_secs(60), || {
        Ok(
            TcpStream::connect_timeout(&api, Duration::from_secs(1)).is_ok()
                && kubectl(parts)
                    .args(["get", "--raw", "/readyz"])
                    .stderr(Stdio::null())
                    .output()?
                    .status
                    .success(),
        )
    })
}

fn apiserver_flags(etcd_url: &str, policy: &Path) -> Vec<String> {
    let pki = pki();
    let file = |name: &str| pki.join(name).display().to_string();
    vec![
        format!("--etcd-servers={etcd_url}"),
        format!("--bind-address={HOST}"),
        format!("--advertise-address={HOST}"),
        format!("--secure-port={API_PORT}"),
        format!("--service-cluster-ip-range={SERVICES}"),
        format!("--cert-dir={}", pki.display()),
        format!("--tls-cert-file={}", file("apiserver.crt")),
        format!("--tls-private-key-file={}", file("apiserver.key")),
        format!("--token-auth-file={}", file("tokens.csv")),
        format!(
            "--kubelet-client-certificate={}",
            file("kubelet-client.crt")
        ),
        format!("--kubelet-client-key={}", file("kubelet-client.key")),
        // Logs and exec: the API server cannot look up the names of nodes.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!(
            "--service-account-key-file={}",
            file("service-accounts.crt")
        ),
        format!(
            "--service-account-signing-key-file={}",
            file("service-accounts.key")
        ),
        "--default-not-ready-toleration-seconds=30".to_owned(),
        "--default-unreachable-toleration-seconds=30".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
        format!("--audit-policy-file={}", policy.display()),
        format!(
            "--audit-log-path={}",
            plan::run_dir().join("audit.log").display()
        ),
        "--audit-log-maxsize=2000".to_owned(),
    ]
}

/// Starts what acts on the API: controllers, the scheduler, volumes, and the kube-proxy that lets this machine reach Services.
pub(super) fn start_controllers(parts: &Parts, nodes: &[Node]) -> Result<()> {
    let kubeconfig = |user: &str| format!("--kubeconfig={}", kubeconfig_of(user).display());
    let ca = pki().join("ca.crt");
    daemon::start(
        "kube-controller-manager",
        None,
        &parts.program("kube-controller-manager"),
        &[
            kubeconfig("kube-controller-manager"),
            format!("--bind-address={HOST}"),
            format!(
                "--service-account-private-key-file={}",
                pki().join("service-accounts.key").display()
            ),
            format!("--root-ca-file={}", ca.display()),
            "--use-service-account-credentials".to_owned(),
            "--allocate-node-cidrs=false".to_owned(),
            format!(
                "--flex-volume-plugin-dir={}",
                plan::run_dir().join("volume-plugins").display()
            ),
            "--leader-elect=false".to_owned(),
            // A lost node is NotReady after some 18 s, not after a minute.
            "--node-monitor-grace-period=16s".to_owned(),
            "--node-monitor-period=2s".to_owned(),
            "--profiling=false".to_owned(),
        ],
    )?;
    daemon::start(
        "kube-scheduler",
        None,
        &parts.program("kube-scheduler"),
        &[
            kubeconfig("kube-scheduler"),
            format!("--bind-address={HOST}"),
            "--leader-elect=false".to_owned(),
            "--profiling=false".to_owned(),
        ],
    )?;
    daemon::start(
        "storage",
        None,
        &parts.storage,
        &[
            kubeconfig("storage"),
            format!("--root={}", plan::run_dir().join("volumes").display()),
        ],
    )?;
    // This machine is no node; it sees Services as the first node does.
    let first = nodes.first().context("a cluster without nodes")?;
    daemon::start(
        "kube-proxy",
        None,
        &parts.program("kube-proxy"),
        &kube_proxy_flags(first, &HOST.to_string()),
    )
}

/// Flags of a kube-proxy that listens on `address` and takes itself for that of `node`.
pub(super) fn kube_proxy_flags(node: &Node, address: &str) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", kubeconfig_of("kube-proxy").display()),
        format!("--hostname-override={}", node.name),
        "--proxy-mode=nftables".to_owned(),
        "--detect-local-mode=ClusterCIDR".to_owned(),
        format!("--cluster-cidr={}", plan::PODS),
        format!("--healthz-bind-address={address}:10256"),
        format!("--metrics-bind-address={address}:10249"),
        // Settings of the whole machine: left alone.
        "--conntrack-max-per-core=0".to_owned(),
        "--conntrack-tcp-timeout-established=0".to_owned(),
        "--conntrack-tcp-timeout-close-wait=0".to_owned(),
        "--oom-score-adj=0".to_owned(),
    ]
}

/// kubectl as the cluster's administrator.
pub(super) fn kubectl(parts: &Parts) -> Command {
    let mut command = Command::new(parts.program("kubectl"));
    command
        .arg("--kubeconfig")
        .arg(plan::kubeconfig())
        .stdin(Stdio::null());
    command
}

/// Installs DNS and the storage classes.
pub(super) fn apply_manifests(parts: &Parts) -> Result<()> {
    let manifest = plan::run_dir().join("system.yaml");
    let coredns = fill(
        template::COREDNS,
        &[
            ("dns", &plan::DNS.to_string()),
            ("image", super::parts::COREDNS_IMAGE),
        ],
    )?;
    fs::write(&manifest, format!("{coredns}---\n{}", template::STORAGE))?;
    run(kubectl(parts)
        .args(["apply", "--server-side", "--validate=false", "-f"])
        .arg(&manifest)
        .stdout(Stdio::null()))
}

/// Waits until every node is Ready, DNS answers on each, and pods can be made.
pub(super) fn wait_ready(parts: &Parts, nodes: &[Node]) -> Result<()> {
    daemon::wait_for(
        "all nodes and DNS to be ready",
        Duration::from_secs(90),
        || {
            let answer = |args: &[&str]| -> Result<String> {
                let output = kubectl(parts).args(args).stderr(Stdio::null()).output()?;
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            };
            let ready = answer(&[
                "get",
                "nodes",
                "-o",
                "jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}",
            ])?;
            if ready
                .split_whitespace()
                .filter(|word| *word == "True")
                .count()
                != nodes.len()
            {
                return Ok(false);
            }
            let dns = answer(&[
                "-n",
                "kube-system",
                "get",
                "daemonset",
                "coredns",
                "-o",
                "jsonpath={.status.numberReady}",
            ])?;
            Ok(dns == nodes.len().to_string()
                && !answer(&[
                    "-n",
                    "default",
                    "get",
                    "serviceaccount",
                    "default",
                    "-o",
                    "name",
                ])?
                .is_empty())
        },
    )
}
