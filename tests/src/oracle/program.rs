//! Parsers as BPF instructions: the same words for the kernel and for our verifier.

/// A parser that a scenario attaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parser {
    /// The kernel documentation's own example: a big-endian 32-bit length, counted without
    /// its four bytes.
    Len4,
    /// A big-endian 16-bit length, counted without its two bytes.
    Len2,
    /// The first byte is the whole length.
    U8,
    /// Always this answer: a length, 0 for "need more", or a negated error number.
    Const(i32),
    /// "Need more" below `least` bytes, then always `then`.
    When {
        /// Bytes that must be there.
        least: i32,
        /// The answer from then on.
        then: i32,
    },
    /// As the inner one; the length of its input is noted at each call.
    Traced(Box<Parser>),
}

/// One instruction slot, fields in the order of RFC 9669.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Operation code.
    pub code: u8,
    /// Destination register.
    pub dst: u8,
    /// Source register.
    pub src: u8,
    /// Offset.
    pub off: i16,
    /// Immediate.
    pub imm: i32,
}

const fn slot(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Slot {
    Slot { code, dst, src, off, imm }
}

// Codes by their assembler names.
const MOV64: u8 = 0xbf;
const MOV64K: u8 = 0xb7;
const MOV32K: u8 = 0xb4;
const ADD64K: u8 = 0x07;
const LDABS_W: u8 = 0x20;
const LDABS_H: u8 = 0x28;
const LDABS_B: u8 = 0x30;
const LDX_W: u8 = 0x61;
const LDX_DW: u8 = 0x79;
const ST_W: u8 = 0x62;
const STX_W: u8 = 0x63;
const STX_DW: u8 = 0x7b;
const LDDW: u8 = 0x18;
const CALL: u8 = 0x85;
const JEQ: u8 = 0x15;
const JGE: u8 = 0x35;
const EXIT: u8 = 0x95;

/// Entries of the array that a traced program writes to: the first counts, the rest are
/// input lengths.
pub const TRACE_ENTRIES: u32 = 64;

impl Parser {
    /// As the inner parser, with its calls noted.
    pub fn traced(self) -> Self {
        Parser::Traced(Box::new(self))
    }

    /// The instructions. `trace` is the descriptor of the array map that notes the calls; a
    /// traced parser without one notes nothing.
    pub fn slots(&self, trace: Option<i32>) -> Vec<Slot> {
        let mut out = vec![slot(MOV64, 6, 1, 0, 0)]; // packet loads want the context in r6
        let inner = match self {
            Parser::Traced(inner) => {
                if let Some(map) = trace {
                    note_call(&mut out, map);
                }
                inner
            }
            other => other,
        };
        inner.body(&mut out);
        out
    }

    fn body(&self, out: &mut Vec<Slot>) {
        let exit = slot(EXIT, 0, 0, 0, 0);
        match *self {
            Parser::Len4 => {
                out.extend([slot(LDABS_W, 0, 0, 0, 0), slot(ADD64K, 0, 0, 0, 4), exit]);
            }
            Parser::Len2 => {
                out.extend([slot(LDABS_H, 0, 0, 0, 0), slot(ADD64K, 0, 0, 0, 2), exit]);
            }
            Parser::U8 => out.extend([slot(LDABS_B, 0, 0, 0, 0), exit]),
            Parser::Const(v) => out.extend([slot(MOV32K, 0, 0, 0, v), exit]),
            Parser::When { least, then } => out.extend([
                slot(LDX_W, 7, 6, 0, 0), // the length of what there is
                slot(MOV32K, 0, 0, 0, then),
                slot(JGE, 7, 0, 1, least),
                slot(MOV32K, 0, 0, 0, 0),
                exit,
            ]),
            Parser::Traced(ref inner) => inner.body(out),
        }
    }
}

/// `array[0] += 1; array[array[0]] = length of the input`.
fn note_call(out: &mut Vec<Slot>, map: i32) {
    let lookup = [
        slot(MOV64, 2, 10, 0, 0),
        slot(ADD64K, 2, 0, 0, -4),
        slot(LDDW, 1, 1, 0, map),
        slot(0, 0, 0, 0, 0),
        slot(CALL, 0, 0, 0, 1),
    ];
    out.push(slot(LDX_W, 7, 6, 0, 0));
    out.push(slot(ST_W, 10, 0, -4, 0));
    out.extend(lookup);
    out.push(slot(JEQ, 0, 0, 11, 0)); // no entry: over all that follows
    out.push(slot(LDX_DW, 8, 0, 0, 0));
    out.push(slot(ADD64K, 8, 0, 0, 1));
    out.push(slot(STX_DW, 0, 8, 0, 0));
    out.push(slot(STX_W, 10, 8, -4, 0));
    out.extend(lookup);
    out.push(slot(JEQ, 0, 0, 1, 0));
    out.push(slot(STX_DW, 0, 7, 0, 0));
    // Nothing of the bookkeeping is an answer.
    out.push(slot(MOV64K, 0, 0, 0, 0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_of_a_traced_program_land_inside_it() {
        let slots = Parser::Len4.traced().slots(Some(3));
        for (i, s) in slots.iter().enumerate().filter(|(_, s)| matches!(s.code, JEQ | JGE)) {
            let target = i as i64 + 1 + i64::from(s.off);
            assert!((target as usize) < slots.len(), "slot {i} jumps to {target}");
        }
    }
}
