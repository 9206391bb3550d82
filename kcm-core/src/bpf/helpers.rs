//! Helpers: their numbers and names as the kernel has them, and the prototypes of those that
//! a parser may call in process.

/// What an argument must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// The program's context, unchanged.
    Ctx,
    /// A map of a kind that the helper works on.
    Map(MapUse),
    /// Readable memory of the map's key size.
    Key,
    /// Readable memory of the map's value size.
    Value,
    /// Readable, initialised memory; its size is the next argument.
    Read,
    /// Writable memory; its size is the next argument. The helper writes all of it, whether
    /// it succeeds or not.
    Write,
    /// Readable memory or a null pointer; its size is the next argument.
    ReadOrNull,
    /// Bytes of the memory in the argument before; at least 1.
    Size,
    /// Bytes of the memory in the argument before; may be 0.
    SizeOrZero,
    /// Any number.
    Number,
    /// A number that is 0.
    Zero,
    /// Bytes to reserve in a ring buffer: a constant.
    Reserve,
    /// A reserved record, from its start; given back by the call.
    Record,
    /// A function of the program.
    Callback,
    /// What a callback gets as its second argument: a pointer to the stack or a map value,
    /// or a number.
    CallbackCtx,
    /// A string that ends with a zero byte, in read-only map data at a known offset.
    Str,
}

/// Kinds of map by what they can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapUse {
    /// Key and value: array and hash kinds, per-CPU and LRU ones included.
    Table,
    /// BPF_MAP_TYPE_RINGBUF.
    Ring,
    /// BPF_MAP_TYPE_PERF_EVENT_ARRAY.
    Perf,
}

impl MapUse {
    /// Whether a map of this kind (BPF_MAP_TYPE_*) can be used so.
    pub const fn fits(self, kind: u32) -> bool {
        match self {
            MapUse::Table => matches!(kind, 1 | 2 | 5 | 6 | 9 | 10),
            MapUse::Ring => kind == 27,
            MapUse::Perf => kind == 4,
        }
    }

    /// In words.
    pub const fn describe(self) -> &'static str {
        match self {
            MapUse::Table => "an array or hash map",
            MapUse::Ring => "a ring buffer",
            MapUse::Perf => "a perf event array",
        }
    }
}

/// What a helper leaves in r0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    /// A number within these bounds, signed.
    Number(i64, i64),
    /// Any 64-bit number.
    Any,
    /// A value of the map in r1, or null.
    MapValueOrNull,
    /// A record of as many bytes as asked for, or null.
    RecordOrNull,
    /// Nothing: r0 cannot be read.
    Void,
}

/// A helper's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proto {
    /// The kernel's number.
    pub id: u32,
    /// Arguments r1 and on.
    pub args: &'static [Arg],
    /// Result.
    pub ret: Ret,
    /// May change the packet: data pointers are void afterwards.
    pub moves_packet: bool,
}

const fn proto(id: u32, args: &'static [Arg], ret: Ret) -> Proto {
    Proto { id, args, ret, moves_packet: false }
}

/// Results of helpers that return 0 or a negative errno.
const ERRNO: Ret = Ret::Number(-4095, 0);

