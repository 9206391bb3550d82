//! What the programs in the kernel and the kernel engine agree on: names, the head of a record
//! in the ring, what each knows of a connection.
//!
//! An object carries, beside each parser `NAME` for the process, `NAME` + [`PARSER_SUFFIX`] in
//! section [`PARSER_SECTION`], and once [`VERDICT`]. The digit in the verdict's name is the
//! version of everything in this module: objects of another version are refused by name.

/// What the program for a kernel is called beyond its parser's name.
pub const PARSER_SUFFIX: &str = "_kernel";

/// The section of parsers for a kernel.
pub const PARSER_SECTION: &str = "sk_skb/stream_parser/kernel";

/// The verdict program, one for all parsers of an object. Its number is this module's version.
pub const VERDICT: &str = "kcm_verdict_1";

/// What all versions' verdict programs begin with.
pub const VERDICT_PREFIX: &str = "kcm_verdict_";

/// The variable with the distance, in bytes, from the socket buffer to strparser's
/// `strp_msg { int full_len; int offset; }` in it.
pub const STRP_MSG_GLOBAL: &str = "KCM_STRP_MSG";

/// The ring buffer that messages come through.
pub const RING_MAP: &str = "KCM_MESSAGES";

/// The hash from a socket's cookie (u64) to its index in [`SLOTS_MAP`] (u32).
pub const SOCKETS_MAP: &str = "KCM_SOCKETS";

/// The array of [`Slot`], shared with the process by memory mapping.
pub const SLOTS_MAP: &str = "KCM_SLOTS";

/// The smallest room for a message in a record, in bytes; others are this times a power of two.
pub const MIN_ROOM: u32 = 64;

/// The largest room for a message in a record: the longest message that the ring can carry.
pub const MAX_ROOM: u32 = 1 << 26;

/// Bytes that a ring buffer puts before each record.
pub const RING_HEAD: u32 = 8;

/// The head of a record; the message follows, then room that is not used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RecordHead {
    /// [`Slot::token`].
    pub token: u64,
    /// The connection's messages before this one.
    pub seq: u64,
    /// The message's bytes; 0 in a record that only says: look at the connection's slot.
    pub len: u32,
    /// 0.
    pub reserved: u32,
}

/// Bytes of [`RecordHead`].
pub const RECORD_HEAD: u32 = size_of::<RecordHead>() as u32;

/// Room for a message of `len` bytes; beyond [`MAX_ROOM`] there is none.
#[inline(always)]
pub const fn room(len: u32) -> u32 {
    let mut room = MIN_ROOM;
    while room < len && room < MAX_ROOM {
        room *= 2;
    }
    room
}

/// Bytes of the ring that a message of `len` bytes takes.
pub const fn charge(len: u32) -> u64 {
    RING_HEAD as u64 + RECORD_HEAD as u64 + room(len) as u64
}

/// Why no more messages of a connection come: bits of [`Slot::stopped`].
pub mod stopped {
    /// The connection's credit was used up.
    pub const CREDIT: u32 = 1;
    /// The ring was full.
    pub const FULL: u32 = 2;
    /// A message longer than [`max_message`](super::Slot::max_message);
    /// [`need`](super::Slot::need) says how long.
    pub const TOO_LONG: u32 = 4;
    /// No length within [`max_header`](super::Slot::max_header).
    pub const HEADER: u32 = 8;
    /// The message could not be read from the socket buffer.
    pub const COPY: u32 = 16;
}

/// What is known of one connection. The first group is written by the process, the second by
/// the programs; a kernel runs these for one connection one at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Slot {
    /// Names the connection in records: never the same twice.
    pub token: u64,
    /// [`used`](Self::used) may not grow beyond this.
    pub credit: u64,
    /// The longest message, in bytes.
    pub max_message: u32,
    /// The most bytes the parser may see before it names a length.
    pub max_header: u32,

    /// Bytes of the ring ever taken by the connection's messages.
    pub used: u64,
    /// Messages put into the ring.
    pub msgs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Times the parser asked for more.
    pub need_more: u64,
    /// Messages dropped after [`stopped`](Self::stopped).
    pub dropped: u64,
    /// The length of the message that is not whole yet, once the parser named it; else 0.
    pub need: u32,
    /// Bytes of it that the parser had seen when it last asked for more.
    pub seen: u32,
    /// The positive errno that the parser refused the stream with; else 0.
    pub code: i32,
    /// Why no more messages come: [`stopped`]; else 0. Set once.
    pub stopped: u32,
    /// Messages submitted since the reader was last woken for this connection.
    pub quiet: u32,
    /// 0.
    pub reserved: u32,
    /// The process's again: messages wake the reader, each of them, while the ring holds more
    /// bytes than this.
    pub quiet_below: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_room_and_wastes_less_than_half_of_it() {
        for len in [1, 63, 64, 65, 128, 129, 16384, 16385, MAX_ROOM - 1, MAX_ROOM] {
            assert!(room(len) >= len && (room(len) == MIN_ROOM || room(len) < 2 * len), "{len}");
        }
        assert_eq!(room(MAX_ROOM + 1), MAX_ROOM, "which is too little, as callers must see");
        assert!(VERDICT.starts_with(VERDICT_PREFIX));
    }

    #[test]
    fn the_layout_is_what_both_sides_take_it_for() {
        assert_eq!((size_of::<RecordHead>(), size_of::<Slot>()), (24, 128));
    }
}
