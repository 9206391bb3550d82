// Redis requests: *N CRLF, then N times $LEN CRLF bytes CRLF.
#include "parsers.h"
inline_ int number(u8 *base, u8 *end, u32 *at, u32 *out)
{
    u32 v = 0;
#pragma clang loop unroll(disable)
    for (int i = 0; i < 9; i++) {
        u8 *p = base + *at;
        if (p + 1 > end) return 0;
        u8 b = *p;
        *at += 1;
        if (b == '\r') {
            p = base + *at;
            if (p + 1 > end) return 0;
            if (*p != '\n') return -22;
            *at += 1;
            *out = v;
            return 1;
        }
        if (b < '0' || b > '9') return -22;
        v = v * 10 + (b - '0');
    }
    return -22;
}
SEC("sk_skb/stream_parser") int resp(struct __sk_buff *skb)
{
    u8 *base = (u8 *)(u64)skb->data, *end = (u8 *)(u64)skb->data_end;
    u32 at = 1, n, len;
    if (base + 1 > end) return 0;
    if (*base != '*') return -22;
    int r = number(base, end, &at, &n);
    if (r <= 0) return r;
    if (n > 64) return -90;
#pragma clang loop unroll(disable)
    for (u32 i = 0; i < 64; i++) {
        if (i >= n) return at;
        if (at > 0x7000) return -90;
        u8 *p = base + at;
        if (p + 1 > end) return 0;
        if (*p != '$') return -22;
        at += 1;
        r = number(base, end, &at, &len);
        if (r <= 0) return r;
        if (len > 0x7000) return -90;
        at += len + 2;
    }
    if (at > 0x7fff) return -90;
    return at;
}
