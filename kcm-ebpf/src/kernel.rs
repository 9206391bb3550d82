//! The programs for a kernel: a parser that finds the message in the segment it is shown, and
//! the verdict that copies each whole message into the ring.
//!
//! A kernel's stream parser is shown the socket buffer, in which the message starts anywhere
//! (semantics B8); where, strparser's own notes in the buffer say. The verdict drops every
//! message, after it was copied: passing them on to the socket hangs, loses data and brings
//! kernels down under load.
#![allow(unsafe_code)] // contexts, maps and helpers: there is no safe form of them

use aya_ebpf::{
    Global,
    bindings::__sk_buff,
    helpers::generated::{
        bpf_get_socket_cookie, bpf_probe_read_kernel, bpf_ringbuf_discard, bpf_ringbuf_query,
        bpf_ringbuf_reserve, bpf_ringbuf_submit, bpf_skb_load_bytes,
    },
    macros::map,
    maps::{Array, HashMap, RingBuf},
};
use kcm_common::{
    errno,
    kernel::{MAX_ROOM, MIN_ROOM, RECORD_HEAD, RING_HEAD, RecordHead, Slot, stopped},
};

use crate::{Message, Parsed, raw_verdict};

/// BPF_F_MMAPABLE.
const MMAPABLE: u32 = 1 << 10;
/// BPF_RB_NO_WAKEUP.
const NO_WAKEUP: u64 = 1;
/// BPF_RB_FORCE_WAKEUP.
const FORCE_WAKEUP: u64 = 2;
/// BPF_RB_AVAIL_DATA.
const AVAIL_DATA: u64 = 0;
/// After so many messages of a segment the reader is woken, though more of them follow: it
/// shall not wait for the thousands that a segment may hold.
const QUIET_MOST: u32 = 128;
/// SK_DROP.
const DROP: i32 = 0;

/// Sizes are the loader's choice; these are placeholders.
#[map(name = "KCM_MESSAGES")]
static MESSAGES: RingBuf = RingBuf::with_byte_size(1 << 23, 0);

#[map(name = "KCM_SOCKETS")]
static SOCKETS: HashMap<u64, u32> = HashMap::with_max_entries(4096, 0);

#[map(name = "KCM_SLOTS")]
static SLOTS: Array<Slot> = Array::with_max_entries(4096, MMAPABLE);

/// Where strparser keeps its notes in a socket buffer; set by the loader from the running
/// kernel's type information.
#[unsafe(no_mangle)]
static KCM_STRP_MSG: Global<u32> = Global::new(0);

/// strparser's notes on the message at hand.
#[repr(C)]
#[derive(Default)]
struct StrpMsg {
    full_len: i32,
    offset: i32,
}

/// Reads strparser's notes.
///
/// # Safety
/// `skb` is the context of the running program.
#[inline(always)]
unsafe fn strp_msg(skb: *mut __sk_buff) -> Option<StrpMsg> {
    let mut notes = StrpMsg::default();
    let from = skb.cast::<u8>().wrapping_add(KCM_STRP_MSG.load() as usize);
    // SAFETY: the helper checks the address itself; `notes` has room for its own size.
    let failed = unsafe {
        bpf_probe_read_kernel((&raw mut notes).cast(), size_of::<StrpMsg>() as u32, from.cast())
    };
    (failed == 0).then_some(notes)
}

/// The connection's slot.
///
/// # Safety
/// `skb` is the context of the running program.
#[inline(always)]
unsafe fn slot(skb: *mut __sk_buff) -> Option<*mut Slot> {
    // SAFETY: the context is the running program's.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    // SAFETY: values are plain numbers; those of other keys are never taken for them, for the
    // loader changes a key only while its socket cannot run these programs.
    let index = unsafe { SOCKETS.get(cookie) }?;
    SLOTS.get_ptr_mut(*index)
}

