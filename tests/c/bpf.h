// What the test programs need of the kernel's interface, and no more: sizes and numbers are
// the kernel's (uapi/linux/bpf.h), the words are ours.
#ifndef KCM_TEST_BPF_H
#define KCM_TEST_BPF_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;
typedef long long s64;

#define SEC(name) __attribute__((section(name), used))
#define NOINLINE __attribute__((noinline))

// struct __sk_buff, as far as the programs here look into it.
struct __sk_buff {
	u32 len;
	u32 pkt_type;
	u32 mark;
	u32 queue_mapping;
	u32 protocol;
	u32 vlan_present;
	u32 vlan_tci;
	u32 vlan_proto;
	u32 priority;
	u32 ingress_ifindex;
	u32 ifindex;
	u32 tc_index;
	u32 cb[5];
	u32 hash;
	u32 tc_classid;
	u32 data;
	u32 data_end;
};

// Map types.
enum { HASH = 1, ARRAY = 2, PERCPU_ARRAY = 6, RINGBUF = 27 };

// A map definition in BTF: the numbers are array lengths behind pointers.
#define NUMBER(name, n) int(*name)[n]
#define TYPE(name, t) t *name

// Helpers, by their numbers.
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
					 u64 flags) = (void *)2;
static long (*const bpf_skb_load_bytes)(const void *skb, u32 at, void *to, u32 len) = (void *)26;
static long (*const bpf_ringbuf_output)(void *map, const void *from, u64 len,
					u64 flags) = (void *)130;
static long (*const bpf_loop)(u32 times, void *callback, void *context, u64 flags) = (void *)181;

#define NEED_MORE 0

#endif
