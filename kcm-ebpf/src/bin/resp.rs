//! BPF program `resp`: see `kcm_ebpf::parsers::resp`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

kcm_ebpf::parser!(resp, kcm_ebpf::parsers::resp::parse);
