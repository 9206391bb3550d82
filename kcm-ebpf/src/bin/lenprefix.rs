//! BPF programs `lenprefix_*`: see `kcm_ebpf::parsers::lenprefix`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

use kcm_ebpf::parsers::lenprefix;

kcm_ebpf::parser! {
    lenprefix_be16 = lenprefix::be16,
    lenprefix_be32 = lenprefix::be32,
    lenprefix_le16 = lenprefix::le16,
    lenprefix_le32 = lenprefix::le32,
    lenprefix_varint = lenprefix::varint,
}
