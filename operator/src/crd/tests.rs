//! Rules of the schema, each shown to pass and to fail.
