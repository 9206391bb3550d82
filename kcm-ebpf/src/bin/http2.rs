//! BPF program `http2`: see `kcm_ebpf::parsers::http2`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

kcm_ebpf::parser!(http2, kcm_ebpf::parsers::http2::parse);