/// The helpers that parsers may call, by ascending number.
pub static PROTOS: &[Proto] = &[
    proto(1, &[Arg::Map(MapUse::Table), Arg::Key], Ret::MapValueOrNull),
    proto(2, &[Arg::Map(MapUse::Table), Arg::Key, Arg::Value, Arg::Number], ERRNO),
    proto(3, &[Arg::Map(MapUse::Table), Arg::Key], ERRNO),
    proto(5, &[], Ret::Any),
    proto(
        6,
        &[Arg::Read, Arg::Size, Arg::Number, Arg::Number, Arg::Number],
        Ret::Number(-4095, i32::MAX as i64),
    ),
    proto(7, &[], Ret::Number(0, u32::MAX as i64)),
    proto(8, &[], Ret::Number(0, u32::MAX as i64)),
    proto(25, &[Arg::Ctx, Arg::Map(MapUse::Perf), Arg::Number, Arg::Read, Arg::SizeOrZero], ERRNO),
    proto(26, &[Arg::Ctx, Arg::Number, Arg::Write, Arg::Size], ERRNO),
    Proto { id: 39, args: &[Arg::Ctx, Arg::Number], ret: ERRNO, moves_packet: true },
    proto(46, &[Arg::Ctx], Ret::Any),
    proto(68, &[Arg::Ctx, Arg::Number, Arg::Write, Arg::Size, Arg::Number], ERRNO),
    proto(125, &[], Ret::Any),
    proto(130, &[Arg::Map(MapUse::Ring), Arg::Read, Arg::SizeOrZero, Arg::Number], ERRNO),
    proto(131, &[Arg::Map(MapUse::Ring), Arg::Reserve, Arg::Number], Ret::RecordOrNull),
    proto(132, &[Arg::Record, Arg::Number], Ret::Void),
    proto(133, &[Arg::Record, Arg::Number], Ret::Void),
    proto(160, &[], Ret::Any),
    proto(
        181,
        &[Arg::Number, Arg::Callback, Arg::CallbackCtx, Arg::Zero],
        Ret::Number(-4095, MAX_LOOPS as i64),
    ),
    proto(182, &[Arg::Read, Arg::Size, Arg::Str], Ret::Number(i32::MIN as i64, i32::MAX as i64)),
];

/// `bpf_loop` refuses more rounds than this with `-E2BIG`, as the kernel does.
pub const MAX_LOOPS: u32 = 1 << 23;

/// The helper's contract, if parsers may call it.
pub fn proto_of(id: u32) -> Option<&'static Proto> {
    PROTOS.binary_search_by_key(&id, |p| p.id).ok().map(|i| &PROTOS[i])
}

/// The kernel's name of a helper (without `bpf_`).
pub fn name(id: u32) -> Option<&'static str> {
    NAMES.get(id as usize).copied().filter(|n| *n != "unspec")
}

