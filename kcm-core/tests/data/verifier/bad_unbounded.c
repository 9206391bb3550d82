// Never stops looking.
#include "parsers.h"
SEC("sk_skb/stream_parser") int bad(struct __sk_buff *skb)
{
    for (;;) {
        volatile u32 len = skb->len;
        if (len == 0xffffffff) return 1;
    }
}