/// Runs a parse function on the message that starts in this segment.
///
/// # Safety
/// `skb` is the context of the running program.
#[inline(always)]
pub unsafe fn parse(skb: *mut __sk_buff, parse: impl Fn(&Message<'_>) -> Parsed) -> i32 {
    // SAFETY: the caller's promise.
    let Some(notes) = (unsafe { strp_msg(skb) }) else { return -errno::EFAULT };
    // SAFETY: as above; the message is gone when this returns.
    let message = unsafe { Message::from_segment(skb, notes.offset as u32) };
    let raw = raw_verdict(parse(&message));
    let here = message.len();
    if raw > 0 && raw as u64 <= here {
        return raw;
    }
    // SAFETY: as above.
    unsafe { incomplete(skb, raw, here) }
}

/// Notes what is known of a message that is not whole, and keeps its limits.
///
/// # Safety
/// `skb` is the context of the running program.
#[inline(always)]
unsafe fn incomplete(skb: *mut __sk_buff, raw: i32, here: u64) -> i32 {
    // SAFETY: the caller's promise.
    let Some(slot) = (unsafe { slot(skb) }) else {
        wake();
        return raw;
    };
    // SAFETY: the map's value, which lives as long as the program; nobody else writes these
    // fields now.
    let slot = unsafe { &mut *slot };
    if slot.quiet != 0 {
        slot.quiet = 0;
        wake();
    }
    if raw < 0 {
        slot.seen = here as u32;
        slot.code = -raw;
        return raw;
    }
    if raw == 0 {
        slot.need_more += 1;
        slot.seen = here as u32;
        slot.need = 0;
        if here >= u64::from(slot.max_header) {
            slot.stopped |= stopped::HEADER;
            return -errno::EMSGSIZE;
        }
        return 0;
    }
    slot.need = raw as u32;
    if raw as u32 > slot.max_message {
        slot.stopped |= stopped::TOO_LONG;
        return -errno::EMSGSIZE;
    }
    raw
}

/// Copies the whole message at hand into the ring, and has it dropped.
///
/// # Safety
/// `skb` is the context of the running program.
#[inline(always)]
pub unsafe fn verdict(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the caller's promise.
    let Some(notes) = (unsafe { strp_msg(skb) }) else { return DROP };
    // SAFETY: the caller's promise.
    let Some(slot) = (unsafe { slot(skb) }) else {
        // It has left, perhaps in the middle of a segment.
        wake();
        return DROP;
    };
    // SAFETY: as in `incomplete`.
    let slot = unsafe { &mut *slot };
    let len = notes.full_len as u32;
    if slot.stopped != 0 {
        slot.dropped += 1;
        return DROP;
    }
    if len > slot.max_message || len > MAX_ROOM {
        slot.need = len;
        stop(slot, stopped::TOO_LONG);
        return DROP;
    }
    // A record's size has to be a number that the kernel's verifier knows: a power of two,
    // found by a loop of which it follows every round. (One reservation of known size and one
    // copy cost less than a reservation of any size, which is copied in pieces.)
    // Read anew, or the compiler, which knows that the length is no more than the largest room,
    // leaves that comparison out, and 6.1's verifier sees no end of the rounds.
    // SAFETY: a local.
    let len = unsafe { (&raw const len).read_volatile() };
    let mut room = MIN_ROOM;
    while room < len && room < MAX_ROOM {
        room *= 2;
    }
    // A length that is not 0, in words that every kernel's verifier follows: 6.12's learns nothing
    // from a comparison with 0. Read anew, or the compiler, which does, takes the words away.
    // SAFETY: a local.
    let len = unsafe { (&raw const len).read_volatile() };
    let len = (len.wrapping_sub(1) & (MAX_ROOM - 1)) + 1;
    if len > room {
        return DROP;
    }
    let charge = u64::from(RING_HEAD + RECORD_HEAD + room);
    // SAFETY: a plain number in mapped memory, which the process only ever makes larger.
    let credit = unsafe { (&raw const slot.credit).read_volatile() };
    if slot.used + charge > credit {
        stop(slot, stopped::CREDIT);
        return DROP;
    }
    let size = u64::from(RECORD_HEAD + room);
    // SAFETY: the map is a ring buffer.
    let record = unsafe { bpf_ringbuf_reserve((&raw const MESSAGES).cast_mut().cast(), size, 0) };
    if record.is_null() {
        stop(slot, stopped::FULL);
        return DROP;
    }
    // SAFETY: the record has `RECORD_HEAD + room` bytes, aligned to 8, and `len <= room`.
    unsafe {
        let head = record.cast::<RecordHead>();
        head.write(RecordHead { token: slot.token, seq: slot.msgs, len, reserved: 0 });
        let body = record.cast::<u8>().add(RECORD_HEAD as usize);
        if bpf_skb_load_bytes(skb.cast(), notes.offset as u32, body.cast(), len) != 0 {
            bpf_ringbuf_discard(record, 0);
            stop(slot, stopped::COPY);
            return DROP;
        }
        slot.used += charge;
        slot.msgs += 1;
        slot.bytes += u64::from(len);
        slot.need = 0;
        slot.seen = 0;
        let more = (notes.offset as u32).wrapping_add(len) < (*skb).len;
        bpf_ringbuf_submit(record, wakeup(slot, more));
    }
    DROP
}

/// The flag with which a message is submitted; `more`: others follow it in its segment.
///
/// A wake-up costs as much as the message, and an awake reader that is as fast as we are would
/// get one for each. So only the last message of a segment wakes it, or the parser does when it
/// finds that what follows is not whole (`incomplete`): whoever submits quietly has its turn
/// again, for strparser parses what it has or ends the connection, which the reader is told by
/// the socket. In a ring that is half full each message wakes the reader: there may be no room
/// later to wake it with.
#[inline(always)]
fn wakeup(slot: &mut Slot, more: bool) -> u64 {
    // SAFETY: the map is a ring buffer.
    let unread = unsafe { bpf_ringbuf_query((&raw const MESSAGES).cast_mut().cast(), AVAIL_DATA) };
    // SAFETY: a number that the process writes once, before the socket runs this.
    let full = unread > unsafe { (&raw const slot.quiet_below).read_volatile() };
    if more && !full && slot.quiet < QUIET_MOST {
        slot.quiet += 1;
        return NO_WAKEUP;
    }
    if slot.quiet == 0 && !full {
        // Without a flag the reader is woken only if it has seen everything before this one.
        return 0;
    }
    slot.quiet = 0;
    FORCE_WAKEUP
}

/// Wakes the reader for what was submitted quietly. Without room for that the ring is full, and
/// those who filled its second half have woken it.
#[inline(always)]
fn wake() {
    // SAFETY: the map is a ring buffer; a record that is given up is never read.
    unsafe {
        let record = bpf_ringbuf_reserve((&raw const MESSAGES).cast_mut().cast(), 8, 0);
        if !record.is_null() {
            bpf_ringbuf_discard(record, FORCE_WAKEUP);
        }
    }
}

/// No more messages of this connection: marks it, and wakes the reader to see that. If there
/// is no room to say so the ring is full of messages, and the reader awake (see `wakeup`).
#[inline(always)]
fn stop(slot: &mut Slot, why: u32) {
    slot.stopped |= why;
    slot.dropped += 1;
    slot.quiet = 0;
    // SAFETY: the map is a ring buffer, and the record has the head's size.
    unsafe {
        let ring = (&raw const MESSAGES).cast_mut().cast();
        let record = bpf_ringbuf_reserve(ring, u64::from(RECORD_HEAD), 0);
        if !record.is_null() {
            let head = RecordHead { token: slot.token, seq: slot.msgs, len: 0, reserved: 0 };
            record.cast::<RecordHead>().write(head);
            bpf_ringbuf_submit(record, FORCE_WAKEUP);
        }
    }
}
