// Thrift framed transport: a 4-byte big-endian length, then as many bytes.
#include "parsers.h"
SEC("sk_skb/stream_parser") int thrift(struct __sk_buff *skb)
{
    u8 *p = (u8 *)(u64)skb->data, *end = (u8 *)(u64)skb->data_end;
    if (p + 4 > end) return 0;
    u32 n = (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];
    if (n > 16384000) return -90;
    return n + 4;
}
