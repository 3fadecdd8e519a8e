//! Collects the pages of `docs/runbooks/` for `nightjar runbook`; without that folder there are none. Reads there, writes to OUT_DIR only.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names OUT_DIR"));
    let crate_dir =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the crate"));
    let docs = crate_dir.join("../docs");
    let folder = docs.join("runbooks");
    // Of a folder that is not there, the parent tells when it comes.
    let watched = if folder.is_dir() { &folder } else { &docs };
    println!("cargo::rerun-if-changed={}", watched.display());
    let mut text = "&[\n".to_owned();
    for (name, path) in pages(&folder) {
        println!("cargo::rerun-if-changed={}", path.display());
        let path = path.display().to_string();
        writeln!(text, "    ({name:?}, include_str!({path:?})),").expect("a String takes all");
    }
    text += "]\n";
    fs::write(out.join("runbooks.rs"), text).expect("OUT_DIR can be written");
}

/// Name and path of every page, by name. A README is about the pages, not one of them.
fn pages(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let mut pages: Vec<(String, PathBuf)> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path)))
        .filter(|(name, _)| name != "README")
        .collect();
    pages.sort();
    pages
}
