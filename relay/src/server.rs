//! The server: starts every part in order and stops them in reverse.
