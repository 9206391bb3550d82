//! What verification learned, in the form executors need. All tables are indexed by
//! instruction slot of [`Program::insns`](crate::bpf::program::Program::insns).

/// Where a memory instruction's pointer points, on every path that reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Region {
    /// A field of the context: never real memory, the executor answers by [`offset`](Self::Ctx).
    Ctx {
        /// Byte offset of the access in `struct __sk_buff`.
        offset: u16,
    },
    /// The message bytes, read-only.
    Packet,
    /// The stack of this frame or a caller's.
    Stack {
        /// Offset from this frame's top (negative) when it is the same on every path and the
        /// memory is this frame's.
        offset: Option<i16>,
    },
    /// A value of the map with this index.
    MapValue {
        /// Index into the program's maps.
        map: u32,
    },
    /// A reserved ring-buffer record.
    Record,
    /// Different regions on different paths (the context is never among them).
    Mixed,
}

/// Which ways a conditional jump goes on explored paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Taken {
    /// Some path jumps.
    pub jump: bool,
    /// Some path falls through.
    pub fall: bool,
}

/// What is known of a helper call on every path that reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFact {
    /// The helper's number.
    pub helper: u32,
    /// Arguments r1–r5 that are the same constant on every path.
    pub consts: [Option<u64>; 5],
    /// The map in r1 (or wherever the prototype has it), when it is the same on every path.
    pub map: Option<u32>,
    /// The callback's first slot (`bpf_loop`), when the helper takes one.
    pub callback: Option<usize>,
    /// For pointer arguments that are in this frame's stack at a fixed offset: that offset.
    pub stack: [Option<i16>; 5],
}

/// How termination was established.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fuel {
    /// Every path was explored to its exit: no counter is needed.
    NotNeeded,
    /// Exploration widened loops. The executor counts down on these jumps (slots of jump or
    /// callback-loop instructions that close a loop) and ends the program with `-ELOOP` when
    /// the budget, [`Facts::budget`], is used up.
    Metered {
        /// Slots of the jumps that close a loop, ascending.
        back_edges: Vec<usize>,
    },
}

/// Back edges a metered program may take in one call before it is ended with `-ELOOP`, unless
/// [`Options::with_fuel`](super::Options::with_fuel) says otherwise.
pub const FUEL: u64 = 1 << 22;

/// What verification learned.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Slots that some path reaches. The others are dead and need not be translated.
    pub reached: Vec<bool>,
    /// For loads, stores, atomics: where they go. `None` for everything else and for dead code.
    pub region: Vec<Option<Region>>,
    /// For conditional jumps: which ways are possible.
    pub taken: Vec<Taken>,
    /// For helper calls.
    pub calls: Vec<Option<CallFact>>,
    /// Bytes of stack each function of the program uses (multiple of 8), in the order of
    /// [`Program::funcs`](crate::bpf::program::Program::funcs).
    pub frames: Vec<u16>,
    /// The deepest chain of frames, in bytes: at most 512.
    pub stack_depth: u16,
    /// Whether termination is metered.
    pub fuel: Fuel,
    /// Back edges that one call may take, where termination is metered.
    pub budget: u64,
    /// Instructions explored.
    pub explored: u64,
    /// The most states held at once.
    pub peak_states: u64,
}
