//! The context: which fields of `struct __sk_buff` a parser may use in process.
//!
//! A parser sees the bytes of one message so far, not a packet that went through the stack.
//! So there are:
//!
//! | field | offset | |
//! |---|---|---|
//! | `len` | 0 | bytes of the message so far |
//! | `data`, `data_end` | 76, 80 | stream parsers; a socket filter has no direct access, as in the kernel |
//! | `cb[0..5]` | 48–68 | scratch, zero at the start of each call; socket filters may write it |
//! | `pkt_type`, `queue_mapping`, `vlan_present`, `vlan_tci`, `vlan_proto`, `priority`, `ingress_ifindex`, `ifindex`, `tc_index`, `hash`, `napi_id` | | 0: nothing of the kind exists |
//! | `mark` | 8 | socket filters: 0; stream parsers may not read it, as in the kernel |
//!
//! All else is refused with its name: an answer would have to be invented (addresses, ports,
//! family and protocol belong to the connection, which the parser does not see).

use super::{
    error::Rule,
    scalar::Scalar,
    state::{Kind, Reg},
};
use crate::bpf::program::ProgramKind;

/// What a field is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Len,
    Data,
    DataEnd,
    Scratch,
    Mark,
    Zero,
    Refused,
}

/// (first byte, one past the last, name, what it is), by ascending offset.
static FIELDS: &[(i64, i64, &str, Field)] = &[
    (0, 4, "len", Field::Len),
    (4, 8, "pkt_type", Field::Zero),
    (8, 12, "mark", Field::Mark),
    (12, 16, "queue_mapping", Field::Zero),
    (16, 20, "protocol", Field::Refused),
    (20, 24, "vlan_present", Field::Zero),
    (24, 28, "vlan_tci", Field::Zero),
    (28, 32, "vlan_proto", Field::Zero),
    (32, 36, "priority", Field::Zero),
    (36, 40, "ingress_ifindex", Field::Zero),
    (40, 44, "ifindex", Field::Zero),
    (44, 48, "tc_index", Field::Zero),
    (48, 68, "cb", Field::Scratch),
    (68, 72, "hash", Field::Zero),
    (72, 76, "tc_classid", Field::Refused),
    (76, 80, "data", Field::Data),
    (80, 84, "data_end", Field::DataEnd),
    (84, 88, "napi_id", Field::Zero),
    (88, 92, "family", Field::Refused),
    (92, 96, "remote_ip4", Field::Refused),
    (96, 100, "local_ip4", Field::Refused),
    (100, 116, "remote_ip6", Field::Refused),
    (116, 132, "local_ip6", Field::Refused),
    (132, 136, "remote_port", Field::Refused),
    (136, 140, "local_port", Field::Refused),
    (140, 144, "data_meta", Field::Refused),
    (144, 152, "flow_keys", Field::Refused),
    (152, 160, "tstamp", Field::Refused),
    (160, 164, "wire_len", Field::Refused),
    (164, 168, "gso_segs", Field::Refused),
    (168, 176, "sk", Field::Refused),
    (176, 180, "gso_size", Field::Refused),
    (180, 181, "tstamp_type", Field::Refused),
    (184, 192, "hwtstamp", Field::Refused),
];

fn refuse(offset: i64, name: &'static str, why: &'static str) -> Rule {
    Rule::ContextField { offset, name, why }
}

fn find(offset: i64, size: u8) -> Result<(&'static str, Field), Rule> {
    let end = offset + i64::from(size);
    let Some(&(_, last, name, field)) =
        FIELDS.iter().find(|(first, last, ..)| (*first..*last).contains(&offset))
    else {
        return Err(refuse(offset, "?", "there is no such field"));
    };
    if end > last {
        return Err(refuse(offset, name, "the access goes beyond the field"));
    }
    if offset % i64::from(size) != 0 {
        return Err(refuse(offset, name, "the access is not aligned to its size"));
    }
    Ok((name, field))
}

/// What a load of `size` bytes at `offset` gives.
pub(super) fn read(kind: ProgramKind, offset: i64, size: u8) -> Result<Reg, Rule> {
    let (name, field) = find(offset, size)?;
    let whole = |reg: Reg| {
        if size == 4 { Ok(reg) } else { Err(refuse(offset, name, "only 4-byte loads of it exist")) }
    };
    match field {
        Field::Len => Ok(Reg::scalar(Scalar::of_size(u32::from(size)))),
        Field::Scratch => Ok(Reg::scalar(Scalar::of_size(u32::from(size)))),
        Field::Zero => Ok(Reg::constant(0)),
        Field::Mark if kind == ProgramKind::SocketFilter => Ok(Reg::constant(0)),
        Field::Mark => Err(refuse(offset, name, "stream parsers may not read it")),
        Field::Data | Field::DataEnd if kind == ProgramKind::SocketFilter => Err(refuse(
            offset,
            name,
            "socket filters have no direct packet access; use bpf_skb_load_bytes",
        )),
        Field::Data => whole(Reg::pointer(Kind::Packet, 0)),
        Field::DataEnd => whole(Reg::pointer(Kind::PacketEnd, 0)),
        Field::Refused => Err(refuse(
            offset,
            name,
            "it belongs to the connection or the kernel and cannot be answered in process",
        )),
    }
}

/// Whether `size` bytes at `offset` may be written.
pub(super) fn check_write(kind: ProgramKind, offset: i64, size: u8) -> Result<(), Rule> {
    let (name, field) = find(offset, size)?;
    if field == Field::Scratch && kind == ProgramKind::SocketFilter {
        return Ok(());
    }
    Err(refuse(offset, name, "it is read-only"))
}
