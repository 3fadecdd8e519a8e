//! Writes nats-server configuration text: blocks, values and lists, always quoted where the parser could read something else.

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

/// A configuration being written. Every `open` needs its `close`.
#[derive(Debug, Default)]
pub(super) struct Conf {
    text: String,
    depth: usize,
}

impl Conf {
    /// A comment line.
    pub(super) fn comment(&mut self, comment: &str) {
        self.indented(&format!("# {comment}"));
    }

    /// A line that separates parts.
    pub(super) fn blank(&mut self) {
        self.text.push('\n');
    }

    /// `key: value`, with the value as it is: a number, a duration, a boolean, a variable.
    pub(super) fn bare(&mut self, key: &str, value: impl std::fmt::Display) {
        self.indented(&format!("{key}: {value}"));
    }

    /// `key: "value"`.
    pub(super) fn string(&mut self, key: &str, value: impl std::fmt::Display) {
        self.bare(key, quoted(&value.to_string()));
    }

    /// `key: ["a", "b"]`, one value a line when there are several.
    pub(super) fn list(&mut self, key: &str, values: &[String]) {
        match values {
            [] => self.bare(key, "[]"),
            [only] => self.bare(key, format!("[{}]", quoted(only))),
            several => {
                self.indented(&format!("{key}: ["));
                self.depth += 1;
                for value in several {
                    self.indented(&quoted(value));
                }
                self.depth -= 1;
                self.indented("]");
            }
        }
    }

    /// `include "path"`; the parser resolves the path against the folder of the including file, also an absolute one.
    pub(super) fn include(&mut self, path: &Path) {
        self.indented(&format!("include {}", quoted(&path.display().to_string())));
    }

    /// `key {`
    pub(super) fn open(&mut self, key: &str) {
        self.indented(&format!("{key} {{"));
        self.depth += 1;
    }

    /// `key: [`
    pub(super) fn open_list(&mut self, key: &str) {
        self.indented(&format!("{key}: ["));
        self.depth += 1;
    }

    /// `{`, an item of a list of blocks.
    pub(super) fn open_item(&mut self) {
        self.indented("{");
        self.depth += 1;
    }

    /// `}`
    pub(super) fn close(&mut self) {
        self.depth -= 1;
        self.indented("}");
    }

    /// `]`
    pub(super) fn close_list(&mut self) {
        self.depth -= 1;
        self.indented("]");
    }

    /// The text written so far.
    pub(super) fn finish(self) -> String {
        debug_assert_eq!(self.depth, 0, "a block was left open");
        self.text
    }

    fn indented(&mut self, line: &str) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.text, "{:indent$}{line}", "", indent = self.depth * 2);
    }
}

/// The text in double quotes, so that nothing in it is a variable, a number, a comment or an end.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// `to` as seen from the folder `from`, both absolute.
pub(super) fn relative(from: &Path, to: &Path) -> PathBuf {
    let from: Vec<Component<'_>> = from.components().collect();
    let to: Vec<Component<'_>> = to.components().collect();
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n(Component::ParentDir, from.len() - common);
    up.chain(to[common..].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_indented_and_strings_quoted() {
        let mut conf = Conf::default();
        conf.open("jetstream");
        conf.string("domain", "a\"b\\c");
        conf.bare("max_file", 5);
        conf.list("deny", &["x.>".into(), "$JS.y".into()]);
        conf.close();
        assert_eq!(
            conf.finish(),
            "jetstream {\n  domain: \"a\\\"b\\\\c\"\n  max_file: 5\n  deny: [\n    \"x.>\"\n    \"$JS.y\"\n  ]\n}\n"
        );
    }

    #[test]
    fn a_path_is_told_from_the_folder_of_the_configuration() {
        let told = |from: &str, to: &str| {
            relative(Path::new(from), Path::new(to))
                .display()
                .to_string()
        };
        assert_eq!(
            told("/s/regions/a/a-nats-0", "/s/keys/a/leaf.seed"),
            "../../../keys/a/leaf.seed"
        );
        assert_eq!(told("/etc/nats", "/etc/nats/leaf.seed"), "leaf.seed");
        assert_eq!(told("/etc/nats", "/run/leaf"), "../../run/leaf");
    }
}
