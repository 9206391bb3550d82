// A line that ends with CR LF: one byte at a time through the helper.
#include "parsers.h"
SEC("sk_skb/stream_parser") int crlf(struct __sk_buff *skb)
{
    u8 last = 0;
#pragma clang loop unroll(disable)
    for (u32 i = 0; i < 4096; i++) {
        u8 b;
        if (load_bytes(skb, i, &b, 1)) return 0;
        if (last == '\r' && b == '\n') return i + 1;
        last = b;
    }
    return -90;
}
