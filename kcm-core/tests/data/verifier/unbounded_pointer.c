// No bound but the end of the message, by pointer.
#include "parsers.h"
SEC("sk_skb/stream_parser") int crlf(struct __sk_buff *skb)
{
    u8 *start = (u8 *)(u64)skb->data, *end = (u8 *)(u64)skb->data_end, *p = start;
    u8 last = 0;
    while (p + 1 <= end) {
        u8 b = *p++;
        if (last == '\r' && b == '\n') return p - start;
        last = b;
    }
    return 0;
}
