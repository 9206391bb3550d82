// A line that ends with CR LF: 64 bytes at a time on the stack, indexed.
#include "parsers.h"
SEC("sk_skb/stream_parser") int crlf(struct __sk_buff *skb)
{
    u8 buf[64] = {};
    u8 last = 0;
    u32 len = skb->len;
#pragma clang loop unroll(disable)
    for (u32 i = 0; i < 2048; i++) {
        if (i >= len) return 0;
        if (!(i & 63)) {
            u32 left = len - i;
            if (left >= 64) {
                if (load_bytes(skb, i, buf, 64)) return 0;
            } else {
                left &= 63;
                if (!left) return 0;
                if (load_bytes(skb, i, buf, left)) return 0;
            }
        }
        u8 b = *(volatile u8 *)&buf[i & 63];
        if (last == '\r' && b == '\n') return i + 1;
        last = b;
    }
    return -90;
}
