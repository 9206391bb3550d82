//! A recorded stream gives the same messages however it is split or coalesced, on every engine.

use std::path::{Path, PathBuf};

use kcm_tests::streams::{ends, ends_of_pieces, engines};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

struct Stream {
    name: String,
    protocol: String,
    bytes: Vec<u8>,
    /// As a second, independent reading of the format found them (ends.py).
    ends: Vec<u32>,
}

fn streams() -> Vec<Stream> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/streams");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "bin"));
    files.sort();
    assert!(files.len() >= 20, "the recorded streams are there");
    files
        .into_iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let ends = std::fs::read_to_string(path.with_extension("ends")).unwrap();
            Stream {
                protocol: name.split('-').next().unwrap().to_owned(),
                bytes: std::fs::read(&path).unwrap(),
                ends: ends.lines().map(|l| l.parse().unwrap()).collect(),
                name,
            }
        })
        .collect()
}

impl Stream {
    /// Its first messages, of about `len` bytes together.
    fn head(&self, len: u32) -> (&[u8], &[u32]) {
        let count = self.ends.iter().take_while(|e| **e <= len).count().max(1);
        (&self.bytes[..self.ends[count - 1] as usize], &self.ends[..count])
    }
}

#[test]
fn a_whole_stream_gives_the_messages_that_another_reader_of_the_format_found() {
    for s in streams() {
        for (engine, parser) in engines(&s.protocol) {
            assert_eq!(ends(&*parser, &s.bytes).as_ref(), Ok(&s.ends), "{} on {engine}", s.name);
        }
    }
}

#[test]
fn every_parser_has_a_recorded_stream() {
    let streams = streams();
    for (object, program, _) in kcm_ebpf::parsers::ALL {
        // One layout for each way to write a length: the parser tables hold these.
        if *object != "lenprefix" {
            assert!(streams.iter().any(|s| s.protocol == *program), "no stream for {program}");
        }
    }
}

#[test]
fn a_stream_in_two_pieces_gives_the_same_messages_wherever_it_is_split() {
    for s in streams() {
        let (bytes, expected) = s.head(2000);
        for (engine, parser) in engines(&s.protocol) {
            for at in 0..=bytes.len() {
                let (a, b) = bytes.split_at(at);
                let found = ends_of_pieces(&*parser, [a, b]);
                assert_eq!(found.as_deref(), Ok(expected), "{} at {at} on {engine}", s.name);
            }
        }
    }
}

#[test]
fn a_stream_one_byte_at_a_time_gives_the_same_messages() {
    for s in streams() {
        let (bytes, expected) = s.head(8000);
        for (engine, parser) in engines(&s.protocol) {
            let found = ends_of_pieces(&*parser, bytes.chunks(1));
            assert_eq!(found.as_deref(), Ok(expected), "{} on {engine}", s.name);
        }
    }
}

#[test]
fn a_stream_in_random_pieces_gives_the_same_messages() {
    for s in streams() {
        let engines = engines(&s.protocol);
        let mut runner = TestRunner::new(Config { cases: 8, ..Config::default() });
        // Small and large pieces mixed, repeated until the stream is used up.
        let sizes = prop::collection::vec(
            prop_oneof![1..4usize, 1..100usize, 1000..1500usize, 1000..70_000usize],
            1..40,
        );
        runner
            .run(&sizes, |sizes| {
                let mut pieces = Vec::new();
                let mut rest = &s.bytes[..];
                for size in sizes.iter().cycle() {
                    if rest.is_empty() {
                        break;
                    }
                    // Runs of tiny pieces prove nothing more beyond the stream's beginning.
                    let size = if pieces.len() > 300 { size.max(&1000) } else { size };
                    let (piece, more) = rest.split_at(rest.len().min(*size));
                    pieces.push(piece);
                    rest = more;
                }
                for (engine, parser) in &engines {
                    let found = ends_of_pieces(&**parser, pieces.iter().copied());
                    prop_assert_eq!(found.as_ref(), Ok(&s.ends), "{} on {}", s.name, engine);
                }
                Ok(())
            })
            .unwrap();
    }
}
