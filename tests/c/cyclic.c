// Two functions that call each other: links, and must not be accepted by a verifier.
#include "bpf.h"

NOINLINE u32 odd(u32 n);

NOINLINE u32 even(u32 n)
{
	return n ? odd(n - 1) + 1 : 1;
}

NOINLINE u32 odd(u32 n)
{
	return n ? even(n - 1) + 1 : 0;
}

SEC("socket")
int cyclic(struct __sk_buff *skb)
{
	return even(skb->len);
}

char _license[] SEC("license") = "GPL";
