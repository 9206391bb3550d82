//! Why a program was rejected, printed like a compiler's error.

use std::fmt;

use crate::bpf::{
    decode::DecodeError,
    program::{Line, Program},
};

/// A rejected program: the rule, the instruction, where it came from and what was known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// The program's name.
    pub program: String,
    /// The rule broken.
    pub rule: Rule,
    /// The instruction slot, 0 if the rule is about the whole program.
    pub insn: usize,
    /// The instruction as text.
    pub text: String,
    /// Its source line, where the object says so.
    pub line: Option<Line>,
    /// The registers that matter, with what was known of them.
    pub registers: Vec<(u8, String)>,
}

/// The rules of verification: one variant for each way to break one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// There are no instructions.
    Empty,
    /// More instructions than a program may have.
    TooLong {
        /// How many it has.
        insns: usize,
        /// How many it may have.
        limit: usize,
    },
    /// Programs of this kind run in the kernel only.
    ProgramKind,
    /// The list of functions is not ascending from 0 within the program.
    FunctionTable,
    /// Not an instruction of RFC 9669.
    Encoding(DecodeError),
    /// A jump into the second half of a 64-bit load.
    JumpIntoWide {
        /// The target.
        target: usize,
    },
    /// A jump out of its function.
    JumpOutOfFunction {
        /// The target.
        target: usize,
    },
    /// Control can run past the end of a function.
    FallsOffEnd,
    /// A call of something that is not the start of a function.
    NotAFunction {
        /// The target.
        target: usize,
    },
    /// Functions call each other in a circle.
    Recursion,
    /// A map index that the program does not have.
    NoSuchMap {
        /// The index.
        map: u32,
    },
    /// An address beyond a map's value, or in a map that is not an array.
    MapValueOffset {
        /// The map's index.
        map: u32,
        /// The offset.
        offset: u32,
    },
    /// Calls nest deeper than 8 frames.
    CallDepth,
    /// The frames of a chain of calls need more than 512 bytes.
    StackDepth {
        /// What they need.
        bytes: u32,
    },
    /// A register is read that was never written on this path.
    Uninit {
        /// The register.
        reg: u8,
    },
    /// Memory is accessed through something that is no pointer.
    NotAPointer {
        /// The register.
        reg: u8,
        /// What it is.
        is: &'static str,
    },
    /// Memory is accessed through a pointer that may be null.
    MaybeNull {
        /// The register.
        reg: u8,
    },
    /// An access that is not proved to be within the packet.
    PacketBounds {
        /// Lowest offset.
        min: i64,
        /// One past the highest byte.
        end: i64,
        /// Bytes proven to be there, from the same origin as `end`.
        proven: i64,
    },
    /// A store to the packet.
    PacketWrite,
    /// An access that is not proved to be within a map's value.
    MapBounds {
        /// Lowest offset.
        min: i64,
        /// One past the highest byte.
        end: i64,
        /// Bytes in a value.
        size: u32,
    },
    /// A store to read-only data.
    MapReadOnly {
        /// The map's index.
        map: u32,
    },
    /// A load from data that programs may only write.
    MapWriteOnly {
        /// The map's index.
        map: u32,
    },
    /// An access that is not proved to be within a record.
    RecordBounds {
        /// Lowest offset.
        min: i64,
        /// One past the highest byte.
        end: i64,
        /// Bytes in the record.
        size: u32,
    },
    /// An access that is not proved to be within the stack.
    StackBounds {
        /// Lowest offset from the frame's top.
        min: i64,
        /// One past the highest byte.
        end: i64,
    },
    /// Stack memory is read before it was written.
    StackUninit {
        /// The byte's offset from the frame's top.
        off: i64,
    },
    /// A stored pointer is read in parts, as a number, or by a helper.
    PointerBytes {
        /// Offset from the frame's top.
        off: i64,
    },
    /// A pointer is stored where it could be seen from outside.
    PointerLeak {
        /// Into what.
        into: &'static str,
    },
    /// Arithmetic that pointers do not have.
    PointerArithmetic {
        /// The pointer.
        reg: u8,
        /// What it is.
        is: &'static str,
    },
    /// A pointer moved by an amount that is not bounded.
    PointerOffset {
        /// The pointer.
        reg: u8,
        /// Least sum of offsets.
        min: i64,
        /// Greatest.
        max: i64,
    },
    /// A comparison that would tell something of an address.
    PointerCompare {
        /// Left side.
        left: &'static str,
        /// Right side.
        right: &'static str,
    },
    /// A context field that does not exist, cannot be answered in process, or not this way.
    ContextField {
        /// Byte offset in `struct __sk_buff`.
        offset: i64,
        /// Its name, or `?`.
        name: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// The context pointer was changed by an amount that is not constant.
    ContextOffset,
    /// One instruction accesses the context on one path and something else on another.
    ContextMixed,
    /// An atomic operation on something else than stack, map values or records.
    AtomicTarget {
        /// What it is.
        is: &'static str,
    },
    /// An atomic operation that is not aligned to its size.
    AtomicAlignment {
        /// The offset.
        off: i64,
    },
    /// A helper that no kernel has.
    UnknownHelper {
        /// Its number.
        id: u32,
    },
    /// A helper that exists in the kernel but not here.
    UnsupportedHelper {
        /// Its number.
        id: u32,
        /// Its name.
        name: &'static str,
    },
    /// An argument of the wrong kind.
    HelperArgument {
        /// The register.
        reg: u8,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        is: &'static str,
    },
    /// A map of a kind that the helper does not work on.
    HelperMap {
        /// The map's index.
        map: u32,
        /// What it must be.
        expected: &'static str,
    },
    /// A size that may be negative or huge.
    SizeUnbounded {
        /// The register.
        reg: u8,
        /// Least value.
        min: i64,
        /// Greatest value.
        max: u64,
    },
    /// A size that may be zero.
    SizeZero {
        /// The register.
        reg: u8,
    },
    /// An argument that must be a constant.
    NotConstant {
        /// The register.
        reg: u8,
    },
    /// A string without its end within the read-only data.
    StringEnd {
        /// The register.
        reg: u8,
    },
    /// A record is not given back on some path.
    RecordHeld {
        /// Where it was reserved.
        reserved: usize,
    },
    /// A record pointer that was moved from the record's start.
    RecordOffset {
        /// The register.
        reg: u8,
    },
    /// A callback whose result is not 0 or 1.
    CallbackResult,
    /// The program returns something that is not a number.
    ReturnValue {
        /// What it is.
        is: &'static str,
    },
    /// A function returns a pointer to its own stack.
    ReturnStack,
    /// A legacy packet load without the context in r6.
    LegacyContext {
        /// What r6 is.
        is: &'static str,
    },
    /// A legacy packet load, which may end the program, while a record is held.
    LegacyHeld {
        /// Where it was reserved.
        reserved: usize,
    },
    /// A legacy packet load in another function than the main one.
    LegacyInFunction,
    /// A path comes back to where it was with nothing changed.
    InfiniteLoop,
    /// More than may be explored, even with loops widened.
    TooComplex {
        /// Instructions explored.
        explored: u64,
    },
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Empty => f.write_str("the program has no instructions"),
            Rule::TooLong { insns, limit } => {
                write!(f, "the program has {insns} instructions, at most {limit} are allowed")
            }
            Rule::ProgramKind => {
                f.write_str("programs of this kind run in the kernel only")
            }
            Rule::FunctionTable => f.write_str("the function table is not in order"),
            Rule::Encoding(e) => e.fmt(f),
            Rule::JumpIntoWide { target } => {
                write!(f, "jump into the middle of the 64-bit load at {}", target.saturating_sub(1))
            }
            Rule::JumpOutOfFunction { target } => {
                write!(f, "jump to {target}, which belongs to another function")
            }
            Rule::FallsOffEnd => f.write_str("control can run past the end of the function"),
            Rule::NotAFunction { target } => {
                write!(f, "call of {target}, where no function starts")
            }
            Rule::Recursion => f.write_str("functions call each other in a circle"),
            Rule::NoSuchMap { map } => write!(f, "there is no map {map}"),
            Rule::MapValueOffset { map, offset } => {
                write!(f, "map {map} has no single value with a byte {offset}")
            }
            Rule::CallDepth => f.write_str("calls nest deeper than 8 frames"),
            Rule::StackDepth { bytes } => {
                write!(f, "the frames of this chain of calls need {bytes} bytes of stack, 512 are there")
            }
            Rule::Uninit { reg } => write!(f, "r{reg} is read before it was written"),
            Rule::NotAPointer { reg, is } => {
                write!(f, "r{reg} is used as an address, but is {is}")
            }
            Rule::MaybeNull { reg } => write!(f, "r{reg} may be null"),
            Rule::PacketBounds { min, end, proven } => {
                if *min < 0 {
                    write!(f, "access may begin at byte {min}, before the packet")
                } else {
                    write!(
                        f,
                        "access may reach to byte {end} of the packet, {proven} are proven to be there"
                    )
                }
            }
            Rule::PacketWrite => f.write_str("the packet is read-only"),
            Rule::MapBounds { min, end, size } => {
                write!(f, "access to bytes {min}..{end} of a map value of {size} bytes")
            }
            Rule::MapReadOnly { map } => write!(f, "map {map} is read-only"),
            Rule::MapWriteOnly { map } => write!(f, "map {map} is write-only"),
            Rule::RecordBounds { min, end, size } => {
                write!(f, "access to bytes {min}..{end} of a record of {size} bytes")
            }
            Rule::StackBounds { min, end } => {
                write!(f, "access to stack bytes {min}..{end}, the frame is -512..0")
            }
            Rule::StackUninit { off } => {
                write!(f, "stack byte fp{off:+} is read before it was written")
            }
            Rule::PointerBytes { off } => {
                write!(f, "the pointer stored at fp{off:+} is read as something else")
            }
            Rule::PointerLeak { into } => write!(f, "a pointer would leak into {into}"),
            Rule::PointerArithmetic { reg, is } => {
                write!(f, "r{reg} is {is}, on which this operation is not allowed")
            }
            Rule::PointerOffset { reg, min, max } => {
                write!(f, "the offset of pointer r{reg} would be {min}..={max}, which is not bounded")
            }
            Rule::PointerCompare { left, right } => {
                write!(f, "comparison of {left} with {right} would tell an address")
            }
            Rule::ContextField { offset, name, why } => {
                write!(f, "context field `{name}` (offset {offset}): {why}")
            }
            Rule::ContextOffset => {
                f.write_str("the context is accessed at an offset that is not constant")
            }
            Rule::ContextMixed => f.write_str(
                "this instruction accesses different context fields, or something else, on different paths",
            ),
            Rule::AtomicTarget { is } => write!(f, "atomic operation on {is}"),
            Rule::AtomicAlignment { off } => {
                write!(f, "atomic operation at offset {off} is not aligned to its size")
            }
            Rule::UnknownHelper { id } => write!(f, "unknown helper {id}"),
            Rule::UnsupportedHelper { id, name } => {
                write!(f, "helper {id} (bpf_{name}) is not available to parsers in process")
            }
            Rule::HelperArgument { reg, expected, is } => {
                write!(f, "argument r{reg} must be {expected}, but is {is}")
            }
            Rule::HelperMap { map, expected } => {
                write!(f, "map {map} is not {expected}, which this helper needs")
            }
            Rule::SizeUnbounded { reg, min, max } => {
                write!(f, "size r{reg} may be {min}..={max}")
            }
            Rule::SizeZero { reg } => write!(f, "size r{reg} may be 0"),
            Rule::NotConstant { reg } => write!(f, "argument r{reg} must be a constant"),
            Rule::StringEnd { reg } => {
                write!(f, "the string in r{reg} does not end within its read-only data")
            }
            Rule::RecordHeld { reserved } => {
                write!(f, "the record reserved at {reserved} is neither submitted nor discarded")
            }
            Rule::RecordOffset { reg } => {
                write!(f, "r{reg} does not point to the start of its record")
            }
            Rule::CallbackResult => f.write_str("the callback's result must be 0 or 1"),
            Rule::ReturnValue { is } => write!(f, "the program returns {is}, not a number"),
            Rule::ReturnStack => f.write_str("a function returns a pointer to its own stack"),
            Rule::LegacyContext { is } => {
                write!(f, "legacy packet loads need the context in r6, which is {is}")
            }
            Rule::LegacyHeld { reserved } => write!(
                f,
                "a legacy packet load may end the program while the record reserved at {reserved} is held"
            ),
            Rule::LegacyInFunction => f.write_str(
                "a legacy packet load may end the program, which only the main function can do",
            ),
            Rule::InfiniteLoop => f.write_str("this loop can come round with nothing changed"),
            Rule::TooComplex { explored } => {
                write!(f, "the program is too complex: {explored} instructions explored")
            }
        }
    }
}

