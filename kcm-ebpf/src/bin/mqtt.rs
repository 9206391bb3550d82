//! BPF program `mqtt`: see `kcm_ebpf::parsers::mqtt`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

kcm_ebpf::parser!(mqtt, kcm_ebpf::parsers::mqtt::parse);
