//! `nightjar up`: the fleet of FILE in the foreground, then a hello across regions and what to type next.

use std::io::{IsTerminal, Stdout};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nightjar_operator::local::{
    self, LocalError, LocalEvent, LocalFleet, LocalOptions, RegionRelays, Signals, Style,
};
use nightjar_operator::plan::Durability;
use serde::Serialize;
use tokio::task::JoinHandle;

use crate::args::UpArgs;
use crate::code::Code;
use crate::context::Context;
use crate::demo::{self, Hello};
use crate::error::CliError;
use crate::{output, paths, running};

/// The hello as an event of `--json`, beside those of the fleet.
#[derive(Serialize)]
struct HelloEvent<'a> {
    event: &'static str,
    #[serde(flatten)]
    hello: &'a Hello,
    next: &'a [String],
}

type Greeting = JoinHandle<Result<Hello, CliError>>;

struct Up<'a> {
    context: &'a Context,
    console: local::Console<Stdout>,
    json: bool,
    state: PathBuf,
    started: Instant,
    /// Set once the fleet was ready for the first time.
    regions: Vec<RegionRelays>,
    demo: bool,
}

pub(crate) async fn run(args: UpArgs, context: &Context) -> Result<(), CliError> {
    let started = Instant::now();
    let state = state_folder(&args)?;
    let mut options = LocalOptions::new(&args.file, &state);
    if let Some(nats_server) = args.nats_server {
        options.nats_server = nats_server;
    }
    let cannot_catch =
        |error| CliError::new(Code::FleetFailed, "cannot catch Ctrl-C", "ulimit -a").because(error);
    let signals = Signals::catch().map_err(cannot_catch)?;
    let fleet = match local::start(options).await {
        Ok(fleet) => fleet,
        Err(error) => return Err(refused(&error, args.json, &args.file, &state)),
    };
    running::remember(&state)?;
    let style = Style::choose(args.json, std::io::stdout().is_terminal());
    let up = Up {
        context,
        console: local::Console::new(std::io::stdout(), style, width()),
        json: args.json,
        state,
        started,
        regions: Vec::new(),
        demo: !args.no_demo,
    };
    up.until_stopped(fleet, signals).await
}

impl Up<'_> {
    async fn until_stopped(
        mut self,
        mut fleet: LocalFleet,
        mut signals: Signals,
    ) -> Result<(), CliError> {
        let handle = fleet.handle();
        let mut stopping = false;
        let mut greeting: Option<Greeting> = None;
        loop {
            tokio::select! {
                event = fleet.events.recv() => match event {
                    None | Some(LocalEvent::Stopped) => {
                        self.show(&LocalEvent::Stopped);
                        return ended(stopping);
                    }
                    Some(LocalEvent::Ready { regions }) if self.regions.is_empty() => {
                        greeting = self.on_first_ready(regions);
                    }
                    Some(event) => self.show(&event),
                },
                hello = finished(&mut greeting), if greeting.is_some() => {
                    greeting = None;
                    self.on_hello(hello)?;
                }
                () = signals.next() => {
                    if stopping {
                        handle.kill().await;
                    } else {
                        stopping = true;
                        self.say("stopping: relays drain first; Ctrl-C once more kills everything");
                        handle.shutdown().await;
                    }
                }
            }
        }
    }

    /// All regions serve for the first time: their addresses, and the hello on its way.
    fn on_first_ready(&mut self, regions: Vec<RegionRelays>) -> Option<Greeting> {
        self.regions = regions;
        if self.json {
            self.show(&LocalEvent::Ready {
                regions: self.regions.clone(),
            });
        } else {
            self.say(&self.ready_text());
        }
        if !self.demo {
            return None;
        }
        let (state, regions) = (self.state.clone(), self.regions.clone());
        Some(tokio::spawn(
            async move { demo::hello(&state, &regions).await },
        ))
    }

    fn on_hello(&mut self, hello: Result<Hello, CliError>) -> Result<(), CliError> {
        match hello {
            Ok(hello) => {
                let next = self.next_commands();
                if self.json {
                    let event = HelloEvent {
                        event: "hello",
                        hello: &hello,
                        next: &next,
                    };
                    let line = serde_json::to_string(&event).unwrap_or_default();
                    return output::write(&format!("{line}\n"));
                }
                self.say(&hello_text(&hello, &next));
            }
            // The fleet itself is up; that its demo failed is told and does not end it.
            Err(error) if self.json => {
                let message = error.to_string().replace('\n', "; ");
                self.show(&LocalEvent::Error {
                    field: None,
                    message,
                });
            }
            Err(error) => self.context.console.error(&error.to_string()),
        }
        Ok(())
    }

    fn ready_text(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f32();
        let width = self
            .regions
            .iter()
            .map(|region| region.name.as_str().len())
            .max()
            .unwrap_or(0);
        let mut text = format!(
            "\nready after {seconds:.1} s: {} regions, {}\n\n",
            self.regions.len(),
            self.durability()
        );
        for region in &self.regions {
            text += &format!(
                "  region {:<width$}  {}\n",
                region.name.as_str(),
                region.relays.join("  ")
            );
        }
        text
    }

    fn durability(&self) -> &'static str {
        match local::read_status(&self.state).map(|status| status.durability) {
            Some(Durability::Replicated) => {
                "replicated: an OK means flushed to disk on most NATS servers of a region"
            }
            Some(Durability::Development) => {
                "for DEVELOPMENT: one copy, which survives a crash of the process, not power loss"
            }
            None => "durability unknown",
        }
    }

    /// Commands that work as they are printed, in another terminal in the same folder.
    fn next_commands(&self) -> Vec<String> {
        let nightjar = own_command();
        let name = |at: usize| {
            self.regions
                .get(at)
                .or(self.regions.first())
                .map_or("", |region| region.name.as_str())
        };
        let (first, second) = (name(0), name(1));
        vec![
            format!("{nightjar} send bob@demo 'Good evening, Bob' --as alice@demo --via {first}"),
            format!("{nightjar} inbox --as bob@demo --via {second}"),
            format!("{nightjar} watch --as bob@demo --via {second}"),
            format!("{nightjar} status"),
            format!("{nightjar} down"),
        ]
    }

    fn show(&mut self, event: &LocalEvent) {
        // Whoever read the output may be gone; the fleet goes on.
        let _ = self.console.show(event);
    }

    fn say(&mut self, text: &str) {
        let _ = self.console.say(text);
    }
}

