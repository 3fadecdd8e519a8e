//! The programs and images a cluster is made of: Debian packages, and Go modules pinned under `tests/cluster/modules`, built
//! once into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::run::{is_executable, on_path, root, run, say};

pub(super) const PAUSE_IMAGE: &str = "localhost/nightjar-test/pause:1";
pub(super) const COREDNS_IMAGE: &str = "localhost/nightjar-test/coredns:1.15.0";

/// Programs of Debian packages, each with its package. `bridge` is a network plugin and lies outside PATH.
const DEBIAN: [(&str, &str); 16] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("bridge-plugin", "containernetworking-plugins"),
    ("etcd", "etcd-server"),
    ("nft", "nftables"),
    ("buildah", "buildah"),
    ("mmdebstrap", "mmdebstrap"),
    ("prometheus", "prometheus"),
    ("openssl", "openssl"),
    ("ip", "iproute2"),
    ("sysctl", "procps"),
    ("nsenter", "util-linux"),
    ("setsid", "util-linux"),
    ("umount", "mount"),
    ("strip", "binutils"),
];

/// Set in the Kubernetes programs: without it they call themselves v0.0.0, and clients refuse to talk to them.
const KUBERNETES_VERSION: [(&str, &str); 5] = [
    ("gitVersion", "v1.34.4"),
    ("gitMajor", "1"),
    ("gitMinor", "34"),
    ("gitTreeState", "clean"),
    ("buildDate", "1970-01-01T00:00:00Z"),
];

/// Where all parts lie.
pub(super) struct Parts {
    kubernetes: PathBuf,
    pub(super) storage: PathBuf,
    pub(super) helm: PathBuf,
    pub(super) helm3: PathBuf,
    /// Docker archives of the images that every node has.
    pub(super) images: [PathBuf; 2],
    /// Folder of the network plugins.
    pub(super) cni: PathBuf,
}

impl Parts {
    /// One of kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy and kubectl.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.kubernetes.join(name)
    }
}

/// All parts; what is missing is installed or built.
pub(super) fn ready() -> Result<Parts> {
    if on_path("go").is_none() {
        bail!(
            "`go` is not on PATH: the cluster's programs are built with Go 1.26 or newer. Install it, or set KUBECONFIG to test on a cluster you have"
        );
    }
    install_debian()?;
    let kubernetes = built("kubernetes", |dir| {
        let version: String = KUBERNETES_VERSION
            .iter()
            .map(|(name, value)| format!(" -X k8s.io/component-base/version.{name}={value}"))
            .collect();
        go_build("kubernetes", "tool", dir, &version, true)
    })?;
    let storage = built("storage", |dir| go_build("storage", ".", dir, "", true))?;
    Ok(Parts {
        kubernetes,
        storage: storage.join("storage"),
        helm: helm(4)?,
        helm3: helm(3)?,
        images: node_images()?,
        cni: cni_dir().context("the network plugins are missing")?,
    })
}

/// The helm of a major version, 3 or 4, built once.
pub(crate) fn helm(major: u8) -> Result<PathBuf> {
    if on_path("go").is_none() {
        bail!("`go` is not on PATH: helm is built with Go 1.26 or newer");
    }
    let (name, version) = match major {
        4 => ("helm4", "v4.3.1"),
        3 => ("helm3", "v3.22.0"),
        other => bail!("helm {other} is not among the parts"),
    };
    let flag = format!(" -X helm.sh/helm/v{major}/internal/version.version={version}");
    let dir = built(name, |dir| go_build(name, "tool", dir, &flag, true))?;
    Ok(dir.join("helm"))
}

/// promtool, of Debian's package `prometheus`.
pub(crate) fn promtool() -> Result<PathBuf> {
    if on_path("promtool").is_none() {
        let missing = || match on_path("promtool") {
            None => vec!["prometheus"],
            Some(_) => Vec::new(),
        };
        install_packages(&missing)?;
    }
    on_path("promtool").context("`promtool` is not on PATH (Debian: prometheus)")
}

fn module(name: &str) -> PathBuf {
    root().join("tests/cluster/modules").join(name)
}

/// The cached folder of a module, named after its pins and sources.
fn built(name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    cache::filled(&format!("cluster-{name}"), &pins(name)?, build)
}

