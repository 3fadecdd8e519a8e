//! The verb `local`: a fleet from start to end in a terminal or a script.

use std::io::Write;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Console, LocalError, LocalEvent, LocalOptions, start};

/// Ctrl-C, SIGTERM, and the end of the terminal: the first asks a fleet to stop, the second kills it.
#[derive(Debug)]
pub struct Signals([Signal; 3]);

impl Signals {
    /// Begins to catch them.
    pub fn catch() -> std::io::Result<Self> {
        let catch = |kind| signal(kind);
        Ok(Self([
            catch(SignalKind::interrupt())?,
            catch(SignalKind::terminate())?,
            catch(SignalKind::hangup())?,
        ]))
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Runs a fleet until a signal ends it, and shows what happens. An error means that nothing was started.
pub async fn run<W: Write>(
    options: LocalOptions,
    console: &mut Console<W>,
) -> Result<(), LocalError> {
    let mut signals = Signals::catch().map_err(LocalError::Thread)?;
    let mut fleet = start(options).await?;
    let handle = fleet.handle();
    let mut stopping = false;
    loop {
        tokio::select! {
            event = fleet.events.recv() => {
                let Some(event) = event else { return Ok(()) };
                // Whoever read the output may be gone; the fleet goes on.
                let _ = console.show(&event);
                if event == LocalEvent::Stopped {
                    return Ok(());
                }
            }
            () = signals.next() => {
                if stopping {
                    handle.kill().await;
                } else {
                    stopping = true;
                    let _ = console.say("stopping: relays drain first; once more kills everything");
                    handle.shutdown().await;
                }
            }
        }
    }
}
