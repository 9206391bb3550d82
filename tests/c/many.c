// Several programs of several kinds in one object, found by function or by section suffix.
#include "bpf.h"

SEC("socket/first")
int one(struct __sk_buff *skb)
{
	return 1;
}

SEC("sk_skb/stream_parser/second")
int two(struct __sk_buff *skb)
{
	return skb->len ? 2 : NEED_MORE;
}

SEC("sk_skb/stream_parser")
int three(struct __sk_buff *skb)
{
	return 3;
}

SEC("sk_skb/stream_verdict")
int four(struct __sk_buff *skb)
{
	return 0;
}

// Not for us, and no hindrance.
SEC("xdp")
int five(void *frame)
{
	return 2;
}

char _license[] SEC("license") = "Dual MIT/GPL";
