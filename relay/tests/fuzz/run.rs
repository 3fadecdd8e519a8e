//! The loop of a target: its corpus first, then changed inputs until time is up, with an eye on panics, time and memory.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::mutate::{deep, mutate};

const SHORT: Duration = Duration::from_secs(20);
/// With `cargo xtask test --long`.
const LONG: Duration = Duration::from_secs(600);
/// The process may grow by so many bytes while it fuzzes.
const GROWTH: usize = 64 << 20;
/// One input may take this long, on a machine that does much else.
const SLOW: Duration = Duration::from_secs(5);
/// Inputs that are changed further.
const POOL: usize = 4_000;
/// Longer inputs are not worth keeping.
const KEPT_BYTES: usize = 1_024;

/// A target: says how it answered.
pub(crate) type Target = fn(&[u8]) -> String;

/// Fuzzes one target.
pub(crate) fn fuzz(name: &str, target: Target) {
    let long = std::env::var_os("NIGHTJAR_LONG").is_some();
    // The short run is always the same, as far as it gets; the long one looks elsewhere each time.
    let seed = if long { rand::random() } else { 1 };
    let mut fuzzing = Fuzzing {
        name,
        target,
        corpus: corpus(name),
        pool: Vec::new(),
        answers: HashSet::new(),
        random: StdRng::seed_from_u64(seed),
    };
    fuzzing.run(if long { LONG } else { SHORT });
}

struct Fuzzing<'a> {
    name: &'a str,
    target: Target,
    corpus: PathBuf,
    pool: Vec<Vec<u8>>,
    answers: HashSet<String>,
    random: StdRng,
}

impl Fuzzing<'_> {
    fn run(&mut self, time: Duration) {
        let began = Instant::now();
        let inputs = read_all(&self.corpus);
        assert!(!inputs.is_empty(), "{} is empty", self.corpus.display());
        self.pool.clone_from(&inputs);
        for input in inputs.iter().chain(&deep()) {
            self.answer(input);
        }
        let (mut tried, mut at_first) = (0_u64, None);
        while began.elapsed() < time {
            let from = self.pool.choose(&mut self.random).cloned();
            let input = mutate(&mut self.random, &from.unwrap_or_default(), &self.pool);
            if self.answer(&input) {
                self.keep(&input);
            }
            tried += 1;
            // By then the allocator has what it needs, and the pool has most of what it gets.
            if at_first.is_none() && began.elapsed() > time / 4 {
                at_first = Some(resident());
            }
        }
        let grown = resident().saturating_sub(at_first.unwrap_or(0));
        assert!(
            grown < GROWTH,
            "{}: {grown} bytes more are in use",
            self.name
        );
        // Outside of the harness's hands, which swallow what a test that passes says.
        let line = format!(
            "{}: {tried} inputs, {} ways to answer\n",
            self.name,
            self.answers.len()
        );
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).ok();
    }

    /// Whether the input was answered in a new way.
    fn answer(&mut self, input: &[u8]) -> bool {
        let (target, began) = (self.target, Instant::now());
        let answered = catch_unwind(|| target(input));
        let took = began.elapsed();
        match answered {
            Ok(answer) if took < SLOW => self.answers.insert(words_of(&answer)),
            Ok(_) => self.fail(input, &format!("takes {took:?}")),
            Err(_) => self.fail(input, "panics, see above"),
        }
    }

    fn fail(&self, input: &[u8], what: &str) -> ! {
        let path = self.corpus.join(format!("failed-{:016x}", hash_of(input)));
        let kept = std::fs::write(&path, input).map_or_else(
            |error| format!("cannot write it to {}: {error}", path.display()),
            |()| format!("it is in {}", path.display()),
        );
        panic!(
            "{}: an input {what}; {kept}: {:?}",
            self.name,
            input.escape_ascii().to_string()
        );
    }

    fn keep(&mut self, input: &[u8]) {
        if self.pool.len() < POOL {
            self.pool.push(input.to_vec());
        } else {
            let place = self.random.random_range(0..POOL);
            self.pool[place] = input.to_vec();
        }
        if input.len() <= KEPT_BYTES && std::env::var_os("NIGHTJAR_FUZZ_KEEP").is_some() {
            let path = self.corpus.join(format!("{:016x}", hash_of(input)));
            std::fs::write(&path, input).expect("the corpus can be written");
        }
    }
}

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(name)
}

fn read_all(dir: &Path) -> Vec<Vec<u8>> {
    let entries =
        std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| {
            std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        })
        .collect()
}

/// The answer without what it quotes, and without its numbers.
fn words_of(answer: &str) -> String {
    let mut words = String::new();
    let mut quoted = false;
    for character in answer.chars().take(400) {
        match character {
            '"' | '`' | '\'' => quoted = !quoted,
            _ if quoted => {}
            '0'..='9' if words.ends_with('#') => {}
            '0'..='9' => words.push('#'),
            other => words.push(other),
        }
    }
    words
}

fn hash_of(input: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    hasher.finish()
}

/// Bytes of memory in use, or 0 where the system does not tell.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kilobytes
        .and_then(|number| number.trim().parse().ok())
        .map_or(0, |kilobytes: usize| kilobytes * 1024)
}
