#!/usr/bin/env python3
"""Writes NAME.ends beside each NAME.bin given: the end of each message, one a line.

A second, independent reading of the formats, slow and plain, so that the expected ends do not
come from the parsers they test. The protocol is the name up to the first dash."""
import struct
import sys


def prefixed(fmt, head, add=0):
    def size(b, at):
        return head + add + struct.unpack_from(fmt, b, at)[0]

    return size


def resp(b, at):
    def line(i):
        e = b.index(b"\n", i)
        return b[i:e].rstrip(b"\r"), e + 1

    def value(i):
        kind = b[i : i + 1]
        head, i = line(i)
        if kind in b"$!=":
            n = int(head[1:])
            return i if n < 0 else i + n + 2
        if kind in b"*~>%":
            for _ in range(max(0, int(head[1:])) * (2 if kind == b"%" else 1)):
                i = value(i)
        return i

    return value(at) - at


def mqtt(b, at):
    n = shift = 0
    for i in range(1, 5):
        n |= (b[at + i] & 127) << shift
        shift += 7
        if b[at + i] < 128:
            return 1 + i + n
    raise ValueError(at)


def postgres(b, at):
    typed = b[at] != 0
    return typed + struct.unpack_from(">I", b, at + typed)[0]


def memcached(b, at):
    if b[at] in (0x80, 0x81):
        return 24 + struct.unpack_from(">I", b, at + 8)[0]
    e = b.index(b"\r\n", at) + 2
    w = b[at:e].split()
    word = {b"set": 4, b"add": 4, b"replace": 4, b"append": 4, b"prepend": 4, b"cas": 4}
    word |= {b"ms": 2, b"VALUE": 3, b"VA": 1}
    data = int(w[word[w[0]]]) + 2 if w and w[0] in word else 0
    return e - at + data


def http2(b, at):
    if b.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", at):
        return 24
    return 9 + int.from_bytes(b[at : at + 3], "big")


SIZES = {
    "dns_tcp": prefixed(">H", 2),
    "kafka": prefixed(">I", 4),
    "thrift": prefixed(">I", 4),
    "resp": resp,
    "mqtt": mqtt,
    "postgres": postgres,
    "memcached": memcached,
    "http2": http2,
}

for path in sys.argv[1:]:
    b = open(path, "rb").read()
    size = SIZES[path.rsplit("/", 1)[-1].split("-")[0].removesuffix(".bin")]
    at, ends = 0, []
    while at < len(b):
        at += size(b, at)
        ends.append(at)
    assert at == len(b), (path, at, len(b))
    with open(path.removesuffix(".bin") + ".ends", "w") as f:
        f.writelines(f"{e}\n" for e in ends)
