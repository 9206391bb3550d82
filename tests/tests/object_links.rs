//! A second opinion on linking: aya-obj links the same objects to the same instructions.
//!
//! Left out are those that aya-obj 0.3 does not take (`socket_kcm`: its section; `undefined`:
//! it gives programs that call nothing) or mixes up (`maps`: the static map; `calls` and
//! `sections`: functions at the same offset of two sections).

use std::collections::HashSet;

use aya_obj::generated::bpf_insn;
use kcm_core::Object;
use kcm_core::bpf::insn::Insn;
use kcm_tests::objects::sound;

fn ours(i: &bpf_insn) -> Insn {
    Insn { code: i.code, dst: i.dst_reg(), src: i.src_reg(), off: i.off, imm: i.imm }
}

#[test]
fn aya_links_the_same_objects_to_the_same_instructions() {
    let no = ["socket_kcm", "maps", "calls", "calls_without_btf", "sections"];
    let mut compared = 0;
    for (name, bytes) in sound().into_iter().filter(|(name, _)| !no.contains(&name.as_str())) {
        let object = Object::parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut theirs = aya_obj::Object::parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let code: HashSet<usize> = theirs.functions.keys().map(|(section, _)| *section).collect();
        let maps = theirs.maps.clone();
        // The numbers of maps differ from program to program here, and must be told apart.
        let number = |map: &str| object.maps().iter().position(|m| m.name == map).unwrap() as i32;
        theirs
            .relocate_maps(maps.iter().map(|(n, m)| (n.as_str(), number(n), m)), &code)
            .unwrap_or_else(|e| panic!("{name}: {e:?}"));
        theirs.relocate_calls(&code).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        for info in object.programs() {
            let program = object.program(info.name).unwrap();
            let key = theirs.programs[info.name].function_key();
            let expected: Vec<Insn> =
                theirs.functions[&key].instructions.iter().map(ours).collect();
            let mut found = program.insns.clone();
            for insn in found.iter_mut().filter(|i| i.code == 0x18 && matches!(i.src, 1 | 2)) {
                insn.imm = number(&program.maps[insn.imm as usize].name);
            }
            assert_eq!(found, expected, "{name}, {}", info.name);
            compared += 1;
        }
    }
    println!("{compared} programs alike");
    assert!(compared >= 12, "only {compared} programs compared");
}
