//! Images of the workspace's programs: built from the repository's Dockerfile on a base made of Debian packages, measured, and
//! handed to every node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::node::{export, import};
use super::on_all_nodes;
use super::parts::Buildah;
use super::plan::{self, Node};
use crate::cache;
use crate::nats::nats_server;
use crate::run::{cargo, root, run, say, target_dir};

/// Targets of the Dockerfile, each with its program and the most bytes that its image may have.
const IMAGES: [(&str, &str, u64); 4] = [
    ("relay", "nightjar-relay", 60_000_000),
    ("operator", "nightjar-operator", 60_000_000),
    ("cli", "nightjar", 80_000_000),
    ("nats-server", "nats-server", 60_000_000),
];

const BASE_IMAGE: &str = "localhost/nightjar-test/base:1";
/// What the public base of the Dockerfile has too.
const BASE_PACKAGES: &str = "libc6,libgcc-s1,ca-certificates,netbase,tzdata";
const BASE_CERTIFICATES: &str = "--extract-hook=cat \"$1\"/usr/share/ca-certificates/mozilla/*.crt > \"$1\"/etc/ssl/certs/ca-certificates.crt";
const BASE_SUITE: &str = "bookworm";

/// What `load-images` is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// Of all four images.
    tag: String,
    /// The profile of cargo that the programs are built with.
    profile: String,
    /// A docker archive to load in place of the workspace's images.
    archive: Option<PathBuf>,
    /// The operator alone, as of this version.
    operator: Option<String>,
}

impl Request {
    /// The operator alone, built under another version and tagged with it.
    pub(super) fn of_operator(version: &str) -> Result<Self> {
        Self::parse(&["--tag", version, "--operator", version])
    }

    pub(super) fn parse(args: &[&str]) -> Result<Self> {
        let mut request = Self {
            tag: "dev".to_owned(),
            profile: "image".to_owned(),
            archive: None,
            operator: None,
        };
        let mut args = args.iter();
        while let Some(option) = args.next() {
            let value = args
                .next()
                .with_context(|| format!("`{option}` needs a value"))?;
            match *option {
                "--tag" => request.tag = (*value).to_owned(),
                "--profile" => request.profile = (*value).to_owned(),
                "--archive" => request.archive = Some(PathBuf::from(value)),
                "--operator" => request.operator = Some((*value).to_owned()),
                other => bail!(
                    "unknown option `{other}`; `cluster load-images [--tag TAG] [--profile PROFILE] [--operator VERSION] [--archive FILE]`"
                ),
            }
        }
        Ok(request)
    }
}

impl Request {
    fn images(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let of_operator = self.operator.is_some();
        IMAGES
            .into_iter()
            .filter(move |(target, ..)| !of_operator || *target == "operator")
    }

    fn compile(&self) -> Result<()> {
        // Always the whole workspace: another choice of packages would build their dependencies with other features.
        let mut build = cargo(&["build", "--profile", &self.profile, "--workspace", "--bins"]);
        if let Some(version) = &self.operator {
            build.env("NIGHTJAR_VERSION", version);
        }
        run(build.arg("--target-dir").arg(self.target_dir()?))
    }

    /// Where the programs are built. Those of the profile `image` in the cache: their dependencies take minutes, and change rarely.
    fn target_dir(&self) -> Result<PathBuf> {
        match self.profile.as_str() {
            "image" => Ok(cache::dir()?.join("image-target")),
            _ => target_dir(),
        }
    }
}

/// The name under which pods ask for the image of a target.
fn image_name(target: &str, tag: &str) -> String {
    format!("localhost/nightjar/{target}:{tag}")
}

