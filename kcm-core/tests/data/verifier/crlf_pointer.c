// A line that ends with CR LF: scanned by a moving pointer.
#include "parsers.h"
SEC("sk_skb/stream_parser") int crlf(struct __sk_buff *skb)
{
    u8 *start = (u8 *)(u64)skb->data, *end = (u8 *)(u64)skb->data_end;
    u8 *p = start, last = 0;
    u32 n = 0;
#pragma clang loop unroll(disable)
    for (int i = 0; i < 4096; i++) {
        if (p + 1 > end) return 0;
        u8 b = *p++;
        n++;
        if (last == '\r' && b == '\n') return n;
        last = b;
    }
    return -90;
}
