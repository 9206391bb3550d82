//! Real objects through the whole engine: linked, verified, run by every executor.

use kcm_core::bpf::run::Exec;
use kcm_core::delineate::{Delineate, WalkEnd, WalkLimits};
use kcm_core::{LoadError, Object, Parser, Verdict};

fn object(name: &str) -> Object {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../kcm-core/objects/");
    Object::from_file(format!("{path}{name}.o")).unwrap()
}

fn executors() -> impl Iterator<Item = Exec> {
    [Exec::Interpreter, Exec::Jit, Exec::Checked].into_iter().filter(|e| e.is_available())
}

#[test]
fn every_built_in_object_loads_and_runs_in_every_executor() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../kcm-core/objects");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|x| x != "o") {
            continue;
        }
        let object = Object::from_file(&path).unwrap();
        for program in object.programs().filter(|p| p.kind.is_parser()) {
            for exec in executors() {
                let parser = Parser::builder(&object, program.name).exec(exec).load();
                let parser = match parser {
                    Ok(p) => p,
                    Err(e) => panic!("{} {exec:?}: {e}", path.display()),
                };
                assert_eq!(parser.exec(), exec);
                // No bytes, no length: no protocol has empty messages.
                assert_eq!(parser.parse(&[]), Verdict::NeedMore, "{parser:?}");
            }
            count += 1;
        }
    }
    assert!(count >= 9, "{count}");
}

#[test]
fn a_walk_marks_the_ends_of_whole_messages_and_says_why_it_stopped() {
    let object = object("thrift");
    for exec in executors() {
        let parser = Parser::builder(&object, "thrift").exec(exec).load().unwrap();
        let mut buf = vec![0xff; 7];
        for len in [4u32, 300, 1] {
            buf.extend(len.to_be_bytes());
            buf.extend(vec![b'x'; len as usize]);
        }
        let all = buf.len();
        let limits = WalkLimits { max_message: 1000, max_ends: 10 };
        let walk = |buf: &[u8], limits| {
            let mut ends = vec![99];
            let end = parser.walk(buf, 7, limits, &mut ends);
            (ends, end)
        };
        assert_eq!(walk(&buf, limits), (vec![99, 15, 319, 324], WalkEnd::Empty));
        let cut = &buf[..all - 1];
        assert_eq!(walk(cut, limits), (vec![99, 15, 319], WalkEnd::Partial { len: 5 }));
        let cut = &buf[..all - 4];
        assert_eq!(walk(cut, limits), (vec![99, 15, 319], WalkEnd::NeedMore));
        let two = WalkLimits { max_ends: 2, ..limits };
        assert_eq!(walk(&buf, two), (vec![99, 15, 319], WalkEnd::Full));
        let none = WalkLimits { max_ends: 0, ..limits };
        assert_eq!(walk(&buf, none), (vec![99], WalkEnd::Full));
        let short = WalkLimits { max_message: 303, ..limits };
        assert_eq!(walk(&buf, short), (vec![99, 15], WalkEnd::TooLong { len: 304 }));
        let exact = WalkLimits { max_message: 304, ..limits };
        assert_eq!(walk(&buf, exact), (vec![99, 15, 319, 324], WalkEnd::Empty));
        let mut bad = buf.clone();
        bad[15] = 0x80;
        let (ends, end) = walk(&bad, limits);
        assert_eq!(ends, [99, 15]);
        assert!(matches!(end, WalkEnd::Error(e) if e > 0), "{end:?}");
        assert_eq!(walk(&buf[..7], limits), (vec![99], WalkEnd::Empty));
    }
}

#[test]
fn a_walk_over_more_messages_than_there_is_room_for_grows_the_list() {
    let object = object("thrift");
    for exec in executors() {
        let parser = Parser::builder(&object, "thrift").exec(exec).load().unwrap();
        let buf = [0, 0, 0, 1, 7].repeat(1000);
        let mut ends = Vec::new();
        let limits = WalkLimits { max_message: 1000, max_ends: u32::MAX };
        assert_eq!(parser.walk(&buf, 0, limits, &mut ends), WalkEnd::Empty);
        assert_eq!(ends, (1..=1000).map(|i| i * 5).collect::<Vec<u32>>());
    }
}

#[test]
fn an_unknown_name_is_an_error_that_lists_the_names() {
    let error = Parser::load(&object("resp"), "respp").unwrap_err();
    assert!(matches!(error, LoadError::UnknownProgram { .. }));
    assert!(error.to_string().contains("resp"), "{error}");
}

#[test]
fn clones_of_a_parser_run_on_any_thread_at_once() {
    let parser = Parser::load(&object("thrift"), "thrift").unwrap();
    std::thread::scope(|s| {
        for t in 1..=4u8 {
            let parser = parser.clone();
            s.spawn(move || {
                for _ in 0..1000 {
                    let got = parser.parse(&[0, 0, 0, t, 0]);
                    assert_eq!(got, Verdict::Message(u32::from(t) + 4));
                }
            });
        }
    });
}
