//! Messages to send: for each protocol, one that carries a payload of the size asked for.

use anyhow::{Result, bail};

/// What stands in front of and behind the payload.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    head: Vec<u8>,
    size: usize,
    tail: &'static [u8],
}

impl Shape {
    /// For the built-in parser of that name.
    pub(crate) fn new(protocol: &str, size: usize) -> Result<Shape> {
        let too_large = |limit: usize| -> Result<()> {
            if size > limit {
                bail!("a {protocol} message has at most {limit} payload bytes");
            }
            Ok(())
        };
        let be32 = |n: usize| (n as u32).to_be_bytes();
        let (head, tail): (Vec<u8>, &'static [u8]) = match protocol {
            "thrift" | "kafka" => (be32(size).to_vec(), b""),
            "dns-tcp" | "dns_tcp" => {
                too_large(65_535)?;
                ((size as u16).to_be_bytes().to_vec(), b"")
            }
            "resp" => (format!("*2\r\n$4\r\nECHO\r\n${size}\r\n").into(), b"\r\n"),
            "memcached" => (format!("set key 0 0 {size}\r\n").into(), b"\r\n"),
            // CopyData.
            "postgres" => ([&b"d"[..], &be32(size + 4)].concat(), b""),
            // A DATA frame of stream 1.
            "http2" => ([&be32(size)[1..], &[0, 0, 0, 0, 0, 1]].concat(), b""),
            // PUBLISH to topic `t` at QoS 0.
            "mqtt" => {
                let mut head = vec![0x30];
                let mut left = size + 3;
                while left > 127 {
                    head.push(0x80 | (left % 128) as u8);
                    left /= 128;
                }
                head.push(left as u8);
                head.extend_from_slice(b"\0\x01t");
                (head, b"")
            }
            other => bail!("the demo's peer speaks no {other}; use --listen, or another --parser"),
        };
        Ok(Shape { head, size, tail })
    }

    /// Bytes of a whole message.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.size + self.tail.len()
    }

    /// `count` messages back to back, not yet numbered.
    pub(crate) fn batch(&self, count: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(count * self.len());
        for _ in 0..count {
            out.extend_from_slice(&self.head);
            out.resize(out.len() + self.size, b'.');
            out.extend_from_slice(self.tail);
        }
        out
    }

    /// Numbers the messages of a batch, from `first` on: the number is the payload's first 8
    /// bytes.
    pub(crate) fn number(&self, batch: &mut [u8], first: u64) {
        for (i, m) in batch.chunks_exact_mut(self.len()).enumerate() {
            m[self.head.len()..][..8].copy_from_slice(&(first + i as u64).to_be_bytes());
        }
    }

    /// The number of a received message; None if it is not such a message.
    #[inline]
    pub(crate) fn read(&self, message: &[u8]) -> Option<u64> {
        let whole = message.len() == self.len() && message.starts_with(&self.head);
        let number = message.get(self.head.len()..)?.first_chunk::<8>()?;
        whole.then(|| u64::from_be_bytes(*number))
    }
}

#[cfg(test)]
mod tests {
    use kcm_tests::streams::{ends, native};

    use super::*;

    #[test]
    fn each_protocol_finds_its_own_messages_again() {
        for (object, program, _) in kcm_ebpf::parsers::ALL {
            let Ok(shape) = Shape::new(object, 16) else {
                assert_eq!(*object, "lenprefix");
                continue;
            };
            for size in [16, 127, 128, 16_380, 16_384] {
                let shape = Shape::new(object, size).unwrap();
                let mut batch = shape.batch(3);
                shape.number(&mut batch, 7);
                let ends = ends(&native(program), &batch).unwrap();
                let len = shape.len() as u32;
                assert_eq!(ends, [len, 2 * len, 3 * len], "{program} {size}");
                assert_eq!(shape.read(&batch[shape.len()..2 * shape.len()]), Some(8));
                assert_eq!(shape.read(&batch[1..=shape.len()]), None);
            }
            assert_eq!(shape.len(), shape.batch(1).len());
        }
        assert!(Shape::new("dns-tcp", 70_000).is_err());
    }
}
