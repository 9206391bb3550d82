//! BPF program `postgres`: see `kcm_ebpf::parsers::postgres`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

kcm_ebpf::parser!(postgres, kcm_ebpf::parsers::postgres::parse);
