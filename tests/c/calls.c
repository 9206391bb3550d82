// Functions beside the program: static and global ones in `.text`, static ones in the
// program's own section, shared ones, one that is a callback, and a memcpy of our own.
#include "bpf.h"

struct word {
	u8 bytes[4];
};

// Without it the compiler makes the loop a call of memcpy, and the call of memcpy a load.
#define PLAIN __attribute__((no_builtin))

PLAIN NOINLINE void *memcpy(void *to, const void *from, unsigned long n)
{
	u8 *t = to;
	const u8 *f = from;
	for (unsigned long i = 0; i < n && i < 16; i++)
		t[i] = f[i];
	return to;
}

static NOINLINE u32 big_endian(const u8 *b)
{
	return (u32)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
}

PLAIN NOINLINE u32 length_of(struct __sk_buff *skb)
{
	struct word w, copy;
	if (bpf_skb_load_bytes(skb, 0, &w, sizeof(w)))
		return 0;
	memcpy(&copy, &w, sizeof(w));
	return big_endian(copy.bytes);
}

// In the section of the programs: no program itself, because it is static.
static SEC("sk_skb/stream_parser") NOINLINE int plus_header(u32 length)
{
	return length ? length + 4 : NEED_MORE;
}

SEC("sk_skb/stream_parser")
int framed(struct __sk_buff *skb)
{
	return plus_header(length_of(skb));
}

SEC("sk_skb/stream_parser")
int framed_twice(struct __sk_buff *skb)
{
	return plus_header(length_of(skb)) + plus_header(length_of(skb));
}

static NOINLINE long add(u64 index, u64 *sum)
{
	*sum += index;
	return 0;
}

// `add` is reached by its address alone.
SEC("socket")
int looped(struct __sk_buff *skb)
{
	u64 sum = 0;
	bpf_loop(5, add, &sum, 0);
	return sum;
}

char _license[] SEC("license") = "GPL";
