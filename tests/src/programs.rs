//! The programs under test, as cargo built them, and how a test starts one that does not outlive it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The path of `nightjar`, `nightjar-relay` or `nightjar-operator`, built into the same folder as this program.
pub fn program(name: &str) -> PathBuf {
    let program = profile_dir().join(name);
    assert!(
        program.is_file(),
        "{} is not built: run `cargo xtask test`, or `cargo build --workspace --bins` first",
        program.display()
    );
    program
}

/// `<target>/<profile>`: programs lie in it, test programs in its folder `deps`.
fn profile_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("the path of this program");
    let dir = exe.parent().expect("a program lies in a folder");
    let dir = if dir.ends_with("deps") {
        dir.parent().expect("deps lies in a folder")
    } else {
        dir
    };
    dir.to_path_buf()
}

/// The nats-server for the fleets: what `cargo xtask test` found, or what is on PATH.
pub fn nats_server() -> OsString {
    std::env::var_os("NATS_SERVER").unwrap_or_else(|| "nats-server".into())
}

/// The root of the clone.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests crate lies in the workspace")
        .to_path_buf()
}

/// The text of `examples/<name>`.
pub fn example(name: &str) -> String {
    let path = root().join("examples").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Has the kernel kill the child when the thread that starts it ends. That thread must live as long as the child shall.
#[expect(
    unsafe_code,
    reason = "pre_exec has no safe form; the closure makes one system call and allocates nothing"
)]
pub fn dies_with_this_thread(command: &mut Command) {
    let set = || {
        Ok(rustix::process::set_parent_process_death_signal(Some(
            rustix::process::Signal::KILL,
        ))?)
    };
    // SAFETY: prctl is async-signal-safe, and nothing else runs between fork and exec.
    unsafe { command.pre_exec(set) };
}

/// A new folder of this test run, under cargo's target folder. Folders of runs that ended are removed first, so a
/// run that was killed leaves nothing for long; the folder of a run that failed is there until the next one.
pub fn fresh_dir(name: &str) -> PathBuf {
    let profile = profile_dir();
    let target = profile.parent().expect("<target>/<profile>");
    let base = target.join("tmp/fleets");
    std::fs::create_dir_all(&base).expect("a folder for fleets");
    for entry in std::fs::read_dir(&base)
        .expect("the folder for fleets")
        .flatten()
    {
        let file_name = entry.file_name();
        let pid = file_name
            .to_str()
            .and_then(|name| name.rsplit_once('.'))
            .and_then(|(_, pid)| pid.parse::<i32>().ok());
        let alive = pid
            .and_then(rustix::process::Pid::from_raw)
            .is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok());
        if !alive {
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
    let dir = (0..)
        .map(|n| base.join(format!("{name}-{n}.{}", std::process::id())))
        .find(|dir| !dir.exists());
    let dir = dir.expect("some number is free");
    std::fs::create_dir_all(&dir).expect("a folder for this fleet");
    dir
}
