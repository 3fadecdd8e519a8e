//! `cargo xtask tidy`: the rules of the project that no compiler checks. Reads files that git knows or would add; writes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::run::{output, root, say};

/// Code lines of one file, without blank lines, comments and the tests at its end.
const MAX_CODE_LINES: usize = 600;

/// Names that say nothing about what a file holds.
const VAGUE_NAMES: [&str; 6] = ["utils", "util", "helpers", "helper", "misc", "common"];

pub(crate) fn tidy() -> Result<ExitCode> {
    let root = root();
    let files = files(&root)?;
    let mut complaints = Vec::new();
    for file in &files {
        let Ok(text) = fs::read_to_string(root.join(file)) else {
            continue;
        };
        let name = file.to_string_lossy();
        let mut complain = |what: String| complaints.push(format!("{name}: {what}"));
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => {
                check_header(&text, &mut complain);
                check_length(&text, &mut complain);
                check_name(file, &mut complain);
                check_hosts(&text, &mut complain);
            }
            Some("md") => check_links(&root, file, &text, &mut complain),
            Some("yaml" | "yml" | "mjs" | "js" | "py" | "toml") => {
                check_hosts(&text, &mut complain)
            }
            _ => {}
        }
        if file.ends_with("package-lock.json") && text.contains("\"resolved\"") {
            complain("names the host each package came from; make it with `npm install --omit-lockfile-registry-resolved`".to_owned());
        }
    }
    check_dependencies(&root, &mut complaints)?;
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    say(&format!(
        "tidy: {} files, {} complaints",
        files.len(),
        complaints.len()
    ));
    Ok(if complaints.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Paths under the root of all files that are in git or would be added by `git add --all`.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let listed = output(
        Command::new("git")
            .args([
                "ls-files",
                "--cached",
                "--others",
                "--exclude-standard",
                "-z",
            ])
            .current_dir(root),
    )
    .context("tidy asks git which files there are")?;
    let listed = String::from_utf8(listed).context("a file name is not UTF-8")?;
    Ok(listed
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|file| root.join(file).is_file())
        .collect())
}

/// Every dependency has a reason in docs/dependencies.md; our own crates need none.
fn check_dependencies(root: &Path, complaints: &mut Vec<String>) -> Result<()> {
    let manifest = fs::read_to_string(root.join("Cargo.toml")).context("Cargo.toml")?;
    let reasons =
        fs::read_to_string(root.join("docs/dependencies.md")).context("docs/dependencies.md")?;
    let names = manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name))
        .filter(|name| !name.starts_with("nightjar-"));
    complaints.extend(
        names
            .filter(|name| !reasons.contains(&format!("`{name}`")))
            .map(|name| format!("docs/dependencies.md: no reason for `{name}`")),
    );
    Ok(())
}

fn check_header(text: &str, complain: &mut impl FnMut(String)) {
    if !text.starts_with("//! ") {
        complain("opens without a `//!` line that says what it may and may not do".to_owned());
    }
}

fn check_length(text: &str, complain: &mut impl FnMut(String)) {
    let code = code_lines(text);
    if code > MAX_CODE_LINES {
        complain(format!(
            "{code} code lines, at most {MAX_CODE_LINES}: split it by concept"
        ));
    }
}

fn code_lines(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let end = lines.windows(2).position(|pair| {
        pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    });
    lines[..end.unwrap_or(lines.len())]
        .iter()
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count()
}

fn check_name(file: &Path, complain: &mut impl FnMut(String)) {
    let parts = file.with_extension("");
    for part in parts.components() {
        let Component::Normal(part) = part else {
            continue;
        };
        if VAGUE_NAMES.iter().any(|vague| part == *vague) {
            complain(format!("`{}` names no concept", part.to_string_lossy()));
        }
    }
}

