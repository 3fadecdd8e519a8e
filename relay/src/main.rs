//! `nightjar-relay --config FILE`.

fn main() {}
