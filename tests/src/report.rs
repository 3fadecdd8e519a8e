//! Lines that `cargo xtask test` shows at its end: figures that a test measured, and what was left out with the reason.

use std::fs::OpenOptions;
use std::io::Write;

/// A figure for the reader, such as `fleet ready: 9.8 s`.
pub fn measured(line: &str) {
    append("measured", line);
}

/// A test, or a part of one, that cannot run on this machine, and why.
pub fn skipped(test: &str, why: &str) {
    append("skipped", &format!("{test}: {why}"));
}

fn append(kind: &str, line: &str) {
    let written = std::env::var_os("NIGHTJAR_TEST_REPORT")
        .and_then(|path| OpenOptions::new().append(true).create(true).open(path).ok())
        .and_then(|mut file| writeln!(file, "{kind} {line}").ok());
    if written.is_none() {
        // Not through the macros: the test harness swallows their output when the test passes.
        writeln!(std::io::stderr(), "{kind}: {line}").ok();
    }
}
