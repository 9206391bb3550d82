// A KCM parser as the kernel's own documentation writes one: section `socket_kcm`, the
// message read with the compiler's legacy packet loads (LD_ABS), which end the program with 0
// ("need more") where the packet ends. Two programs, for two header forms.
#include "bpf.h"

u64 load_half(void *skb, u64 at) asm("llvm.bpf.load.half");
u64 load_word(void *skb, u64 at) asm("llvm.bpf.load.word");

// Two bytes of length, big-endian, not counting themselves.
SEC("socket_kcm")
int half_framed(struct __sk_buff *skb)
{
	return load_half(skb, 0) + 2;
}

// Four bytes of length, big-endian, not counting themselves.
SEC("socket_kcm")
int word_framed(struct __sk_buff *skb)
{
	return load_word(skb, 0) + 4;
}

char _license[] SEC("license") = "GPL";
