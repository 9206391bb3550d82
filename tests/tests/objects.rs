//! Object files as compilers write them: what is in them, and how it is linked.

use kcm_core::Object;
use kcm_core::bpf::insn::Insn;
use kcm_core::bpf::program::{Program, ProgramKind};

mod common {
    pub(crate) fn bytes(name: &str) -> Vec<u8> {
        let path = format!("{}/data/objects/{name}.o", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    }
}

fn object(name: &str) -> Object {
    Object::parse(&common::bytes(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn program(object_: &str, name: &str) -> Program {
    object(object_).program(name).unwrap_or_else(|e| panic!("{object_}, {name}: {e}"))
}

#[test]
fn the_kernel_documentations_form_of_a_parser_loads() {
    let o = object("socket_kcm");
    let found: Vec<_> = o.programs().map(|p| (p.name, p.kind, p.section)).collect();
    let kind = ProgramKind::SocketFilter;
    assert_eq!(found, [("half_framed", kind, "socket_kcm"), ("word_framed", kind, "socket_kcm")]);
    assert_eq!(o.license(), "GPL");
    let p = o.program("word_framed").unwrap();
    // LD_ABS of a word at 0, as the compiler wrote it.
    let load = Insn { code: 0x20, dst: 0, src: 0, off: 0, imm: 0 };
    assert!(p.insns.contains(&load), "{:?}", p.insns);
}

#[test]
fn a_program_comes_with_its_functions_its_maps_and_its_source_lines() {
    let p = program("maps", "counted");
    let names: Vec<_> = p.maps.iter().map(|m| m.name.as_str()).collect();
    let order =
        [".bss", ".data", "counts", "hidden", ".rodata.cst8", "by_length", "ring", ".rodata"];
    assert_eq!(names, order, "in the order of their first use");
    let line = p.line_of(0).unwrap();
    assert_eq!((&*line.file, line.text.trim()), ("./tests/c/maps.c", "calls++;"));

    let p = program("calls", "framed");
    let names: Vec<_> = p.funcs.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["framed", "length_of", "memcpy", "big_endian", "plus_header"]);
}
