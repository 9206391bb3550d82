//! Object files as compilers write them: what is found in them, and how it is linked.

use kcm_core::bpf::insn::Insn;
use kcm_core::bpf::program::{Program, ProgramKind};
use kcm_core::{LoadError, Object};
use kcm_tests::objects::{BUILDS, bytes, clang, path};
use kcm_tests::skip::skip;

fn object(name: &str) -> Object {
    Object::parse(&bytes(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn program(from: &str, name: &str) -> Program {
    object(from).program(name).unwrap_or_else(|e| panic!("{from}, {name}: {e}"))
}

/// What a call or a function's address leads to.
fn callee(p: &Program, slot: usize) -> &str {
    let to = slot as i64 + 1 + i64::from(p.insns[slot].imm);
    let f = p.funcs.iter().find(|f| f.start as i64 == to);
    f.map_or("", |f| &f.name)
}

fn callees(p: &Program) -> Vec<&str> {
    let calls = p.insns.iter().enumerate().filter(|(_, i)| i.code == 0x85 && i.src == 1);
    calls.map(|(slot, _)| callee(p, slot)).collect()
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
    let line = p.line_of(1).unwrap();
    assert_eq!(
        (&*line.file, line.text.trim()),
        ("./tests/c/socket_kcm.c", "return load_word(skb, 0) + 4;")
    );
}

#[test]
fn a_program_is_found_by_its_function_and_by_a_section_that_tells_which() {
    let o = object("many");
    let found: Vec<_> = o.programs().map(|p| (p.name, p.kind)).collect();
    let expected = [
        ("one", ProgramKind::SocketFilter),
        ("two", ProgramKind::StreamParser),
        ("three", ProgramKind::StreamParser),
        ("four", ProgramKind::StreamVerdict),
    ];
    assert_eq!(found, expected);
    assert_eq!(o.license(), "Dual MIT/GPL");
    for (asked, name) in [
        ("one", "one"),
        ("first", "one"),
        ("socket/first", "one"),
        ("second", "two"),
        ("stream_verdict", "four"),
        ("sk_skb/stream_parser", "three"),
    ] {
        assert_eq!(o.program(asked).unwrap().name, name, "asked for {asked}");
    }
}

#[test]
fn an_unknown_program_name_lists_those_that_exist() {
    let e = object("many").program("fifth").unwrap_err();
    assert_eq!(e.to_string(), "the object has no program `fifth`; it has `one`, `two`, `three`");
    assert_eq!(e.errno(), libc::ENOENT);
    let e = object("many").program("five").unwrap_err();
    let (name, section) = ("five".to_owned(), "xdp".to_owned());
    assert_eq!(e, LoadError::NotAParser { name, section });
    let e = object("socket_kcm").program("socket_kcm").unwrap_err();
    assert_eq!(
        e.to_string(),
        "`socket_kcm` may be any of `half_framed`, `word_framed`; ask for one by its function's name"
    );
    let e = object("calls").program("plus_header").unwrap_err();
    assert!(matches!(e, LoadError::NotAParser { .. }), "static functions are no programs: {e}");
    let e = object("calls").program("").unwrap_err();
    assert!(matches!(e, LoadError::UnknownProgram { .. }), "{e}");
}

#[test]
fn maps_come_with_their_definitions_and_data_with_its_first_contents() {
    let o = object("maps");
    let p = o.program("counted").unwrap();
    let names: Vec<_> = p.maps.iter().map(|m| m.name.as_str()).collect();
    let order =
        [".bss", ".data", "counts", "hidden", ".rodata.cst8", "by_length", "ring", ".rodata"];
    assert_eq!(names, order, "in the order of their first use");
    let map = |name: &str| p.maps.iter().find(|m| m.name == name).unwrap();
    let numbers = |name: &str| {
        let m = map(name);
        (m.kind, m.key_size, m.value_size, m.max_entries, m.flags)
    };
    assert_eq!(numbers("by_length"), (1, 4, 16, 16, 0));
    assert_eq!(numbers("counts"), (2, 4, 8, 4, 0));
    assert_eq!(numbers("hidden"), (2, 4, 8, 1, 0));
    assert_eq!(numbers("ring"), (27, 0, 0, 4096, 0));
    assert_eq!(numbers(".bss"), (2, 4, 16, 1, 0));
    assert_eq!(numbers(".rodata"), (2, 4, 4, 1, 1 << 7));
    assert_eq!(map(".bss").initial, None);
    assert_eq!(map(".data").initial.as_deref(), Some(&(1u32 << 20).to_le_bytes()[..]));
    assert_eq!(map(".rodata").initial.as_deref(), Some(&4u32.to_le_bytes()[..]));
    assert_eq!(map(".rodata.cst8").initial.as_deref(), Some(&[1u8, 2, 4, 8, 16, 32, 64, 128][..]));
    // References: the map's number, and for data the offset in the second half.
    let references: Vec<_> = p
        .insns
        .iter()
        .enumerate()
        .filter(|(_, i)| i.code == 0x18)
        .map(|(slot, i)| (i.src, names[i.imm as usize], p.insns[slot + 1].imm))
        .collect();
    let expected = [
        (2, ".bss", 0),
        (2, ".data", 0),
        (2, ".bss", 8),
        (1, "counts", 0),
        (1, "hidden", 0),
        (2, ".rodata.cst8", 0),
        (1, "by_length", 0),
        (1, "by_length", 0),
        (1, "ring", 0),
        (2, ".rodata", 0),
    ];
    assert_eq!(references, expected);
    let names: Vec<_> = o.program("uncounted").unwrap().maps.into_iter().map(|m| m.name).collect();
    assert_eq!(names, ["counts"], "a program has the maps that it uses");
    assert_eq!(o.maps().len(), 8);
}

#[test]
fn maps_from_before_btf_are_read_too() {
    let p = program("legacy_maps", "totalled");
    let found: Vec<_> = p
        .maps
        .iter()
        .map(|m| (m.name.as_str(), m.kind, m.key_size, m.value_size, m.max_entries))
        .collect();
    assert_eq!(found, [("totals", 2, 4, 8, 2), ("lengths", 1, 4, 4, 8)]);
}

#[test]
fn called_functions_follow_the_program_with_their_names_and_lines() {
    for from in ["calls", "calls_without_btf"] {
        let p = program(from, "framed");
        let names: Vec<_> = p.funcs.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["framed", "length_of", "memcpy", "big_endian", "plus_header"]);
        assert_eq!(callees(&p), ["length_of", "plus_header", "memcpy", "big_endian"], "{from}");
        assert!(p.funcs.is_sorted_by_key(|f| f.start) && p.funcs[0].start == 0);
        let p = program(from, "framed_twice");
        assert_eq!(
            callees(&p),
            ["length_of", "plus_header", "length_of", "plus_header", "memcpy", "big_endian"],
            "{from}: a function is there once, however often it is called"
        );
    }
    assert!(program("calls_without_btf", "framed").lines.is_empty());
    let p = program("calls", "framed");
    for (function, text) in [
        ("framed", "return plus_header(length_of(skb));"),
        ("big_endian", "return (u32)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];"),
        ("plus_header", "return length ? length + 4 : NEED_MORE;"),
    ] {
        let i = p.funcs.iter().position(|f| f.name == function).unwrap();
        let end = p.funcs.get(i + 1).map_or(p.insns.len(), |f| f.start);
        let lines: Vec<_> = (p.funcs[i].start..end).filter_map(|slot| p.line_of(slot)).collect();
        assert!(lines.iter().any(|l| l.text.trim() == text), "{function}: {lines:?}");
    }
}

#[test]
fn a_function_is_reached_by_its_address() {
    let p = program("calls", "looped");
    let (slot, insn) = p.insns.iter().enumerate().find(|(_, i)| i.code == 0x18).unwrap();
    assert_eq!((insn.src, callee(&p, slot)), (4, "add"));
}

#[test]
fn functions_at_the_same_offset_of_other_sections_are_not_mixed_up() {
    let p = program("sections", "each");
    assert_eq!(callees(&p), ["a", "b", "c"]);
}

#[test]
fn functions_that_call_each_other_link_once() {
    let p = program("cyclic", "cyclic");
    assert_eq!(callees(&p), ["even", "odd", "even"]);
    assert_eq!(p.funcs.len(), 3);
}

#[test]
fn a_reference_to_what_is_not_there_names_it_and_the_line() {
    let o = object("undefined");
    assert!(o.program("sound").is_ok(), "other programs of the object are not affected");
    for (name, symbol, line) in
        [("strong", "elsewhere", 11), ("weak", "perhaps", 17), ("data", "setting", 23)]
    {
        let e = o.program(name).unwrap_err();
        let LoadError::UndefinedSymbol { site, symbol: found, .. } = &e else { panic!("{e}") };
        assert_eq!((found.as_str(), site.function.as_str()), (symbol, name));
        assert_eq!(site.source, Some(("./tests/c/undefined.c".to_owned(), line)));
    }
    assert_eq!(
        o.program("strong").unwrap_err().to_string(),
        "function `strong` (section `socket/strong`), instruction 1, ./tests/c/undefined.c:11: \
         `elsewhere` is not defined in the object; link the function in; functions of a kernel \
         (kfuncs) do not exist here"
    );
}

#[test]
fn data_that_holds_addresses_is_refused_where_it_is_used() {
    let o = object("addresses");
    assert!(o.program("direct").is_ok());
    let e = o.program("tabled").unwrap_err().to_string();
    assert!(e.contains("reference to `table`") || e.contains("reference to `.rodata`"), "{e}");
    assert!(e.contains("addresses.c:19") && e.contains("holds addresses"), "{e}");
}

#[test]
fn the_same_bytes_give_the_same_program_at_any_address() {
    for (name, bytes) in kcm_tests::objects::sound() {
        let link = |bytes: &[u8]| {
            let o = Object::parse(bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
            let programs: Vec<_> = o.programs().map(|p| p.name.to_owned()).collect();
            programs.iter().map(|p| format!("{:?}", o.program(p).unwrap())).collect::<Vec<_>>()
        };
        let expected = link(&bytes);
        assert!(!expected.is_empty());
        for shift in 0..8 {
            let mut room = vec![0; shift];
            room.extend_from_slice(&bytes);
            assert_eq!(link(&room[shift..]), expected, "{name}, shifted by {shift}");
        }
    }
}

#[test]
fn the_committed_objects_are_what_clang_makes_of_their_sources() {
    let Some((command, version)) = clang() else {
        return skip(
            "there is no clang (Debian: clang-22); the committed objects stay untested against their sources",
        );
    };
    let write = std::env::var_os("KCM_WRITE_OBJECTS").is_some_and(|v| !v.is_empty());
    let folder = tempfile::tempdir().unwrap();
    for build in BUILDS {
        let to = if write { path(build.name) } else { folder.path().join("object.o") };
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        build.compile(command, &to).unwrap();
        if write {
            continue;
        }
        let fresh = Object::from_file(&to);
        let committed = Object::from_file(path(build.name));
        let (fresh, committed) = match (fresh, committed) {
            (Ok(fresh), Ok(committed)) => (fresh, committed),
            (Err(fresh), Err(committed)) => {
                assert_eq!(fresh, committed, "{}", build.name);
                continue;
            }
            other => panic!("{}: {other:?}", build.name),
        };
        assert_eq!(fresh.maps(), committed.maps(), "{}", build.name);
        let names = |o: &Object| o.programs().map(|p| p.name.to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&fresh), names(&committed), "{}", build.name);
        // Another compiler may choose other instructions.
        for name in names(&fresh).iter().filter(|_| version == 22) {
            match (fresh.program(name), committed.program(name)) {
                (Ok(a), Ok(b)) => assert_eq!(a.insns, b.insns, "{}, {name}", build.name),
                (a, b) => assert_eq!(a.err(), b.err(), "{}, {name}", build.name),
            }
        }
    }
}
