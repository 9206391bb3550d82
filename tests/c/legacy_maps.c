// Maps as they were before BTF: structures in section `maps`, of the size of iproute2's,
// libbpf's and aya's, which agree in the first five words.
#include "bpf.h"

struct five {
	u32 type, key_size, value_size, max_entries, flags;
};

struct seven {
	u32 type, key_size, value_size, max_entries, flags, id, pinning;
};

struct seven totals SEC("maps") = { ARRAY, 4, 8, 2, 0, 0, 0 };
struct seven lengths SEC("maps") = { HASH, 4, 4, 8, 0, 0, 0 };

SEC("sk_skb/stream_parser")
int totalled(struct __sk_buff *skb)
{
	u32 one = 1, length = skb->len;
	u64 *total = bpf_map_lookup_elem(&totals, &one);
	if (total)
		*total += length;
	bpf_map_update_elem(&lengths, &one, &length, 0);
	return length;
}

char _license[] SEC("license") = "GPL";