/// Builds the images and hands them to all `nodes`, or hands them the archive that `request` names.
pub(super) fn load(request: &Request, nodes: &[Node]) -> Result<()> {
    if let Some(archive) = &request.archive {
        return on_all_nodes(nodes, |node| import(node, archive));
    }
    let nats_server = nats_server()?;
    say(&format!(
        "building the programs (profile {})",
        request.profile
    ));
    request.compile()?;
    let _lock = super::lock()?;
    let work = plan::run_dir().join("images");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(work.join("context"))?;
    let start = Instant::now();
    let archives = build(request, &nats_server, &work)?;
    on_all_nodes(nodes, |node| {
        archives
            .iter()
            .try_for_each(|archive| import(node, archive))
    })?;
    fs::remove_dir_all(&work)?;
    say(&format!(
        "every node has the images, after {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// An image of its own on top of that of the relays, for a policy program: `folder` holds its Dockerfile and what that copies.
pub(super) fn derive(tag: &str, folder: &Path, nodes: &[Node]) -> Result<()> {
    let node = nodes.first().context("a cluster has nodes")?;
    let image = image_name("relay", tag);
    let _lock = super::lock()?;
    let work = plan::run_dir().join("derived");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    let buildah = Buildah::new(&work)?;
    let base = work.join("base.tar");
    export(node, &image_name("relay", "dev"), &base)?;
    buildah.load(&base)?;
    let file = folder.join("Dockerfile");
    buildah.build(&file, folder, &image, &["--pull=never".to_owned()])?;
    let archive = work.join("relay.tar");
    buildah.archive(&image, &archive)?;
    on_all_nodes(nodes, |node| import(node, &archive))?;
    Ok(fs::remove_dir_all(&work)?)
}

/// Gives every image of a tag but the operator's another one too.
pub(super) fn alias(tag: &str, other: &str, nodes: &[Node]) -> Result<()> {
    on_all_nodes(nodes, |node| {
        IMAGES
            .iter()
            .filter(|(target, ..)| *target != "operator")
            .try_for_each(|(target, ..)| {
                super::node::alias(node, &image_name(target, tag), &image_name(target, other))
            })
    })
}

/// Docker archives of the images, under `work`.
fn build(request: &Request, nats_server: &Path, work: &Path) -> Result<Vec<PathBuf>> {
    let context = work.join("context");
    let folder = match request.profile.as_str() {
        "dev" | "test" => "debug",
        "bench" => "release",
        other => other,
    };
    let programs = request.target_dir()?.join(folder);
    let buildah = Buildah::new(work)?;
    let base = base()?;
    let base_context = base.parent().context("the base lies in no folder")?;
    let base_file = work.join("Dockerfile.base");
    fs::write(&base_file, "FROM scratch\nADD base.tar /\n")?;
    buildah.build(&base_file, base_context, BASE_IMAGE, &[])?;
    let mut archives = Vec::new();
    for (target, program, limit) in request.images() {
        let source = match target {
            "nats-server" => nats_server.to_path_buf(),
            _ => programs.join(program),
        };
        fs::copy(&source, context.join(program))
            .with_context(|| format!("cannot copy {}", source.display()))?;
        // Without names of functions and lines, which the profiles for people keep.
        run(Command::new("strip")
            .arg(context.join(program))
            .stdin(Stdio::null()))?;
        let image = image_name(target, &request.tag);
        let args = [
            "--target".to_owned(),
            target.to_owned(),
            "--build-arg".to_owned(),
            format!("BASE={BASE_IMAGE}"),
        ];
        buildah.build(&root().join("Dockerfile"), &context, &image, &args)?;
        // The next build's context is this program's folder: it must not grow.
        fs::remove_file(context.join(program))?;
        let archive = work.join(format!("{target}.tar"));
        buildah.archive(&image, &archive)?;
        let bytes = archive.metadata()?.len();
        say(&format!("{image}: {}", megabytes(bytes)));
        // Programs of other profiles are for trying things out.
        if bytes > limit && request.profile == "image" {
            bail!(
                "the image of {target} has {}, more than the {} it may have",
                megabytes(bytes),
                megabytes(limit)
            );
        }
        archives.push(archive);
    }
    Ok(archives)
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// A root file system with glibc, certificates and time zones, as a tar archive.
fn base() -> Result<PathBuf> {
    let pins = format!("{BASE_SUITE} {BASE_PACKAGES} {BASE_CERTIFICATES}");
    let dir = cache::filled("cluster-base", pins.as_bytes(), |dir| {
        say("making the base of the images from Debian packages (once)");
        run(Command::new("mmdebstrap")
            .args(["--quiet", "--variant=extract"])
            .arg(format!("--include={BASE_PACKAGES}"))
            // No package's scripts run, so the one file that TLS libraries read is made here.
            .arg(BASE_CERTIFICATES)
            .arg(BASE_SUITE)
            .arg(dir.join("base.tar"))
            .stdin(Stdio::null()))
    })?;
    Ok(dir.join("base.tar"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_override_what_is_usual() {
        let usual = Request::parse(&[]).ok();
        assert_eq!(
            usual.map(|request| (request.tag, request.profile, request.archive)),
            Some(("dev".to_owned(), "image".to_owned(), None))
        );
        let named = Request::parse(&["--tag", "next", "--profile", "dev"]).ok();
        assert_eq!(
            named.map(|request| (request.tag, request.profile)),
            Some(("next".to_owned(), "dev".to_owned()))
        );
        assert!(Request::parse(&["--tag"]).is_err());
        assert!(Request::parse(&["--tga", "x"]).is_err());
        let other = Request::of_operator("dev-2").expect("options that are known");
        let images: Vec<_> = other.images().map(|(target, ..)| target).collect();
        assert_eq!((other.tag.as_str(), images), ("dev-2", vec!["operator"]));
    }

    #[test]
    fn every_image_is_a_target_of_the_dockerfile_that_runs_its_program_as_nobody() {
        let dockerfile = include_str!("../../../Dockerfile");
        for (target, program, _) in IMAGES {
            let stage = dockerfile
                .split("FROM ")
                .find(|stage| stage.starts_with(&format!("${{BASE}} AS {target}\n")))
                .unwrap_or_default();
            assert!(
                stage.contains(&format!("ARG BINARY={program}\n")),
                "{target}"
            );
            assert!(stage.contains("USER 65532:65532\n"), "{target}");
            assert!(
                stage.contains(&format!("ENTRYPOINT [\"/usr/local/bin/{program}\"]")),
                "{target}"
            );
        }
    }
}
