typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64; typedef int s32;
struct __sk_buff { u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority, ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end; };
static long (*load_bytes)(const void *skb, u32 off, void *to, u32 len) = (void *)26;
#define SEC(n) __attribute__((section(n), used))
#define inline_ static inline __attribute__((always_inline))
