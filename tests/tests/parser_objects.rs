//! The built-in parser objects: verified, and run by every executor over the parser tables.
//!
//! They are read from `kcm-core/objects`, and also from `target/bpf` where they were rebuilt
//! from source (`cargo xtask build-ebpf --check`): another compiler's code has to mean the
//! same.

use kcm_common::kernel::{PARSER_SUFFIX, VERDICT};
use std::path::{Path, PathBuf};

use kcm_core::Object;
use kcm_core::bpf::map::Map;
use kcm_core::bpf::run::{Exec, ExecError, Executable};
use kcm_core::bpf::verifier::{Options, verify};
use kcm_core::parser::Parser;
use kcm_ebpf::parsers;
use kcm_tests::parser_table;

/// The folders that hold objects.
fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = [root.join("kcm-core/objects"), root.join("target/bpf")];
    folders.into_iter().filter(|dir| dir.join("thrift.o").is_file()).collect()
}

/// The program, verified, on that executor; `None` where this machine has no such executor.
fn load(dir: &Path, object: &str, program: &str, exec: Exec) -> Option<Parser> {
    let path = dir.join(format!("{object}.o"));
    let object = Object::from_file(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let program = object.program(program).unwrap();
    let verified = verify(program, &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    let maps =
        verified.program().maps.iter().map(|def| Map::new(def.clone()).unwrap().into()).collect();
    match Executable::new(verified, maps, exec) {
        Ok(executable) => Some(Parser::from_executable(executable)),
        Err(ExecError::NoJit { .. }) => None,
        Err(e) => panic!("{}: {e}", path.display()),
    }
}

#[test]
fn objects_hold_the_programs_of_their_source_and_no_others() {
    for dir in folders() {
        for (object, _, _) in parsers::ALL {
            let path = dir.join(format!("{object}.o"));
            let object_file = Object::from_file(&path).unwrap();
            let (for_process, others): (Vec<_>, Vec<_>) =
                object_file.programs().partition(|p| p.kind.is_parser());
            let mut found: Vec<String> = for_process.iter().map(|p| p.name.to_string()).collect();
            found.sort();
            let mut others: Vec<String> = others.iter().map(|p| p.name.to_string()).collect();
            others.sort();
            let named = parsers::ALL.iter().filter(|p| p.0 == *object);
            let mut expected: Vec<String> = named.map(|p| p.1.to_owned()).collect();
            expected.sort();
            assert_eq!(found, expected, "{}", path.display());
            let mut in_kernel: Vec<String> =
                found.iter().map(|name| format!("{name}{PARSER_SUFFIX}")).collect();
            in_kernel.push(VERDICT.to_owned());
            in_kernel.sort();
            assert_eq!(others, in_kernel, "{}", path.display());
            assert_eq!(object_file.license(), "Dual MIT/GPL");
        }
    }
}

#[test]
fn every_executor_answers_as_the_tables_say() {
    let tables = parser_table::all().unwrap();
    for dir in folders() {
        for exec in [Exec::Interpreter, Exec::Checked, Exec::Jit] {
            for table in &tables {
                if let Some(parser) = load(&dir, &table.object, &table.program, exec) {
                    table.check(&parser).unwrap_or_else(|e| panic!("{exec:?}: {e:#}"));
                }
            }
        }
    }
}

#[test]
fn every_parser_is_verified_and_says_its_cost() {
    for dir in folders() {
        for (object, program, _) in parsers::ALL {
            let start = std::time::Instant::now();
            let parser = load(&dir, object, program, Exec::Interpreter).unwrap();
            let facts = parser.facts();
            println!(
                "{program}: {} instructions explored, {} states at once, {} bytes of stack, \
                 {:?}, {:?}",
                facts.explored,
                facts.peak_states,
                facts.stack_depth,
                facts.fuel,
                start.elapsed(),
            );
            assert!(facts.stack_depth <= 512);
        }
    }
}
