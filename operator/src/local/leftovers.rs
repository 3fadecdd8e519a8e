//! Processes of an earlier run that are still there: ended when they are provably ours, left alone otherwise.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::spawner::STATE_VARIABLE;

/// When a process began, in clock ticks since boot (proc(5), field 22 of `stat`): with the id it names one process, also after the id was used again.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    parse_start_time(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command name is in parentheses and may hold spaces and parentheses itself, so fields count from the last one.
fn parse_start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// True if the process was started by a fleet on this state folder: it carries the folder in its environment.
fn belongs_to(pid: u32, state_dir: &Path) -> bool {
    let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else {
        return false;
    };
    let mut wanted = format!("{STATE_VARIABLE}=").into_bytes();
    wanted.extend_from_slice(state_dir.as_os_str().as_encoded_bytes());
    environment
        .split(|byte| *byte == 0)
        .any(|variable| variable == wanted)
}

/// Ends the processes of an earlier run (id and start time as recorded, state folder in their environment), and answers their ids.
///
/// The caller holds the folder's lock, so nobody else supervises them.
pub(crate) fn end(recorded: &[(u32, u64)], state_dir: &Path) -> Vec<u32> {
    let mut ours: Vec<u32> = recorded
        .iter()
        .filter(|(pid, started)| start_time(*pid) == Some(*started) && belongs_to(*pid, state_dir))
        .map(|(pid, _)| *pid)
        .collect();
    let ended = ours.clone();
    for (signal, patience) in [
        (Signal::TERM, Duration::from_secs(5)),
        (Signal::KILL, Duration::from_secs(2)),
    ] {
        for pid in &ours {
            if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
                // It may have ended by itself meanwhile.
                let _ = kill_process(pid, signal);
            }
        }
        let began = Instant::now();
        while !ours.is_empty() && began.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(20));
            ours.retain(|pid| belongs_to(*pid, state_dir));
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn start_time_is_found_behind_a_hostile_command_name() {
        let stat = format!("42 (a) b) S {} 777 0", ["0"; 18].join(" "));
        assert_eq!(parse_start_time(&stat), Some(777));
    }

    #[test]
    fn only_a_process_of_this_folder_with_the_recorded_start_time_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let sleeper = |folder: &Path| {
            let child = Command::new("/bin/sleep")
                .arg("60")
                .env(STATE_VARIABLE, folder)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // Right after the spawn the kernel may still show an empty environment.
            let began = Instant::now();
            while !belongs_to(child.id(), folder) {
                assert!(began.elapsed() < Duration::from_secs(10), "no environment");
                std::thread::yield_now();
            }
            child
        };
        let (mut ours, mut other) = (sleeper(dir.path()), sleeper(Path::new("/elsewhere")));
        let recorded = |pid: u32| (pid, start_time(pid).unwrap());
        let mistaken = (ours.id(), start_time(ours.id()).unwrap() + 1);
        assert!(end(&[mistaken, recorded(other.id())], dir.path()).is_empty());
        assert!(other.try_wait().unwrap().is_none());
        let pid = ours.id();
        let reaper = std::thread::spawn(move || ours.wait());
        assert_eq!(end(&[recorded(pid)], dir.path()), vec![pid]);
        assert!(!reaper.join().unwrap().unwrap().success());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
