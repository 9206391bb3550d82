//! `cargo xtask verify`'s tool: what it says of objects, and its exit code.

use std::process::{Command, Output};

use kcm_tests::objects::path;

fn verify(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_verify")).args(args).output().unwrap()
}

fn object(name: &str) -> String {
    path(name).display().to_string()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_exit_code_tells_accepted_from_rejected_from_unreadable() {
    let out = verify(&[&object("many"), &object("maps")]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let said = text(&out.stdout);
    assert!(said.contains("counted    socket filter  accepted  96 slots"), "{said}");
    assert!(said.contains("four   stream verdict skipped"), "{said}");

    let out = verify(&[&object("cyclic")]);
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stdout);
    assert!(said.contains("REJECTED") && said.contains("./tests/c/cyclic.c:"), "{said}");

    let out = verify(&[&object("undefined")]);
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stdout);
    assert!(said.contains("`elsewhere` is not defined"), "{said}");
    assert!(said.contains("sound   socket filter  accepted"), "the others are looked at: {said}");

    for file in [object("foreign/x86-64"), "/no/such/file.o".to_owned()] {
        let out = verify(&[&object("many"), &file]);
        assert_eq!(out.status.code(), Some(2), "{file}");
        assert!(text(&out.stdout).contains("accepted"), "the other file is looked at");
    }
    let out = verify(&["--program", "nobody", &object("many")]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("there are: one, two, three\n"));
}

#[test]
fn a_listing_and_json_are_there_for_the_asking() {
    let out = verify(&["--trace", "--program", "half_framed", &object("socket_kcm")]);
    let said = text(&out.stdout);
    assert!(said.contains("r0 = *(u16 *)skb[0]") && said.contains("load_half(skb, 0)"), "{said}");
    assert!(!said.contains("word_framed"), "{said}");

    let out = verify(&["--json", &object("many"), &object("cyclic")]);
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let verdict = |object: usize, program: usize| {
        json["objects"][object]["programs"][program]["verdict"]
            .as_str()
            .unwrap_or("none")
            .to_owned()
    };
    assert_eq!((verdict(0, 0), verdict(0, 3)), ("accepted".into(), "skipped".into()));
    assert_eq!(verdict(1, 0), "rejected");
    assert!(json["objects"][0]["programs"][0]["verify_ns"].as_u64().is_some());
}