/// All that decides what a module's build gives: its files, and this file's flags.
fn pins(name: &str) -> Result<Vec<u8>> {
    let mut files: Vec<PathBuf> = fs::read_dir(module(name))
        .with_context(|| format!("cannot read {}", module(name).display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let mut pins = format!("{KUBERNETES_VERSION:?}").into_bytes();
    for file in files {
        pins.extend(fs::read(&file)?);
    }
    Ok(pins)
}

/// Builds `package` of a module into `dir`. Go checks every download against go.sum. With the same flags each time, so that
/// Go's own cache makes a second build quick.
fn go_build(name: &str, package: &str, dir: &Path, more_ldflags: &str, cgo: bool) -> Result<()> {
    let minutes = if name == "kubernetes" { 8 } else { 2 };
    say(&format!(
        "building {name} for the test cluster (once, up to {minutes} minutes on 2 cores)"
    ));
    let mut command = Command::new("go");
    command
        .args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly"])
        .arg(format!("-ldflags=-s -w{more_ldflags}"))
        .arg("-o")
        .arg(format!("{}/", dir.display()))
        .arg(package)
        .current_dir(module(name))
        .env("GOWORK", "off")
        .stdin(Stdio::null());
    if !cgo {
        command.env("CGO_ENABLED", "0");
    }
    run(&mut command)
}

/// Docker archives of the pause image and of CoreDNS, each a static program alone in an empty image.
fn node_images() -> Result<[PathBuf; 2]> {
    let mut pins = [pins("pause")?, pins("coredns")?].concat();
    pins.extend(PAUSE_IMAGE.bytes().chain(COREDNS_IMAGE.bytes()));
    let dir = cache::filled("cluster-images", &pins, |dir| {
        go_build("pause", ".", dir, "", false)?;
        go_build("coredns", "tool", dir, "", false)?;
        let buildah = Buildah::new(dir)?;
        for (program, image) in [("pause", PAUSE_IMAGE), ("coredns", COREDNS_IMAGE)] {
            let file = dir.join("Dockerfile");
            fs::write(
                &file,
                format!(
                    "FROM scratch\nCOPY {program} /{program}\nUSER 65532:65532\nENTRYPOINT [\"/{program}\"]\n"
                ),
            )?;
            buildah.build(&file, dir, image, &[])?;
            buildah.archive(image, &dir.join(format!("{program}.tar")))?;
        }
        buildah.remove()?;
        for left in ["pause", "coredns", "Dockerfile"] {
            fs::remove_file(dir.join(left))?;
        }
        Ok(())
    })?;
    Ok(["pause.tar", "coredns.tar"].map(|archive| dir.join(archive)))
}

/// buildah with a store of its own under `dir`, so that it leaves nothing in the user's.
pub(super) struct Buildah {
    store: PathBuf,
}

impl Buildah {
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let store = dir.join("buildah");
        fs::create_dir_all(&store)?;
        // It makes this folder even where no container gets a network.
        let network = store.join("network").display().to_string();
        fs::write(
            store.join("containers.conf"),
            format!("[network]\nnetwork_config_dir = \"{network}\"\n"),
        )?;
        Ok(Self { store })
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new("buildah");
        command
            .arg("--root")
            .arg(self.store.join("root"))
            .arg("--runroot")
            .arg(self.store.join("run"))
            .args(["--storage-driver", "overlay", verb])
            .env("CONTAINERS_CONF", self.store.join("containers.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Builds `image` from `file` with `context` as the folder of its COPY lines; `args` are more options of buildah.
    pub(super) fn build(
        &self,
        file: &Path,
        context: &Path,
        image: &str,
        args: &[String],
    ) -> Result<()> {
        let mut command = self.command("build");
        command.args([
            "--isolation",
            "chroot",
            "--quiet",
            "--format",
            "docker",
            "--tag",
            image,
        ]);
        // A time of build in the image would give equal programs unequal images, and nodes would store both.
        command.args(["--timestamp", "0"]).args(args);
        run(command.arg("--file").arg(file).arg(context))
    }

    /// Takes the images of an archive of the Open Container Initiative's layout.
    pub(super) fn load(&self, archive: &Path) -> Result<()> {
        let archive = format!("oci-archive:{}", archive.display());
        run(self.command("pull").args(["--quiet", &archive]))
    }

    /// Writes `image` into a docker archive.
    pub(super) fn archive(&self, image: &str, archive: &Path) -> Result<()> {
        run(self
            .command("push")
            .arg("--quiet")
            .arg(image)
            .arg(format!("docker-archive:{}:{image}", archive.display())))
    }

    pub(super) fn remove(&self) -> Result<()> {
        Ok(fs::remove_dir_all(&self.store)?)
    }
}

fn cni_dir() -> Option<PathBuf> {
    ["/usr/lib/cni", "/opt/cni/bin"]
        .map(PathBuf::from)
        .into_iter()
        .find(|dir| is_executable(&dir.join("bridge")))
}

/// Installs the Debian packages whose programs are missing.
fn install_debian() -> Result<()> {
    let missing = || -> Vec<&'static str> {
        let mut packages: Vec<&'static str> = DEBIAN
            .into_iter()
            .filter(|(program, _)| match *program {
                "bridge-plugin" => cni_dir().is_none(),
                program => on_path(program).is_none(),
            })
            .map(|(_, package)| package)
            .collect();
        packages.dedup();
        packages
    };
    install_packages(&missing)
}

/// Installs the Debian packages that `missing` names, until it names none.
fn install_packages(missing: &dyn Fn() -> Vec<&'static str>) -> Result<()> {
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    let Some(apt) = on_path("apt-get") else {
        bail!(
            "programs are missing that Debian has in the packages {list}: install them, or set KUBECONFIG to test on a cluster you have"
        );
    };
    say(&format!("installing Debian packages: {list}"));
    let apt = |args: &[&str]| {
        run(Command::new(&apt)
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null()))
    };
    apt(&["update", "-q"])?;
    apt(&[
        &["install", "-y", "-q", "--no-install-recommends"],
        packages.as_slice(),
    ]
    .concat())?;
    match missing().as_slice() {
        [] => Ok(()),
        still => bail!("apt-get installed {list}, and yet programs of {still:?} are not on PATH"),
    }
}
