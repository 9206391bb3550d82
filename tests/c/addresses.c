// Data that holds addresses: tables of functions and of strings, which cannot be linked.
#include "bpf.h"

NOINLINE u32 plus_one(u32 n)
{
	return n + 1;
}

NOINLINE u32 plus_two(u32 n)
{
	return n + 2;
}

static u32 (*const volatile table[])(u32 n) = { plus_one, plus_two };

SEC("socket/table")
int tabled(struct __sk_buff *skb)
{
	return table[skb->len & 1](1);
}

SEC("socket/direct")
int direct(struct __sk_buff *skb)
{
	return plus_two(1);
}

char _license[] SEC("license") = "GPL";
