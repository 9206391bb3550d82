//! The built-in parsers, from the same sources, over another view of the message: direct access
//! through `data` and `data_end` instead of `bpf_skb_load_bytes`. For benchmarks of both forms.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(dead_code)] // what of the included sources these programs do not use

pub use kcm_ebpf::{Parsed, Stop, errno, refuse};

#[path = "../crlf.rs"]
mod crlf;
#[path = "../../../../kcm-ebpf/src/parsers/http2.rs"]
mod http2;
#[path = "../../../../kcm-ebpf/src/parsers/memcached.rs"]
mod memcached;
#[path = "../../../../kcm-ebpf/src/parsers/mqtt.rs"]
mod mqtt;
#[path = "../../../../kcm-ebpf/src/parsers/postgres.rs"]
mod postgres;
#[path = "../../../../kcm-ebpf/src/parsers/resp.rs"]
mod resp;
#[path = "../../../../kcm-ebpf/src/scan.rs"]
mod scan;
#[path = "../../../../kcm-ebpf/src/parsers/thrift.rs"]
mod thrift;

/// Bytes that a program can reach so: the offset of a packet pointer has 16 bits in kernels.
const REACH: u64 = 0xffff;

/// The message so far, as [`kcm_ebpf::Message`] shows it.
pub struct Message<'a> {
    data: *const u8,
    end: *const u8,
    /// For the last bytes of a window, and their number.
    rest: kcm_ebpf::Message<'a>,
}

impl Message<'_> {
    #[inline(always)]
    fn load<T: Copy>(&self, at: u64) -> Result<T, Stop> {
        if at > REACH {
            return Err(Stop::NEED_MORE);
        }
        let from = self.data.wrapping_add(at as usize);
        if from.wrapping_add(size_of::<T>()) > self.end {
            return Err(Stop::NEED_MORE);
        }
        // SAFETY: the bytes from `from` on were just compared with `data_end`, and a socket
        // buffer's bytes stay readable while the program runs. Loads of this machine need no
        // alignment, and any bytes make a valid unsigned integer.
        #[allow(unsafe_code)]
        Ok(unsafe { core::ptr::read_volatile(from.cast::<T>()) })
    }

    /// These programs are for the process.
    #[inline(always)]
    pub fn in_kernel(&self) -> bool {
        false
    }

    /// 0: only a kernel need not know.
    #[inline(always)]
    pub fn unknown_zero(&self) -> u64 {
        0
    }

    /// The same view.
    #[inline(always)]
    pub fn copied(&self) -> &Self {
        self
    }

    /// Takes a step until it gives something or fails, `rounds` times at most.
    #[inline(always)]
    pub fn repeat<R>(
        &self,
        rounds: u32,
        step: impl FnMut() -> Result<Option<R>, Stop>,
    ) -> Result<Option<R>, Stop> {
        kcm_ebpf::__private::steps(rounds, step)
    }

    /// Bytes that are here.
    #[inline(always)]
    pub fn len(&self) -> u64 {
        self.rest.len()
    }

    /// The byte at `at`.
    #[inline(always)]
    pub fn u8(&self, at: u64) -> Result<u8, Stop> {
        self.load::<u8>(at)
    }

    /// Big-endian, 2 bytes.
    #[inline(always)]
    pub fn be16(&self, at: u64) -> Result<u16, Stop> {
        Ok(u16::from_be(self.load::<u16>(at)?))
    }

    /// Big-endian, 4 bytes.
    #[inline(always)]
    pub fn be32(&self, at: u64) -> Result<u32, Stop> {
        Ok(u32::from_be(self.load::<u32>(at)?))
    }

    /// Big-endian, 3 bytes.
    #[inline(always)]
    pub fn be24(&self, at: u64) -> Result<u32, Stop> {
        let high = self.be16(at)?;
        let low = self.u8(at + 2)?;
        Ok((high as u32) << 8 | low as u32)
    }

    /// Big-endian, 8 bytes.
    #[inline(always)]
    pub fn be64(&self, at: u64) -> Result<u64, Stop> {
        Ok(u64::from_be(self.load::<u64>(at)?))
    }

    /// Little-endian, 8 bytes.
    #[inline(always)]
    pub fn le64(&self, at: u64) -> Result<u64, Stop> {
        Ok(u64::from_le(self.load::<u64>(at)?))
    }

    /// Up to eight bytes from `at`, and how many they are. Only the last bytes of what is here,
    /// fewer than eight, come through the helper: byte by byte they would be eight ways through
    /// every step, each of which a verifier has to follow.
    #[inline(always)]
    pub fn window(&self, at: u64) -> (u64, u64) {
        if let Ok(word) = self.le64(at) {
            return (word, 8);
        }
        self.rest.window(at)
    }
}

macro_rules! programs {
    ($($name:ident = $parse:path),+ $(,)?) => {$(
        #[cfg(target_arch = "bpf")]
        const _: () = {
            const PARSE: fn(&$crate::Message<'_>) -> $crate::Parsed = $parse;
            const _: () = {
                #[allow(unsafe_code)]
                #[unsafe(no_mangle)]
                #[unsafe(link_section = "sk_skb/stream_parser")]
                extern "C" fn $name(context: *mut aya_ebpf::bindings::__sk_buff) -> i32 {
                    // SAFETY: `context` is what this program was called with; both fields
                    // are ones that every such program may read.
                    let (data, end) = unsafe { ((*context).data, (*context).data_end) };
                    // SAFETY: as above, and `rest` is gone when the program returns.
                    let rest = unsafe { kcm_ebpf::Message::from_context(context) };
                    let message = $crate::Message {
                        data: data as usize as *const u8,
                        end: end as usize as *const u8,
                        rest,
                    };
                    kcm_ebpf::raw_verdict(PARSE(&message))
                }
            };
        };
    )+};
}

programs! {
    thrift = thrift::parse,
    http2 = http2::parse,
    memcached = memcached::parse,
    mqtt = mqtt::parse,
    postgres = postgres::parse,
    resp = resp::parse,
    crlf = crlf::parse,
}

kcm_ebpf::__once_per_object! {}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
