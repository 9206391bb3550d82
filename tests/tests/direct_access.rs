//! The direct-access programs of the benchmarks say what the same functions say natively, at every
//! prefix of recorded streams: what is compared does the same work.

use kcm_core::bpf::run::Exec;
use kcm_core::delineate::Delineate;
use kcm_core::{Object, Parser};
use kcm_tests::{objects, streams};

/// Recorded by `tests/tests/real_recordings.rs`.
const STREAMS: [(&str, &str); 7] = [
    ("thrift", "thrift-calls"),
    ("http2", "http2-requests"),
    ("memcached", "memcached-text-requests"),
    ("memcached", "memcached-binary-requests"),
    ("mqtt", "mqtt-v5-replies"),
    ("postgres", "postgres-psql-requests"),
    ("resp", "resp-pipelined-requests"),
];

/// Bytes of a prefix, at most.
const LONGEST: usize = 600;

#[test]
fn direct_access_programs_agree_with_native_code_at_every_prefix() {
    let object = Object::parse(&objects::bytes("rust/direct")).expect("the object loads");
    for (name, stream) in STREAMS {
        let parser = Parser::builder(&object, name).exec(Exec::Interpreter).load();
        let parser = parser.unwrap_or_else(|e| panic!("{name}: {e}"));
        let native = streams::native(name);
        let path = format!("{}/data/streams/{stream}.bin", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut found = 0;
        for end in 1..=bytes.len().min(LONGEST) {
            let here = &bytes[..end];
            let (ours, theirs) = (parser.parse(here), native.parse(here));
            assert_eq!(ours, theirs, "{name}: the first {end} bytes of {stream}");
            found += usize::from(theirs.to_raw() > 0);
        }
        assert!(found > 0, "{name}: {stream} shows no whole head within {LONGEST} bytes");
    }
}

#[test]
fn both_forms_of_the_line_scan_find_the_end_of_a_line() {
    for object in ["rust/crlf", "rust/direct"] {
        let object = Object::parse(&objects::bytes(object)).expect("the object loads");
        let parser = Parser::load(&object, "crlf").expect("the program is accepted");
        for (line, raw) in [("\r\n", 2), ("get k\r\nrest", 7), ("a\rb\nc\r\n", 7), ("no end\r", 0)]
        {
            assert_eq!(parser.parse(line.as_bytes()).to_raw(), raw, "{line:?}");
        }
        assert!(parser.parse(&[b'x'; 2000]).to_raw() < 0, "longer than a line may be");
    }
}
