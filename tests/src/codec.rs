//! Formats of most tests: native delineators, and the program that engines take which run none.

use std::any::Any;
use std::sync::OnceLock;

use kcm_core::delineate::{Delineate, Verdict};
use kcm_core::{Object, Parser};

/// Messages of a 4-byte big-endian length and that many bytes.
///
/// A length with the top bit set is an error instead: its low bits are the code.
#[derive(Clone, Copy, Debug)]
pub struct Be32;

impl Delineate for Be32 {
    fn parse(&self, message: &[u8]) -> Verdict {
        let Some(head) = message.first_chunk::<4>() else { return Verdict::NeedMore };
        match u32::from_be_bytes(*head) {
            code if code & 0x8000_0000 != 0 => Verdict::Error((code & 0xfff) as i32),
            len => Verdict::Message(len.saturating_add(4)),
        }
    }

    fn program(&self) -> Option<&dyn Any> {
        Some(be32_program())
    }
}

/// [`Be32`] as a verified program (`tests/ebpf/src/bin/codec.rs`).
pub fn be32_program() -> &'static Parser {
    static PROGRAM: OnceLock<Parser> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let bytes = include_bytes!("../data/objects/rust/codec.o");
        let object = Object::parse(bytes).expect("a committed object");
        Parser::load(&object, "be32").expect("a verified program")
    })
}

/// One message for [`Be32`].
pub fn frame(payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut message = (payload.len() as u32).to_be_bytes().to_vec();
    message.extend_from_slice(payload);
    message
}

/// What makes [`Be32`] fail with this code.
pub fn poison(code: u32) -> [u8; 4] {
    (0x8000_0000 | code).to_be_bytes()
}

/// The payload of a message of [`Be32`].
pub fn payload(message: &[u8]) -> &[u8] {
    &message[4..]
}

/// Messages that end with a newline.
#[derive(Clone, Copy, Debug)]
pub struct Lines;

impl Delineate for Lines {
    fn parse(&self, message: &[u8]) -> Verdict {
        match message.iter().position(|&byte| byte == b'\n') {
            Some(at) => Verdict::Message(at as u32 + 1),
            None => Verdict::NeedMore,
        }
    }
}

/// A message that says where it came from: number `seq` of connection `conn`, filled up to
/// `len` bytes with a pattern that depends on both.
pub fn numbered(conn: u32, seq: u32, len: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(len.max(8));
    payload.extend_from_slice(&conn.to_be_bytes());
    payload.extend_from_slice(&seq.to_be_bytes());
    while payload.len() < len {
        payload.push(pattern(conn, seq, payload.len()));
    }
    frame(payload)
}

/// Reads a [`numbered`] message back; None if any byte of it is wrong.
pub fn number(message: &[u8]) -> Option<(u32, u32)> {
    let len = u32::from_be_bytes(*message.first_chunk::<4>()?) as usize;
    let payload = message.get(4..)?;
    if payload.len() != len {
        return None;
    }
    let conn = u32::from_be_bytes(*payload.first_chunk::<4>()?);
    let seq = u32::from_be_bytes(*payload.get(4..)?.first_chunk::<4>()?);
    let right = |(at, &byte): (usize, &u8)| byte == pattern(conn, seq, at);
    payload.iter().enumerate().skip(8).all(right).then_some((conn, seq))
}

fn pattern(conn: u32, seq: u32, at: usize) -> u8 {
    (conn.wrapping_mul(31) ^ seq.wrapping_mul(7) ^ at as u32) as u8
}
