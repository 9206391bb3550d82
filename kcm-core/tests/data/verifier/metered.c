// No bound but the end of the message: accepted, metered.
#include "parsers.h"
SEC("sk_skb/stream_parser") int crlf(struct __sk_buff *skb)
{
    u8 last = 0;
    for (u32 i = 0;; i++) {
        u8 b;
        if (load_bytes(skb, i, &b, 1)) return 0;
        if (last == '\r' && b == '\n') return i + 1;
        last = b;
    }
}
