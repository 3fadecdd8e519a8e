//! `nightjar explain`: the error book, which is part of the program.

use serde::Serialize;

use crate::args::ExplainArgs;
use crate::code::Code;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Format, Record, write};

#[derive(Serialize)]
struct CodeRecord {
    code: String,
    exit: u8,
    title: &'static str,
}
impl Record for CodeRecord {
    const COLUMNS: &'static [&'static str] = &["code", "exit", "title"];
}

#[derive(Serialize)]
struct PageRecord {
    code: String,
    exit: u8,
    title: &'static str,
    page: &'static str,
}
impl Record for PageRecord {
    const COLUMNS: &'static [&'static str] = &["code", "exit", "title", "page"];
}

pub(crate) fn run(args: &ExplainArgs, context: &Context) -> Result<(), CliError> {
    let Some(text) = &args.code else {
        let record = |code: &Code| CodeRecord {
            code: code.to_string(),
            exit: code.exit(),
            title: code.title(),
        };
        return context
            .out
            .list(&Code::ALL.iter().map(record).collect::<Vec<_>>());
    };
    let code = Code::parse(text).ok_or_else(|| {
        CliError::new(
            Code::NoSuchPage,
            format!("there is no error code `{text}`"),
            "nightjar explain",
        )
    })?;
    match context.out.format() {
        // A page is made for reading; as a table it would lose its shape.
        Format::Table => write(code.page()),
        _ => {
            let (exit, title, page) = (code.exit(), code.title(), code.page());
            context.out.one(&PageRecord {
                code: code.to_string(),
                exit,
                title,
                page,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::assert_same_fields;

    #[test]
    fn table_and_json_have_the_same_fields() {
        assert_same_fields(&CodeRecord {
            code: String::new(),
            exit: 0,
            title: "",
        });
        assert_same_fields(&PageRecord {
            code: String::new(),
            exit: 0,
            title: "",
            page: "",
        });
    }
}
