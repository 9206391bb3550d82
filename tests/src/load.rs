//! Built-in parsers on the executor asked for.

use std::sync::Mutex;

use anyhow::{Context, Result};
use kcm_core::bpf::run::Exec;
use kcm_core::parsers::{self, BuiltIn};
use kcm_core::{Object, parser::Parser};

/// A built-in parser by its program's name. Kept: a program is verified once per process and
/// executor, as a service would do it.
///
/// # Errors
/// For a name that no built-in program has, and where the executor is not available.
pub fn built_in(program: &str, exec: Exec) -> Result<Parser> {
    static KEPT: Mutex<Vec<(Exec, Parser)>> = Mutex::new(Vec::new());
    let mut kept = KEPT.lock().unwrap_or_else(|e| e.into_inner());
    if let Some((_, parser)) = kept.iter().find(|k| k.0 == exec && k.1.name() == program) {
        return Ok(parser.clone());
    }
    let found = find(program).with_context(|| format!("no built-in parser {program}"))?;
    let object = Object::parse(found.object())?;
    let parser = Parser::builder(&object, found.name()).exec(exec).load()?;
    kept.push((exec, parser.clone()));
    Ok(parser)
}

/// What there is to know of a built-in parser; `-` for `_` is understood.
pub fn find(name: &str) -> Option<&'static BuiltIn> {
    let name = name.replace('-', "_");
    parsers::all().iter().find(|b| b.name() == name)
}