impl Rule {
    /// What would satisfy the rule.
    pub fn help(&self) -> &'static str {
        match self {
            Rule::Empty | Rule::FunctionTable | Rule::Encoding(_) | Rule::NotAFunction { .. } => {
                "the object is damaged, or was not made by a BPF compiler"
            }
            Rule::TooLong { .. } | Rule::TooComplex { .. } => {
                "split the parser, bound its loops by smaller constants, or return early"
            }
            Rule::ProgramKind => "load an sk_skb/stream_parser or a socket filter program",
            Rule::JumpIntoWide { .. } | Rule::JumpOutOfFunction { .. } => {
                "jumps must go to an instruction of the same function"
            }
            Rule::FallsOffEnd => "end every function with `exit` or a jump",
            Rule::Recursion => "write it as a loop",
            Rule::NoSuchMap { .. } | Rule::MapValueOffset { .. } => {
                "the object's relocations do not match its maps"
            }
            Rule::CallDepth | Rule::StackDepth { .. } => {
                "inline functions, or keep large buffers in a map"
            }
            Rule::Uninit { .. } => "give the variable a value on every path",
            Rule::NotAPointer { .. } => "only pointers that the verifier knows can be followed",
            Rule::MaybeNull { .. } => "compare it with 0 first, and use it only where it is not",
            Rule::PacketBounds { .. } => {
                "compare the pointer plus the bytes you need with data_end first, or use bpf_skb_load_bytes"
            }
            Rule::PacketWrite => "copy the bytes to the stack and change them there",
            Rule::MapBounds { .. } | Rule::RecordBounds { .. } => {
                "bound the index by a comparison or a mask before the access"
            }
            Rule::StackBounds { .. } => {
                "bound the index by a comparison or a mask before the access"
            }
            Rule::MapReadOnly { .. } => "use a mutable static or a map for what changes",
            Rule::MapWriteOnly { .. } => "create the map without BPF_F_WRONLY_PROG",
            Rule::StackUninit { .. } => "initialise the variable, all bytes of it (padding too)",
            Rule::PointerBytes { .. } => "read stored pointers whole, at their own place",
            Rule::PointerLeak { .. } => "store what it points to, not the pointer",
            Rule::PointerArithmetic { .. } => {
                "pointers can be moved by adding or subtracting a number, 64 bits wide"
            }
            Rule::PointerOffset { .. } => "bound the number before adding it",
            Rule::PointerCompare { .. } => {
                "packet pointers compare with data_end, pointers that may be null with 0"
            }
            Rule::ContextField { .. } => {
                "in process there are: len, data, data_end, cb, and fields that are always 0"
            }
            Rule::ContextOffset => "use the context pointer unchanged",
            Rule::ContextMixed => "access the field before the paths join",
            Rule::AtomicTarget { .. } => "atomics work on the stack, map values and records",
            Rule::AtomicAlignment { .. } => "align the variable to 4 or 8 bytes",
            Rule::UnknownHelper { .. } | Rule::UnsupportedHelper { .. } => {
                "see the list of helpers in kcm_core::bpf::helpers"
            }
            Rule::HelperArgument { .. } | Rule::HelperMap { .. } => "see the helper's prototype",
            Rule::SizeUnbounded { .. } => "bound the size by a comparison or a mask first",
            Rule::SizeZero { .. } => "compare the size with 0 first",
            Rule::NotConstant { .. } => "pass a constant",
            Rule::StringEnd { .. } => "pass a string literal",
            Rule::RecordHeld { .. } | Rule::LegacyHeld { .. } => {
                "call bpf_ringbuf_submit or bpf_ringbuf_discard on every path"
            }
            Rule::RecordOffset { .. } => "pass the pointer that bpf_ringbuf_reserve returned",
            Rule::CallbackResult => "return 0 to go on, 1 to stop",
            Rule::ReturnValue { .. } => "return the message length, 0, or a negative errno",
            Rule::ReturnStack => "let the caller pass the buffer",
            Rule::LegacyInFunction => "use bpf_skb_load_bytes, or inline the function",
            Rule::LegacyContext { .. } => "keep the context in r6",
            Rule::InfiniteLoop => "bound the loop by a counter",
        }
    }
}

impl VerifyError {
    pub(super) fn new(program: &Program, insn: usize, rule: Rule) -> VerifyError {
        VerifyError {
            program: program.name.clone(),
            rule,
            insn,
            text: crate::bpf::disasm::disassemble(&program.insns, insn),
            line: program.line_of(insn).cloned(),
            registers: Vec::new(),
        }
    }
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.rule)?;
        match &self.line {
            Some(l) if l.column > 0 => writeln!(f, "  --> {}:{}:{}", l.file, l.line, l.column)?,
            Some(l) => writeln!(f, "  --> {}:{}", l.file, l.line)?,
            None => writeln!(f, "  --> program `{}`, instruction {}", self.program, self.insn)?,
        }
        writeln!(f, "   |")?;
        if let Some(l) = &self.line
            && !l.text.is_empty()
        {
            writeln!(f, "{:<3}| {}", l.line, l.text.trim_end())?;
        }
        writeln!(f, "   = {}: {}", self.insn, self.text)?;
        for (r, what) in &self.registers {
            writeln!(f, "   = r{r}: {what}")?;
        }
        write!(f, "   = help: {}", self.rule.help())
    }
}

impl std::error::Error for VerifyError {}
