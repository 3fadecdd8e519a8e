//! `cargo xtask test [--long] [FILTER]`: builds what the tests start, runs every test, and adds up what cargo reported.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::clients;
use crate::kubernetes;
use crate::nats::nats_server;
use crate::run::{BUILD_PROGRAMS, cargo, output, root, run, say, stream, target_dir};
use crate::tools;

/// The sum over the `test result:` lines of a run.
#[derive(Default, Debug, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Totals {
    /// Adds what the line `test result: ok. 3 passed; 0 failed; 1 ignored; ...` says; any other line adds nothing.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split(';') {
            let mut words = count.split_whitespace();
            let (Some(Ok(number)), Some(what)) =
                (words.next().map(str::parse::<u64>), words.next())
            else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

pub(crate) fn test(args: &[String]) -> Result<ExitCode> {
    let (options, filters): (Vec<&String>, Vec<&String>) =
        args.iter().partition(|arg| arg.starts_with('-'));
    if let Some(unknown) = options.iter().find(|option| option.as_str() != "--long") {
        bail!("unknown option `{unknown}`; `cargo xtask test [--long] [FILTER]`");
    }
    if filters.len() > 1 {
        bail!("one FILTER at most, a part of a test's name");
    }
    let long = !options.is_empty();
    let filter = filters.first().map(|filter| filter.as_str());

    let nats_server = nats_server()?;
    say(&format!("nats-server: {}", nats_server.display()));
    say("building the programs and the tests");
    run(&mut cargo(&BUILD_PROGRAMS))?;
    // Tests run the example plugin too.
    run(&mut cargo(&["build", "--workspace", "--examples"]))?;

    // The tests write here what they measured and what they had to leave out, one line each.
    let report = target_dir()?.join("test-report.txt");
    fs::write(&report, "").with_context(|| format!("cannot write {}", report.display()))?;
    let mut environment: Vec<(String, OsString)> = vec![
        ("NATS_SERVER".to_owned(), nats_server.into()),
        ("NIGHTJAR_TEST_REPORT".to_owned(), report.clone().into()),
    ];
    if long {
        environment.push(("NIGHTJAR_LONG".to_owned(), "1".into()));
    }
    let clients = [
        ("NIGHTJAR_INTEROP_NODE", clients::node()),
        ("NIGHTJAR_INTEROP_PYTHON", clients::python()),
    ];
    for (name, installed) in clients.into_iter().chain(tools::of_the_chart()) {
        environment.push(match installed {
            Ok(dir) => (name.to_owned(), dir.into()),
            Err(error) => (format!("{name}_MISSING"), format!("{error:#}").into()),
        });
    }

    let mut totals = Totals::default();
    let mut all_ran = true;
    // The whole workspace each time, for the same features of the dependencies; what runs is chosen by the names of targets.
    let fleets = test_arguments("tests", |name| !kubernetes::TARGETS.contains(&name))?;
    for (targets, harness) in [
        (unit_and_crate_tests()?, None),
        // One fleet is some 15 processes: one at a time, the tests of a file in turn.
        (fleets, Some("--test-threads=1")),
        (vec!["--doc".to_owned()], None),
    ] {
        say(&format!("cargo test {}", targets.join(" ")));
        let mut command = cargo_test(&targets, filter);
        command.args(harness).envs(environment.iter().cloned());
        all_ran &= run_tests(&mut command, &mut totals)?;
    }
    all_ran &= on_kubernetes(filter, &environment, &mut totals)?;
    print_report(&report);
    if totals.ignored > 0 {
        say(&format!("{} tests are marked #[ignore]", totals.ignored));
    }
    if !all_ran && totals.failed == 0 {
        say("cargo test failed without naming a test: see above");
        totals.failed = 1;
    }
    eprintln!("{} passed, {} failed", totals.passed, totals.failed);
    Ok(if totals.failed == 0 && totals.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// `cargo test` of some targets up to the arguments of their harness.
fn cargo_test(targets: &[String], filter: Option<&str>) -> Command {
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast"]);
    command.args(targets).args(filter).arg("--");
    command
}

/// The tests on a real Kubernetes, if the filter leaves any; only then a cluster is started.
fn on_kubernetes(
    filter: Option<&str>,
    environment: &[(String, OsString)],
    totals: &mut Totals,
) -> Result<bool> {
    let mut chosen = Vec::new();
    for name in kubernetes::TARGETS {
        let target = ["--test".to_owned(), name.to_owned()];
        let filter = kubernetes::filter(name, filter);
        let listed = output(cargo_test(&target, filter).arg("--list"))?;
        let tests = String::from_utf8_lossy(&listed);
        if tests.lines().any(|line| line.ends_with(": test")) {
            chosen.push((target, filter));
        }
    }
    if chosen.is_empty() {
        return Ok(true);
    }
    let began = Instant::now();
    let cluster = kubernetes::Ready::prepare();
    let mut all_ran = true;
    for (target, filter) in chosen {
        say(&format!("cargo test {}", target.join(" ")));
        let mut command = cargo_test(&target, filter);
        command
            .arg(kubernetes::THREADS)
            .envs(environment.iter().cloned())
            .envs(cluster.environment.iter().cloned());
        all_ran &= run_tests(&mut command, totals)?;
    }
    drop(cluster);
    say(&format!(
        "the part on Kubernetes took {} s",
        began.elapsed().as_secs()
    ));
    Ok(all_ran)
}

/// Arguments of `cargo test` for everything that starts no fleet.
fn unit_and_crate_tests() -> Result<Vec<String>> {
    let mut arguments = vec!["--lib".to_owned(), "--bins".to_owned()];
    for entry in fs::read_dir(root())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "tests" && root().join(&name).join("Cargo.toml").is_file() {
            arguments.extend(test_arguments(&name, |_| true)?);
        }
    }
    Ok(arguments)
}

/// `--test NAME` for each file of a crate's `tests/` folder; a name may stand for one target of the workspace only.
fn test_arguments(package: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let dir = root().join(package).join("tests");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).into_iter().flatten() {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            || path.join("main.rs").is_file()
        {
            names.extend(
                path.file_stem()
                    .map(|name| name.to_string_lossy().into_owned()),
            );
        }
    }
    names.retain(|name| wanted(name));
    names.sort();
    Ok(names
        .into_iter()
        .flat_map(|name| ["--test".to_owned(), name])
        .collect())
}

