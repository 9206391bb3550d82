//! BPF program `thrift`: see `kcm_ebpf::parsers::thrift`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

kcm_ebpf::parser!(thrift, kcm_ebpf::parsers::thrift::parse);
