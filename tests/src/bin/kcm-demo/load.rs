//! The parser that was asked for.

use std::path::Path;

use anyhow::{Context, Result, bail};
use kcm_core::{Object, bpf::run::Exec, parser::Parser, parsers};

use kcm_tests::load::find;

use crate::Cli;

/// Which executor runs the parser.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub(crate) enum ExecArg {
    /// The best there is
    Auto,
    /// Machine code
    Jit,
    /// The interpreter
    Interpreter,
    /// The one that checks each access
    Checked,
}

impl From<ExecArg> for Exec {
    fn from(e: ExecArg) -> Exec {
        match e {
            ExecArg::Auto => Exec::Auto,
            ExecArg::Jit => Exec::Jit,
            ExecArg::Interpreter => Exec::Interpreter,
            ExecArg::Checked => Exec::Checked,
        }
    }
}

/// Loads the parser named `name`, or the program asked for of the object in that file.
pub(crate) fn parser(cli: &Cli, name: &str) -> Result<Parser> {
    let file = Path::new(name);
    let (object, program) = match find(name) {
        // A file of that name is meant only if it looks like one.
        Some(built_in) if !name.contains(['/', '.']) => {
            let object = match &cli.objects {
                Some(dir) => Object::from_file(dir.join(object_file(built_in.name())))?,
                None => Object::parse(built_in.object())?,
            };
            (object, cli.program.clone().unwrap_or_else(|| built_in.name().to_owned()))
        }
        _ if file.is_file() => {
            let object = Object::from_file(file)?;
            let all: Vec<String> = object
                .programs()
                .filter(|p| p.kind.is_parser())
                .map(|p| p.name.to_owned())
                .collect();
            let program = match (&cli.program, &all[..]) {
                (Some(p), _) => p.clone(),
                (None, [only]) => only.clone(),
                (None, _) => bail!("{name} has the programs {}; say --program", all.join(", ")),
            };
            (object, program)
        }
        _ => {
            let all: Vec<&str> = parsers::all().iter().map(|p| p.name()).collect();
            bail!(
                "there is no file {name}, and the built-in parsers are {}; `cargo xtask \
                 new-parser NAME` writes a crate for your own",
                all.join(", ")
            );
        }
    };
    let parser = Parser::builder(&object, &program).exec(cli.exec.into()).load();
    parser.with_context(|| format!("parser {program} of {name}"))
}

/// The file that `cargo xtask build-ebpf` writes for a built-in program.
fn object_file(program: &str) -> String {
    let object = kcm_ebpf::parsers::ALL.iter().find(|p| p.1 == program).map_or(program, |p| p.0);
    format!("{object}.o")
}
