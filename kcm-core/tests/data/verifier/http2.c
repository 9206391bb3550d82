// HTTP/2 frames: the client's preface of 24 bytes, else a 9-byte header with a 24-bit length.
#include "parsers.h"
SEC("sk_skb/stream_parser") int http2(struct __sk_buff *skb)
{
    u8 *p = (u8 *)(u64)skb->data, *end = (u8 *)(u64)skb->data_end;
    if (p + 9 > end) return 0;
    if (p[0] == 'P' && p[1] == 'R' && p[2] == 'I' && p[3] == ' ' && p[4] == '*') return 24;
    u32 n = (u32)p[0] << 16 | (u32)p[1] << 8 | p[2];
    if (n > 16384) return -90;
    if (p[3] > 9) return -22;
    return n + 9;
}
