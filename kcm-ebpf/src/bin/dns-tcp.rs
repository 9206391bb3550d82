//! BPF program `dns_tcp`: see `kcm_ebpf::parsers::dns_tcp`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

kcm_ebpf::parser!(dns_tcp, kcm_ebpf::parsers::dns_tcp::parse);
