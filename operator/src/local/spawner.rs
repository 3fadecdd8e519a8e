//! Starts child processes that die with this one, from a thread that lives as long as they may. The only unsafe code of the crate is here.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use tokio::process::Child;
use tokio::sync::oneshot;

/// Set in every child's environment to the absolute state folder, so that a later start can prove a leftover its own.
pub(crate) const STATE_VARIABLE: &str = "NIGHTJAR_STATE";

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The executable.
    pub(crate) path: PathBuf,
    /// Its arguments; never a secret.
    pub(crate) arguments: Vec<OsString>,
    /// Folder in which it runs.
    pub(crate) folder: PathBuf,
    /// File that receives its output, started anew at each start of the fleet and appended to on restarts.
    pub(crate) log: PathBuf,
    /// The absolute state folder of the fleet.
    pub(crate) state_dir: PathBuf,
}

struct Request {
    program: Program,
    answer: oneshot::Sender<io::Result<Child>>,
}

/// A handle to the spawning thread. The thread ends when the last handle is dropped, and with it every child.
///
/// The system sends the death signal when the *thread* that started a child ends, not its process: a worker thread
/// of the async runtime may end early, so children need a thread of their own.
#[derive(Debug, Clone)]
pub(crate) struct Spawner {
    requests: mpsc::Sender<Request>,
}

impl Spawner {
    /// Starts the thread. Call it within a tokio runtime.
    pub(crate) fn start() -> io::Result<Self> {
        let (requests, inbox) = mpsc::channel::<Request>();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                let _inside = runtime.enter();
                while let Ok(request) = inbox.recv() {
                    // A requester that went away dropped its receiver; the child is killed on drop.
                    let _ = request.answer.send(spawn(&request.program));
                }
            })?;
        Ok(Self { requests })
    }

    /// Starts a program. The child is killed when the returned handle is dropped.
    pub(crate) async fn spawn(&self, program: Program) -> io::Result<Child> {
        let (answer, result) = oneshot::channel();
        let gone = || io::Error::other("the spawning thread has ended");
        self.requests
            .send(Request { program, answer })
            .map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

fn spawn(program: &Program) -> io::Result<Child> {
    let log = open_log(&program.log)?;
    let mut command = Command::new(&program.path);
    command
        .args(&program.arguments)
        .current_dir(&program.folder)
        .env(STATE_VARIABLE, &program.state_dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C in a terminal reaches the whole foreground group; who stops when is for the supervisor to say.
        .process_group(0);
    die_with_parent(&mut command);
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true).spawn()
}

fn open_log(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

#[cfg(target_os = "linux")]
#[allow(
    unsafe_code,
    reason = "only a call between fork and exec can ask for the death signal"
)]
fn die_with_parent(command: &mut Command) {
    use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
    let parent = getpid();
    // SAFETY: the closure runs in the child between fork and exec; it makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the signal was asked for.
            if getppid() == Some(parent) {
                Ok(())
            } else {
                Err(io::Error::from(io::ErrorKind::BrokenPipe))
            }
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_of_a_child_goes_to_its_log_and_the_state_folder_is_in_its_environment() {
        let dir = tempfile::tempdir().unwrap();
        let spawner = Spawner::start().unwrap();
        let program = Program {
            path: "/bin/sh".into(),
            arguments: vec!["-c".into(), format!("echo in ${STATE_VARIABLE}").into()],
            folder: dir.path().to_owned(),
            log: dir.path().join("sh.log"),
            state_dir: dir.path().to_owned(),
        };
        let mut child = spawner.spawn(program).await.unwrap();
        assert!(child.wait().await.unwrap().success());
        let log = std::fs::read_to_string(dir.path().join("sh.log")).unwrap();
        assert_eq!(log, format!("in {}\n", dir.path().display()));
    }

    #[tokio::test]
    async fn children_die_when_the_last_spawner_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let spawner = Spawner::start().unwrap();
        let program = Program {
            path: "/bin/sleep".into(),
            arguments: vec!["600".into()],
            folder: dir.path().to_owned(),
            log: dir.path().join("sleep.log"),
            state_dir: dir.path().to_owned(),
        };
        let mut child = spawner.spawn(program).await.unwrap();
        drop(spawner);
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(child.wait().await.unwrap().signal(), Some(9));
    }
}
