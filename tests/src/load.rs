//! Parsers from objects, on the executor asked for.

use std::sync::Mutex;

use anyhow::{Context, Result};
use kcm_core::Object;
use kcm_core::bpf::run::{Exec, Executable};
use kcm_core::bpf::verifier;
use kcm_core::parser::Parser;

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        /// The embedded object of that name (a file's name without `.o`).
        pub fn object(name: &str) -> Option<&'static [u8]> {
            match name {
                $($name => Some(include_bytes!(concat!("../../kcm-core/objects/", $name, ".o"))),)*
                _ => None,
            }
        }
    };
}

embedded!(
    "dns-tcp",
    "http2",
    "kafka",
    "lenprefix",
    "memcached",
    "mqtt",
    "postgres",
    "resp",
    "thrift"
);

/// Links, verifies and lowers one program.
///
/// # Errors
/// Whatever step refused it, and why.
pub fn parser(object: &Object, program: &str, exec: Exec) -> Result<Parser> {
    let linked = object.program(program)?;
    let verified = verifier::verify(linked, &verifier::Options::default())?;
    let maps = Executable::make_maps(&verified)?;
    Ok(Parser::from_executable(Executable::new(verified, maps, exec)?))
}

/// A built-in parser by its program's name. Kept: a program is verified once per process and
/// executor, as a service would do it.
///
/// # Errors
/// As [`parser`]; and for a name that no built-in program has.
pub fn built_in(program: &str, exec: Exec) -> Result<Parser> {
    static KEPT: Mutex<Vec<(&str, Exec, Parser)>> = Mutex::new(Vec::new());
    let (object_name, program, _) = kcm_ebpf::parsers::ALL
        .iter()
        .find(|p| p.1 == program)
        .with_context(|| format!("no built-in parser {program}"))?;
    let mut kept = KEPT.lock().unwrap_or_else(|e| e.into_inner());
    if let Some((.., parser)) = kept.iter().find(|k| k.0 == *program && k.1 == exec) {
        return Ok(parser.clone());
    }
    let bytes = object(object_name).with_context(|| format!("no object {object_name}"))?;
    let parser = self::parser(&Object::parse(bytes)?, program, exec)
        .with_context(|| (*program).to_owned())?;
    kept.push((program, exec, parser.clone()));
    Ok(parser)
}
