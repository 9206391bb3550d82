//! Parsers by name, natively and on every engine, and what a stream delineates to.

use kcm_core::bpf::run::Exec;
use kcm_core::delineate::{Delineate, Verdict, WalkEnd, WalkLimits};
use kcm_ebpf::{Message, Parsed, parse_bytes, parsers};

use crate::load;
use crate::skip::skip;

/// A parse function run natively.
#[derive(Clone, Copy, Debug)]
pub struct Native(pub fn(&Message<'_>) -> Parsed);

impl Delineate for Native {
    fn parse(&self, msg: &[u8]) -> Verdict {
        parse_bytes(self.0, msg)
    }
}

/// The built-in parser whose program has that name, natively.
///
/// # Panics
/// If there is none.
pub fn native(name: &str) -> Native {
    let found = parsers::ALL.iter().find(|p| p.1 == name);
    found.map_or_else(|| panic!("no parser {name}"), |p| Native(p.2))
}

const LIMITS: WalkLimits = WalkLimits { max_message: 1 << 30, max_ends: u32::MAX };

/// The ends of all messages of a stream that is all there; it must end with a whole message.
///
/// # Errors
/// Where and why delineation stopped before the stream's end.
pub fn ends(parser: &dyn Delineate, stream: &[u8]) -> Result<Vec<u32>, String> {
    let mut ends = Vec::new();
    match parser.walk(stream, 0, LIMITS, &mut ends) {
        WalkEnd::Empty => Ok(ends),
        other => {
            let at = ends.last().map_or(0, |e| *e as usize);
            let head = &stream[at..stream.len().min(at + 32)];
            Err(format!("{other:?} at {at} of {}: {}", stream.len(), head.escape_ascii()))
        }
    }
}

/// The same for a stream that arrives in pieces: after each piece the parser is asked again
/// about the bytes from the last message's end, as a stream parser does.
///
/// # Errors
/// As [`ends`].
pub fn ends_of_pieces<'a>(
    parser: &dyn Delineate,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<u32>, String> {
    let mut out: Vec<u32> = Vec::new();
    // Bytes from `base` on that belong to no message found so far.
    let (mut buf, mut base) = (Vec::new(), 0u32);
    let mut ends = Vec::new();
    for piece in pieces {
        buf.extend_from_slice(piece);
        ends.clear();
        let end = parser.walk(&buf, 0, LIMITS, &mut ends);
        out.extend(ends.iter().map(|e| base + e));
        if let Some(&last) = ends.last() {
            buf.drain(..last as usize);
            base += last;
        }
        match end {
            WalkEnd::Empty | WalkEnd::NeedMore | WalkEnd::Partial { .. } => {}
            other => return Err(format!("{other:?} at {base}: {}", buf.escape_ascii())),
        }
    }
    if buf.is_empty() { Ok(out) } else { Err(format!("{} bytes are left", buf.len())) }
}

/// The built-in parser of that name, on everything that can run it; each with a name to show.
///
/// # Panics
/// If an executor refuses it.
pub fn engines(name: &str) -> Vec<(&'static str, Box<dyn Delineate>)> {
    let mut out: Vec<(&'static str, Box<dyn Delineate>)> = vec![("native", Box::new(native(name)))];
    for (shown, exec) in
        [("interpreter", Exec::Interpreter), ("checked", Exec::Checked), ("jit", Exec::Jit)]
    {
        match load::built_in(name, exec) {
            Ok(parser) => out.push((shown, Box::new(parser))),
            Err(e)
                if exec == Exec::Jit
                    && !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) =>
            {
                skip(format!("{name} on the JIT: {e:#}"));
            }
            Err(e) => panic!("{e:#}"),
        }
    }
    out
}
