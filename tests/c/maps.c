// Maps as libbpf knows them (BTF in `.maps`), and the data sections.
#include "bpf.h"

struct seen {
	u64 messages;
	u64 bytes;
};

struct {
	NUMBER(type, HASH);
	NUMBER(max_entries, 16);
	TYPE(key, u32);
	TYPE(value, struct seen);
} by_length SEC(".maps");

struct {
	NUMBER(type, ARRAY);
	NUMBER(max_entries, 4);
	NUMBER(key_size, 4);
	NUMBER(value_size, 8);
} counts SEC(".maps");

struct {
	NUMBER(type, RINGBUF);
	NUMBER(max_entries, 4096);
} ring SEC(".maps");

// A static map is named by its section and an offset, not by a symbol.
static struct {
	NUMBER(type, ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, u64);
	NUMBER(map_flags, 0);
} hidden SEC(".maps");

const volatile u32 header = 4; // .rodata
volatile u32 limit = 1 << 20;  // .data
volatile u64 calls;	       // .bss
volatile u64 last_length;      // .bss, behind it
static const u8 table[8] = { 1, 2, 4, 8, 16, 32, 64, 128 };

SEC("socket")
int counted(struct __sk_buff *skb)
{
	u8 bytes[4];
	calls++;
	if (bpf_skb_load_bytes(skb, 0, bytes, 4))
		return NEED_MORE;
	u32 length = (u32)bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3];
	if (length > limit)
		return -90; // EMSGSIZE
	last_length = length;
	u32 zero = 0, key = length & 15;
	u64 *count = bpf_map_lookup_elem(&counts, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
	u64 *other = bpf_map_lookup_elem(&hidden, &zero);
	if (other)
		*other = table[length & 7];
	struct seen *s = bpf_map_lookup_elem(&by_length, &key);
	if (s) {
		s->messages++;
		s->bytes += length;
	} else {
		struct seen fresh = { 1, length };
		bpf_map_update_elem(&by_length, &key, &fresh, 0);
	}
	bpf_ringbuf_output(&ring, &length, sizeof(length), 0);
	return length + header;
}

// Shares nothing with the other but a map.
SEC("socket")
int uncounted(struct __sk_buff *skb)
{
	u32 zero = 0;
	u64 *count = bpf_map_lookup_elem(&counts, &zero);
	return count && *count > 3 ? 1 : NEED_MORE;
}

char _license[] SEC("license") = "GPL";
