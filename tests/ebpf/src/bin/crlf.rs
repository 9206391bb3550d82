//! The byte-wise line scan, its bytes fetched with `bpf_skb_load_bytes`, one at a time.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

use kcm_ebpf::{Message, Parsed, errno, refuse};

#[path = "../crlf.rs"]
mod crlf;

kcm_ebpf::parser!(crlf, crlf::parse);