/// No program here may talk to a host that is neither this machine nor reserved for examples.
fn check_hosts(text: &str, complain: &mut impl FnMut(String)) {
    for (number, line) in text.lines().enumerate() {
        for scheme in ["ws://", "wss://", "nats://", "tls://"] {
            for (at, _) in line.match_indices(scheme) {
                let rest = &line[at + scheme.len()..];
                let host: String = rest
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
                    .collect();
                // `ws://{host}` and prose such as `ws://...` name no host.
                if host.chars().any(|c| c.is_ascii_alphanumeric()) && !is_harmless_host(&host) {
                    complain(format!(
                        "line {}: `{scheme}{host}` is neither loopback nor reserved for examples",
                        number + 1
                    ));
                }
            }
        }
    }
}

/// Loopback, the names that RFC 2606 and RFC 6761 reserve, the addresses that RFC 5737 reserves, and names inside a cluster.
fn is_harmless_host(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let reserved = [
        "localhost",
        "example",
        "test",
        "invalid",
        "example.com",
        "example.org",
        "example.net",
        "svc",
        "svc.cluster.local",
    ];
    let blocks = ["127.", "0.0.0.0", "192.0.2.", "198.51.100.", "203.0.113."];
    reserved.iter().any(|name| host == *name || host.ends_with(&format!(".{name}")))
        || blocks.iter().any(|block| host.starts_with(block))
        // One label: a placeholder such as `host`, `relay-a` or `H`.
        || !host.contains('.')
}

fn check_links(root: &Path, file: &Path, text: &str, complain: &mut impl FnMut(String)) {
    for target in links(text) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
        let linked = match path {
            "" => file.to_path_buf(),
            absolute if absolute.starts_with('/') => PathBuf::from(&absolute[1..]),
            relative => file.parent().unwrap_or(Path::new("")).join(relative),
        };
        let on_disk = root.join(&linked);
        if !on_disk.exists() {
            complain(format!(
                "link to `{target}`: there is no {}",
                linked.display()
            ));
        } else if !anchor.is_empty()
            && on_disk
                .extension()
                .is_some_and(|extension| extension == "md")
        {
            let headings = headings(&fs::read_to_string(&on_disk).unwrap_or_default());
            if !headings.contains(anchor) {
                complain(format!(
                    "link to `{target}`: no heading of {} makes this anchor",
                    linked.display()
                ));
            }
        }
    }
}

/// Targets of `[text](target)` outside code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        // Every second piece lies between backticks.
        for piece in line.split('`').step_by(2) {
            for (at, _) in piece.match_indices("](") {
                let target: String = piece[at + 2..]
                    .chars()
                    .take_while(|c| !matches!(c, ')' | ' '))
                    .collect();
                found.push(target);
            }
        }
    }
    found
}

/// Anchors as the usual Markdown renderers make them of headings.
fn headings(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in prose(text).filter(|line| line.starts_with('#')) {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let anchor: String = title
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        anchors.insert(anchor);
    }
    anchors
}

/// Lines outside fenced code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blank_lines_and_tests_are_no_code_lines() {
        let text = "//! Header.\n\nuse a::b;\n// why\nfn f() {}\n\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n";
        assert_eq!(code_lines(text), 2);
    }

    #[test]
    fn links_in_code_are_no_links() {
        let text = "see [a](docs/a.md#b) and `[x](y)`\n```\n[c](d)\n```\n[e](https://example.com)";
        assert_eq!(links(text), ["docs/a.md#b", "https://example.com"]);
    }

    #[test]
    fn headings_become_anchors() {
        let anchors = headings("# What to do, now?\n```\n# not this\n```\n## `up` and down");
        assert_eq!(
            anchors.into_iter().collect::<Vec<_>>(),
            ["up-and-down", "what-to-do-now"]
        );
    }

    #[test]
    fn only_loopback_and_reserved_hosts_are_harmless() {
        for host in [
            "127.0.0.1",
            "localhost",
            "relay.example.com",
            "a.test",
            "host",
            "192.0.2.7",
        ] {
            assert!(is_harmless_host(host), "{host}");
        }
        for host in ["relay.damus.io", "10.0.0.1", "myexample.com", "8.8.8.8"] {
            assert!(!is_harmless_host(host), "{host}");
        }
    }
}
