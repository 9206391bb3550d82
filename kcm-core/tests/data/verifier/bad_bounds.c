// Reads a byte more than it asked for.
#include "parsers.h"
SEC("sk_skb/stream_parser") int bad(struct __sk_buff *skb)
{
    u8 *p = (u8 *)(u64)skb->data, *end = (u8 *)(u64)skb->data_end;
    if (p + 4 > end) return 0;
    return p[4];
}
