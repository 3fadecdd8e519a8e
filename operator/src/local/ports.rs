//! Ports on loopback: chosen once, proven free before a start, and when taken, by whom.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};

use super::LocalError;

/// First port that is ever chosen: below it live well-known services.
const LOWEST: u16 = 15_000;

/// Chooses free ports and never the same twice.
///
/// It stays below the range from which the system takes the source ports of outgoing connections: a port of a server
/// that is being restarted could otherwise be taken by a connection of its own neighbours.
#[derive(Debug)]
pub(crate) struct PortChooser {
    used: HashSet<u16>,
    next: u16,
    highest: u16,
}

impl PortChooser {
    /// A chooser that avoids `used`, and begins at a random place so that fleets started together seldom meet.
    pub(crate) fn new(used: HashSet<u16>) -> Self {
        let highest = ephemeral_start()
            .filter(|start| *start > LOWEST + 1000)
            .unwrap_or(32_768)
            - 1;
        let next = rand::random_range(LOWEST..highest);
        Self {
            used,
            next,
            highest,
        }
    }

    /// A port that was free a moment ago.
    pub(crate) fn choose(&mut self) -> Result<u16, LocalError> {
        for _ in LOWEST..self.highest {
            let port = self.next;
            self.next = if port + 1 >= self.highest {
                LOWEST
            } else {
                port + 1
            };
            if !self.used.contains(&port) && can_bind(port).is_ok() {
                self.used.insert(port);
                return Ok(port);
            }
        }
        Err(LocalError::NoFreePort)
    }
}

/// Proves that a port can be listened on, or says who holds it.
pub(crate) fn prove_free(process: &str, purpose: &str, port: u16) -> Result<(), LocalError> {
    match can_bind(port) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(LocalError::PortTaken {
            process: process.to_owned(),
            purpose: purpose.to_owned(),
            port,
            holder: holder_of(port).unwrap_or_else(|| "another process".to_owned()),
        }),
        // Anything else the server itself reports better.
        _ => Ok(()),
    }
}

fn can_bind(port: u16) -> std::io::Result<()> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop)
}

fn ephemeral_start() -> Option<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    range.split_whitespace().next()?.parse().ok()
}

/// Name and id of the process that listens on a port, as far as this user may see it.
fn holder_of(port: u16) -> Option<String> {
    let mut inodes = HashSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        inodes.extend(listening_inodes(
            &std::fs::read_to_string(table).unwrap_or_default(),
            port,
        ));
    }
    let sockets: Vec<String> = inodes
        .into_iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let holds = files.flatten().any(|file| {
            std::fs::read_link(file.path()).is_ok_and(|target| {
                sockets
                    .iter()
                    .any(|socket| target.as_os_str() == socket.as_str())
            })
        });
        if holds {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("process {pid} ({})", name.trim()));
        }
    }
    None
}

/// Inodes of the sockets in a `/proc/net/tcp` table that listen on a port (proc(5): local address is hex, state 0A listens).
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next()?;
            let state = fields.nth(1)?;
            (local.ends_with(&suffix) && state == "0A").then(|| fields.nth(5)?.parse().ok())?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_ports_are_free_different_and_outside_the_range_of_outgoing_connections() {
        let mut chooser = PortChooser::new(HashSet::new());
        let ports: HashSet<u16> = (0..50).map(|_| chooser.choose().unwrap()).collect();
        assert_eq!(ports.len(), 50);
        let start = ephemeral_start().unwrap_or(32_768);
        assert!(ports.iter().all(|port| *port >= LOWEST && *port < start));
    }

    #[test]
    fn a_taken_port_names_the_process_that_holds_it() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let message = prove_free("a-nats-0", "client", port)
            .unwrap_err()
            .to_string();
        assert!(message.contains(&port.to_string()), "{message}");
        assert!(
            message.contains(&format!("process {}", std::process::id())),
            "{message}"
        );
        drop(listener);
        prove_free("a-nats-0", "client", port).unwrap();
    }
}