fn hello_text(hello: &Hello, next: &[String]) -> String {
    let Hello {
        text,
        from,
        to,
        sent_in,
        read_in,
        took_ms,
    } = hello;
    let commands: String = next
        .iter()
        .map(|command| format!("  {command}\n"))
        .collect();
    format!(
        "hello: sealed by {from} in region {sent_in}, decrypted by {to} in region {read_in}, {took_ms} ms later\n\n  \
         \"{text}\"\n\nnow type, in another terminal:\n\n{commands}\nCtrl-C here stops the fleet; its data stays.\n"
    )
}

/// The outcome of the greeting, once it has one.
async fn finished(greeting: &mut Option<Greeting>) -> Result<Hello, CliError> {
    match greeting {
        Some(task) => task.await.unwrap_or_else(|error| {
            Err(
                CliError::new(Code::NoHello, "the hello was not sent", "nightjar status")
                    .because(error),
            )
        }),
        None => std::future::pending().await,
    }
}

fn ended(asked: bool) -> Result<(), CliError> {
    if asked {
        return Ok(());
    }
    Err(CliError::new(
        Code::FleetFailed,
        "the fleet ended by itself",
        "nightjar status",
    ))
}

/// The named folder, or one of this file's own.
fn state_folder(args: &UpArgs) -> Result<PathBuf, CliError> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|error| CliError::file("find", path, &error))
    };
    match &args.state {
        Some(state) => absolute(state),
        None => {
            let file = absolute(&args.file)?;
            let stem = file
                .file_stem()
                .and_then(|stem| stem.to_str())
                .unwrap_or("fleet");
            // Two files of one name in different folders are different fleets.
            paths::fleet(&format!(
                "{stem}-{:08x}",
                fnv1a(file.as_os_str().as_encoded_bytes())
            ))
        }
    }
}

/// FNV-1a, 32 bit: a stable short name for a path, not a secret.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// How this program is called from where the user is: `nightjar` when PATH finds it, else its path.
fn own_command() -> String {
    let Ok(program) = std::env::current_exe() else {
        return "nightjar".to_owned();
    };
    let same = |path: &Path| {
        path.canonicalize()
            .is_ok_and(|path| Some(path) == program.canonicalize().ok())
    };
    let folders = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&folders)
        .map(|folder| folder.join("nightjar"))
        .find(|path| path.is_file())
        && same(&found)
    {
        return "nightjar".to_owned();
    }
    // PWD is the folder of the user's shell even when whoever started us changed the current one.
    let shell_folder = std::env::var_os("PWD").map(PathBuf::from);
    let below =
        shell_folder.and_then(|folder| program.strip_prefix(folder).ok().map(Path::to_owned));
    quoted(&below.unwrap_or(program).display().to_string())
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn width() -> u16 {
    rustix::termios::tcgetwinsize(std::io::stdout()).map_or(100, |size| size.ws_col.max(40))
}

/// Why nothing was started. With `--json` also as events, as the fleet itself would tell.
fn refused(error: &LocalError, json: bool, file: &Path, state: &Path) -> CliError {
    if json {
        for event in error.events() {
            let line = serde_json::to_string(&event).unwrap_or_default();
            if output::write(&format!("{line}\n")).is_err() {
                break;
            }
        }
    }
    let file = quoted(&file.display().to_string());
    match error {
        LocalError::Fields(_, fields) => {
            let message = format!("{file} is refused");
            let refusal = CliError::new(
                Code::BadFleet,
                message,
                format!("correct it, then nightjar up {file}"),
            );
            fields
                .iter()
                .fold(refusal, |refusal, field| refusal.because(field))
        }
        LocalError::File { .. } => {
            CliError::new(Code::BadFleet, error.to_string(), format!("ls -l {file}"))
        }
        LocalError::StateFolder { .. } => CliError::new(
            Code::File,
            error.to_string(),
            format!("nightjar up {file} --state DIR"),
        ),
        LocalError::AlreadyRunning { .. } => {
            let next = format!(
                "nightjar status --state {}",
                quoted(&state.display().to_string())
            );
            CliError::new(Code::FleetLocked, error.to_string(), next)
        }
        other => CliError::new(
            Code::FleetFailed,
            other.to_string(),
            format!("nightjar up {file}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_name_in_two_folders_have_their_own_state() {
        let folder = |file: &str| {
            let args = UpArgs {
                file: file.into(),
                state: None,
                json: false,
                nats_server: None,
                no_demo: false,
            };
            state_folder(&args).unwrap()
        };
        assert_ne!(folder("/a/fleet.yaml"), folder("/b/fleet.yaml"));
        assert_eq!(folder("/a/fleet.yaml"), folder("/a/fleet.yaml"));
    }

    #[test]
    fn printed_words_survive_the_shell() {
        assert_eq!(quoted("target/debug/nightjar"), "target/debug/nightjar");
        assert_eq!(
            quoted("/home/o'neil/my fleet"),
            r"'/home/o'\''neil/my fleet'"
        );
    }
}
