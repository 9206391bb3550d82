//! What holds for every parser, on any bytes; and streams built from values.

use std::{format, string::String, vec, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{Verdict, errno, parse_bytes};

/// Bytes that look like some protocol for a while, and any bytes.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            "\r\n",
            "\n",
            "\r",
            " ",
            "0",
            "1",
            "-1",
            "9",
            "2147483647",
            "$",
            "*",
            "%",
            "|",
            "+",
            ":",
            "=",
            "?",
            "set ",
            "VALUE ",
            "VA ",
            "ms ",
            "cas ",
            "prepend ",
            "PRI * HTTP/2.0\r\n\r\n",
            "SM\r\n\r\n",
            "HTTP",
            "k",
            "END\r\n",
        ])
        .prop_map(|s| s.as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 1..6),
        proptest::sample::select(vec![0u8, 0x7f, 0x80, 0x81, 0xff]).prop_map(|b| vec![b]),
        (1u32..40).prop_map(|n| n.to_be_bytes().to_vec()),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// A RESP value.
#[derive(Clone, Debug)]
enum Value {
    Line(char, String),
    Bulk(char, Vec<u8>),
    Null(char),
    Many(char, Vec<Value>),
    Pairs(Vec<(Value, Value)>),
    Attribute(Vec<(Value, Value)>, std::boxed::Box<Value>),
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        let pairs = |pairs: &[(Value, Value)], out: &mut Vec<u8>| {
            for (key, value) in pairs {
                key.write(out);
                value.write(out);
            }
        };
        match self {
            Value::Line(kind, text) => out.extend(format!("{kind}{text}\r\n").bytes()),
            Value::Bulk(kind, data) => {
                out.extend(format!("{kind}{}\r\n", data.len()).bytes());
                out.extend(data);
                out.extend(b"\r\n");
            }
            Value::Null(kind) => out.extend(format!("{kind}-1\r\n").bytes()),
            Value::Many(kind, values) => {
                out.extend(format!("{kind}{}\r\n", values.len()).bytes());
                values.iter().for_each(|value| value.write(out));
            }
            Value::Pairs(entries) => {
                out.extend(format!("%{}\r\n", entries.len()).bytes());
                pairs(entries, out);
            }
            Value::Attribute(entries, value) => {
                out.extend(format!("|{}\r\n", entries.len()).bytes());
                pairs(entries, out);
                value.write(out);
            }
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    let one = |kinds: &'static str| proptest::sample::select(kinds.chars().collect::<Vec<_>>());
    let leaf = prop_oneof![
        (one("+-:_,#("), "[ -~]{0,20}").prop_map(|(kind, text)| Value::Line(kind, text)),
        (one("$!="), proptest::collection::vec(any::<u8>(), 0..30))
            .prop_map(|(kind, data)| Value::Bulk(kind, data)),
        one("$*").prop_map(Value::Null),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        let pairs = proptest::collection::vec((inner.clone(), inner.clone()), 0..4);
        prop_oneof![
            (one("*~>"), proptest::collection::vec(inner.clone(), 0..6))
                .prop_map(|(kind, values)| Value::Many(kind, values)),
            pairs.clone().prop_map(Value::Pairs),
            (pairs, inner).prop_map(|(entries, value)| Value::Attribute(entries, value.into())),
        ]
    })
}

proptest! {
    #[test]
    fn what_was_answered_for_a_prefix_holds_for_all_longer_ones(bytes in bytes()) {
        for (_, name, parse) in ALL {
            let mut last = Verdict::NeedMore;
            for len in 1..=bytes.len() {
                let said = parse_bytes(parse, &bytes[..len]);
                prop_assert!(
                    last == Verdict::NeedMore || said == last,
                    "{name}: {last:?}, and with {len} bytes {said:?}"
                );
                last = said;
            }
        }
    }

    #[test]
    fn a_resp_value_of_any_shape_is_one_message(first in value(), second in value()) {
        let mut stream = Vec::new();
        first.write(&mut stream);
        let len = stream.len();
        second.write(&mut stream);
        prop_assert_eq!(parse_bytes(resp::parse, &stream), Verdict::Message(len as u32));
        // Until its length is certain, no part of it has another.
        for cut in 1..len {
            let said = parse_bytes(resp::parse, &stream[..cut]);
            prop_assert!(said == Verdict::NeedMore || said == Verdict::Message(len as u32));
        }
    }

    #[test]
    fn a_memcached_block_is_part_of_its_line(
        command in proptest::sample::select(vec![
            ("set", 2), ("add", 2), ("cas", 2), ("replace", 2), ("append", 2), ("prepend", 2),
            ("VALUE", 1), ("ms", 0),
        ]),
        key in "[!-~]{1,250}",
        numbers in proptest::collection::vec(0u32.., 2),
        tail in "( [!-~]{1,12}){0,3}",
        data in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        let mut message = format!("{} {key}", command.0);
        for number in &numbers[..command.1] {
            message += &format!(" {number}");
        }
        message += &format!(" {}{tail}\r\n", data.len());
        let mut stream = message.into_bytes();
        stream.extend(&data);
        stream.extend(b"\r\nEND\r\n");
        let len = stream.len() - 5;
        prop_assert_eq!(parse_bytes(memcached::parse, &stream), Verdict::Message(len as u32));
    }
}

#[test]
fn steps_run_out_with_an_error() {
    let parse = resp::parse_bounded::<3>;
    assert_eq!(parse_bytes(parse, b"*2\r\n:1\r\n:2\r\n"), Verdict::Message(12));
    assert_eq!(parse_bytes(parse, b"*3\r\n:1\r\n:2\r\n:3\r\n"), Verdict::Error(errno::EMSGSIZE));
}

#[test]
fn every_program_is_named_once() {
    for (i, (_, name, _)) in ALL.iter().enumerate() {
        assert!(ALL[..i].iter().all(|other| other.1 != *name), "{name}");
    }
}
