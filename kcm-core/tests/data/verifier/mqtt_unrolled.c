// MQTT: a type byte, a varint of 1 to 4 bytes, written out.
#include "parsers.h"
SEC("sk_skb/stream_parser") int mqtt(struct __sk_buff *skb)
{
    u8 *p = (u8 *)(u64)skb->data, *end = (u8 *)(u64)skb->data_end;
    if (p + 2 > end) return 0;
    u32 n = p[1] & 127;
    if (!(p[1] & 128)) return n + 2;
    if (p + 3 > end) return 0;
    n |= (p[2] & 127) << 7;
    if (!(p[2] & 128)) return n + 3;
    if (p + 4 > end) return 0;
    n |= (p[3] & 127) << 14;
    if (!(p[3] & 128)) return n + 4;
    if (p + 5 > end) return 0;
    n |= (p[4] & 127) << 21;
    if (p[4] & 128) return -22;
    return n + 5;
}
