//! BPF program `memcached`: see `kcm_ebpf::parsers::memcached`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

kcm_ebpf::parser!(memcached, kcm_ebpf::parsers::memcached::parse);
