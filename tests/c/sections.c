// Functions at the same offset of several sections, called from one program: each call must
// reach its own.
#include "bpf.h"

static SEC(".text.a") NOINLINE u32 a(u32 n)
{
	return n * 3 + 1;
}

static SEC(".text.b") NOINLINE u32 b(u32 n)
{
	return n * 5 + 2;
}

NOINLINE u32 c(u32 n)
{
	return n * 7 + 3;
}

SEC("socket")
int each(struct __sk_buff *skb)
{
	return a(skb->len) + b(skb->len) + c(skb->len);
}

char _license[] SEC("license") = "GPL";
