// References to what is not in the object.
#include "bpf.h"

extern u32 elsewhere(u32 n);
extern u32 perhaps(u32 n) __attribute__((weak));
extern const volatile u32 setting __attribute__((weak));

SEC("socket/strong")
int strong(struct __sk_buff *skb)
{
	return elsewhere(skb->len);
}

SEC("socket/weak")
int weak(struct __sk_buff *skb)
{
	return perhaps(skb->len);
}

SEC("socket/data")
int data(struct __sk_buff *skb)
{
	return setting;
}

SEC("socket/sound")
int sound(struct __sk_buff *skb)
{
	return 7;
}

char _license[] SEC("license") = "GPL";
