// A line that ends with CR LF: scanned by an index.
#include "parsers.h"
SEC("sk_skb/stream_parser") int crlf(struct __sk_buff *skb)
{
    u8 *p = (u8 *)(u64)skb->data, *end = (u8 *)(u64)skb->data_end;
#pragma clang loop unroll(disable)
    for (u32 i = 0; i < 4096; i++) {
        if (p + i + 2 > end) return 0;
        if (p[i] == '\r' && p[i + 1] == '\n') return i + 2;
    }
    return -90;
}
