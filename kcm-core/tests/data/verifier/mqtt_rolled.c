// MQTT: the varint as a loop.
#include "parsers.h"
SEC("sk_skb/stream_parser") int mqtt(struct __sk_buff *skb)
{
    u8 *p = (u8 *)(u64)skb->data, *end = (u8 *)(u64)skb->data_end;
    u32 n = 0, shift = 0;
#pragma clang loop unroll(disable)
    for (u32 i = 1; i <= 4; i++) {
        if (p + i + 1 > end) return 0;
        u8 b = p[i];
        n |= (u32)(b & 127) << shift;
        if (!(b & 128)) return n + i + 1;
        shift += 7;
    }
    return -22;
}