/// One `cargo test`; false if a test or the build failed.
fn run_tests(command: &mut Command, totals: &mut Totals) -> Result<bool> {
    stream(command, |line| {
        totals.add(line);
        // Empty targets say nothing worth reading.
        if !line.is_empty()
            && !line.starts_with("running 0 tests")
            && !line.starts_with("test result: ok. 0 passed; 0 failed; 0 ignored")
        {
            eprintln!("{line}");
        }
    })
}

fn print_report(report: &Path) {
    let lines = fs::read_to_string(report).unwrap_or_default();
    for (kind, title) in [
        ("measured ", "Measured:"),
        ("skipped ", "Skipped, and why:"),
    ] {
        let of_kind: Vec<&str> = lines
            .lines()
            .filter_map(|line| line.strip_prefix(kind))
            .collect();
        if !of_kind.is_empty() {
            eprintln!("{title}\n  {}", of_kind.join("\n  "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up_over_result_lines_alone() {
        let mut totals = Totals::default();
        for line in [
            "running 4 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 2 passed; 5 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.23s",
            "the test result: ok. 9 passed; of somebody's own printing",
        ] {
            totals.add(line);
        }
        assert_eq!(
            totals,
            Totals {
                passed: 5,
                failed: 5,
                ignored: 1
            }
        );
    }
}
