//! `cargo xtask VERB`: one file per verb.
fn main() {}
