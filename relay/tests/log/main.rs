//! The relay's binary against a real nats-server: what is acknowledged stays, what is damaged is told, nothing is repeated.

mod budget;
mod client;
mod faults;
mod keys;
mod manage;
mod nats;
mod path;
mod plugin;
mod pod;
mod relay;
mod tls;
mod upkeep;
mod wait;
