//! The parser that was asked for.

use std::path::Path;

use anyhow::{Context, Result, bail};
use kcm_core::{Object, bpf::run::Exec, parser::Parser};
use kcm_tests::load;

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
    let built_in = kcm_ebpf::parsers::ALL.iter().find(|p| p.0 == name || p.1 == name);
    let (object, program) = match built_in {
        // A file of that name is meant only if it looks like one.
        Some((object, program, _)) if !name.contains(['/', '.']) => {
            let program = cli.program.clone().unwrap_or_else(|| (*program).to_owned());
            (embedded_or(cli, object)?, program)
        }
        _ if file.is_file() => {
            let object = Object::from_file(file)?;
            let all: Vec<String> = object.programs().map(|p| p.name.to_owned()).collect();
            let program = match (&cli.program, &all[..]) {
                (Some(p), _) => p.clone(),
                (None, [only]) => only.clone(),
                (None, _) => bail!("{name} has the programs {}; say --program", all.join(", ")),
            };
            (object, program)
        }
        _ => {
            let mut all: Vec<&str> = kcm_ebpf::parsers::ALL.iter().map(|p| p.1).collect();
            all.sort_unstable();
            bail!(
                "there is no file {name}, and the built-in parsers are {}; `cargo xtask \
                 new-parser NAME` writes a crate for your own",
                all.join(", ")
            );
        }
    };
    load::parser(&object, &program, cli.exec.into())
        .with_context(|| format!("parser {program} of {name}"))
}

fn embedded_or(cli: &Cli, object: &str) -> Result<Object> {
    match &cli.objects {
        Some(dir) => Ok(Object::from_file(dir.join(format!("{object}.o")))?),
        None => match load::object(object) {
            Some(bytes) => Ok(Object::parse(bytes)?),
            None => bail!("no object named {object} is embedded"),
        },
    }
}
