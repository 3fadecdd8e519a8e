//! Fuzzing of everything that a relay reads from others: no input may end a parser with a panic, keep it busy for long, or make it grow.
//!
//! Each target is one function in `targets.rs` and one name in the list below; its inputs are in `corpus/<name>/`. A test of 20 s
//! per target, of 10 minutes with `cargo xtask test --long`. There is no coverage to steer by on stable Rust; what steers is how a target answers: an
//! input that is answered in a new way joins those that are changed further. An input that fails is kept in `corpus/`, for good once
//! it is committed. `NIGHTJAR_FUZZ_KEEP=1` also writes short inputs there that were answered in a new way.

mod mutate;
mod run;
mod targets;

/// The list: a new target is added here, and as a function of the same name in `targets`.
macro_rules! fuzz {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            run::fuzz(stringify!($name), targets::$name);
        })+
    };
}

fuzz!(
    frame,
    filter,
    event,
    negentropy,
    envelope,
    settings,
    cursor,
    plugin_line,
    http_auth,
);