/// By number, as in the kernel's `__BPF_FUNC_MAPPER`.
static NAMES: &[&str] = &[
    "unspec",
    "map_lookup_elem",
    "map_update_elem",
    "map_delete_elem",
    "probe_read",
    "ktime_get_ns",
    "trace_printk",
    "get_prandom_u32",
    "get_smp_processor_id",
    "skb_store_bytes",
    "l3_csum_replace",
    "l4_csum_replace",
    "tail_call",
    "clone_redirect",
    "get_current_pid_tgid",
    "get_current_uid_gid",
    "get_current_comm",
    "get_cgroup_classid",
    "skb_vlan_push",
    "skb_vlan_pop",
    "skb_get_tunnel_key",
    "skb_set_tunnel_key",
    "perf_event_read",
    "redirect",
    "get_route_realm",
    "perf_event_output",
    "skb_load_bytes",
    "get_stackid",
    "csum_diff",
    "skb_get_tunnel_opt",
    "skb_set_tunnel_opt",
    "skb_change_proto",
    "skb_change_type",
    "skb_under_cgroup",
    "get_hash_recalc",
    "get_current_task",
    "probe_write_user",
    "current_task_under_cgroup",
    "skb_change_tail",
    "skb_pull_data",
    "csum_update",
    "set_hash_invalid",
    "get_numa_node_id",
    "skb_change_head",
    "xdp_adjust_head",
    "probe_read_str",
    "get_socket_cookie",
    "get_socket_uid",
    "set_hash",
    "setsockopt",
    "skb_adjust_room",
    "redirect_map",
    "sk_redirect_map",
    "sock_map_update",
    "xdp_adjust_meta",
    "perf_event_read_value",
    "perf_prog_read_value",
    "getsockopt",
    "override_return",
    "sock_ops_cb_flags_set",
    "msg_redirect_map",
    "msg_apply_bytes",
    "msg_cork_bytes",
    "msg_pull_data",
    "bind",
    "xdp_adjust_tail",
    "skb_get_xfrm_state",
    "get_stack",
    "skb_load_bytes_relative",
    "fib_lookup",
    "sock_hash_update",
    "msg_redirect_hash",
    "sk_redirect_hash",
    "lwt_push_encap",
    "lwt_seg6_store_bytes",
    "lwt_seg6_adjust_srh",
    "lwt_seg6_action",
    "rc_repeat",
    "rc_keydown",
    "skb_cgroup_id",
    "get_current_cgroup_id",
    "get_local_storage",
    "sk_select_reuseport",
    "skb_ancestor_cgroup_id",
    "sk_lookup_tcp",
    "sk_lookup_udp",
    "sk_release",
    "map_push_elem",
    "map_pop_elem",
    "map_peek_elem",
    "msg_push_data",
    "msg_pop_data",
    "rc_pointer_rel",
    "spin_lock",
    "spin_unlock",
    "sk_fullsock",
    "tcp_sock",
    "skb_ecn_set_ce",
    "get_listener_sock",
    "skc_lookup_tcp",
    "tcp_check_syncookie",
    "sysctl_get_name",
    "sysctl_get_current_value",
    "sysctl_get_new_value",
    "sysctl_set_new_value",
    "strtol",
    "strtoul",
    "sk_storage_get",
    "sk_storage_delete",
    "send_signal",
    "tcp_gen_syncookie",
    "skb_output",
    "probe_read_user",
    "probe_read_kernel",
    "probe_read_user_str",
    "probe_read_kernel_str",
    "tcp_send_ack",
    "send_signal_thread",
    "jiffies64",
    "read_branch_records",
    "get_ns_current_pid_tgid",
    "xdp_output",
    "get_netns_cookie",
    "get_current_ancestor_cgroup_id",
    "sk_assign",
    "ktime_get_boot_ns",
    "seq_printf",
    "seq_write",
    "sk_cgroup_id",
    "sk_ancestor_cgroup_id",
    "ringbuf_output",
    "ringbuf_reserve",
    "ringbuf_submit",
    "ringbuf_discard",
    "ringbuf_query",
    "csum_level",
    "skc_to_tcp6_sock",
    "skc_to_tcp_sock",
    "skc_to_tcp_timewait_sock",
    "skc_to_tcp_request_sock",
    "skc_to_udp6_sock",
    "get_task_stack",
    "load_hdr_opt",
    "store_hdr_opt",
    "reserve_hdr_opt",
    "inode_storage_get",
    "inode_storage_delete",
    "d_path",
    "copy_from_user",
    "snprintf_btf",
    "seq_printf_btf",
    "skb_cgroup_classid",
    "redirect_neigh",
    "per_cpu_ptr",
    "this_cpu_ptr",
    "redirect_peer",
    "task_storage_get",
    "task_storage_delete",
    "get_current_task_btf",
    "bprm_opts_set",
    "ktime_get_coarse_ns",
    "ima_inode_hash",
    "sock_from_file",
    "check_mtu",
    "for_each_map_elem",
    "snprintf",
    "sys_bpf",
    "btf_find_by_name_kind",
    "sys_close",
    "timer_init",
    "timer_set_callback",
    "timer_start",
    "timer_cancel",
    "get_func_ip",
    "get_attach_cookie",
    "task_pt_regs",
    "get_branch_snapshot",
    "trace_vprintk",
    "skc_to_unix_sock",
    "kallsyms_lookup_name",
    "find_vma",
    "loop",
    "strncmp",
    "get_func_arg",
    "get_func_ret",
    "get_func_arg_cnt",
    "get_retval",
    "set_retval",
    "xdp_get_buff_len",
    "xdp_load_bytes",
    "xdp_store_bytes",
    "copy_from_user_task",
    "skb_set_tstamp",
    "ima_file_hash",
    "kptr_xchg",
    "map_lookup_percpu_elem",
    "skc_to_mptcp_sock",
    "dynptr_from_mem",
    "ringbuf_reserve_dynptr",
    "ringbuf_submit_dynptr",
    "ringbuf_discard_dynptr",
    "dynptr_read",
    "dynptr_write",
    "dynptr_data",
    "tcp_raw_gen_syncookie_ipv4",
    "tcp_raw_gen_syncookie_ipv6",
    "tcp_raw_check_syncookie_ipv4",
    "tcp_raw_check_syncookie_ipv6",
    "ktime_get_tai_ns",
    "user_ringbuf_drain",
    "cgrp_storage_get",
    "cgrp_storage_delete",
];
