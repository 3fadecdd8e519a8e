//! HTML that is put together from markup of the program and text of others. The types keep them apart: what is not `'static` is escaped.

/// Well-formed as far as its markup is: text in it cannot open or close anything, inside a quoted attribute neither.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Html(String);

impl Html {
    /// Markup that is part of the program.
    pub(super) fn markup(markup: &'static str) -> Self {
        Self(markup.to_owned())
    }

    /// Text of others, for the space between tags or for a value in double quotes.
    pub(super) fn text(text: &str) -> Self {
        let mut escaped = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '&' => escaped.push_str("&amp;"),
                '<' => escaped.push_str("&lt;"),
                '>' => escaped.push_str("&gt;"),
                '"' => escaped.push_str("&quot;"),
                '\'' => escaped.push_str("&#39;"),
                '\n' | '\t' => escaped.push(c),
                // HTML has no other control characters.
                c if c.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
                c => escaped.push(c),
            }
        }
        Self(escaped)
    }

    /// A template with each `{{slot}}` filled. What fills it is not searched for slots.
    pub(super) fn filled(template: &'static str, mut slot: impl FnMut(&str) -> Html) -> Self {
        let mut parts = template.split("{{");
        let mut filled = Self(parts.next().unwrap_or_default().to_owned());
        for part in parts {
            let (name, rest) = part.split_once("}}").unwrap_or((part, ""));
            filled.push(slot(name));
            filled.0.push_str(rest);
        }
        filled
    }

    pub(super) fn push(&mut self, more: Html) {
        self.0.push_str(&more.0);
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}
