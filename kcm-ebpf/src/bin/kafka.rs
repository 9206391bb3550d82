//! BPF program `kafka`: see `kcm_ebpf::parsers::kafka`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

kcm_ebpf::parser!(kafka, kcm_ebpf::parsers::kafka::parse);
