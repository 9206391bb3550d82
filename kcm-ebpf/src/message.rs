//! The view of the message so far. Typed loads are written once, over the two primitives
//! that each target provides: the length, and a load of 1, 2, 4 or 8 bytes.

#[cfg(target_arch = "bpf")]
#[path = "message/bpf.rs"]
mod target;
#[cfg(not(target_arch = "bpf"))]
#[path = "message/host.rs"]
mod target;

use crate::Stop;

/// The message so far, from its first byte: what a parse function looks at.
///
/// Positions are counted in bytes from the message's first byte. Any load that reaches
/// beyond the bytes that are here fails with [`Stop::NEED_MORE`], which `?` hands on; no load
/// panics, whatever the position.
///
/// On the BPF target this is the socket buffer of the program's context, read with
/// `bpf_skb_load_bytes` of constant small sizes; elsewhere it is a byte slice.
pub struct Message<'a> {
    target: target::View<'a>,
}

/// The unsigned integers that one load can fetch.
pub(crate) trait Word: Copy {
    /// From bytes in the machine's order.
    #[cfg(not(target_arch = "bpf"))]
    fn from_slice(bytes: &[u8]) -> Option<Self>;
}

macro_rules! words {
    ($($word:ty),*) => {$(
        impl Word for $word {
            #[cfg(not(target_arch = "bpf"))]
            #[inline(always)]
            fn from_slice(bytes: &[u8]) -> Option<Self> {
                Some(<$word>::from_ne_bytes(bytes.try_into().ok()?))
            }
        }
    )*};
}
words!(u8, u16, u32, u64);

macro_rules! loads {
    ($($be:ident $le:ident $word:ty, $bytes:literal;)*) => {$(
        #[doc = concat!("The big-endian ", $bytes, "-byte number at `at`.")]
        ///
        /// # Errors
        /// [`Stop::NEED_MORE`] unless all its bytes are here.
        #[inline(always)]
        pub fn $be(&self, at: u64) -> Result<$word, Stop> {
            Ok(<$word>::from_be(self.target.load::<$word>(at)?))
        }

        #[doc = concat!("The little-endian ", $bytes, "-byte number at `at`.")]
        ///
        /// # Errors
        /// [`Stop::NEED_MORE`] unless all its bytes are here.
        #[inline(always)]
        pub fn $le(&self, at: u64) -> Result<$word, Stop> {
            Ok(<$word>::from_le(self.target.load::<$word>(at)?))
        }
    )*};
}

impl<'a> Message<'a> {
    #[inline(always)]
    fn from_view(target: target::View<'a>) -> Self {
        Self { target }
    }

    /// Bytes that are here, from the message's first one on; those of following messages
    /// may be among them.
    #[inline(always)]
    pub fn len(&self) -> u64 {
        self.target.len()
    }

    /// No byte is here yet. The runtime never asks a parser then.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The byte at `at`.
    ///
    /// # Errors
    /// [`Stop::NEED_MORE`] unless it is here.
    #[inline(always)]
    pub fn u8(&self, at: u64) -> Result<u8, Stop> {
        self.target.load::<u8>(at)
    }

    loads! {
        be16 le16 u16, "2";
        be32 le32 u32, "4";
        be64 le64 u64, "8";
    }

    /// The big-endian 3-byte number at `at`.
    ///
    /// # Errors
    /// [`Stop::NEED_MORE`] unless all its bytes are here.
    #[inline(always)]
    pub fn be24(&self, at: u64) -> Result<u32, Stop> {
        let high = self.be16(at)?;
        let low = self.u8(at + 2)?;
        Ok((high as u32) << 8 | low as u32)
    }

    /// The little-endian 3-byte number at `at`.
    ///
    /// # Errors
    /// [`Stop::NEED_MORE`] unless all its bytes are here.
    #[inline(always)]
    pub fn le24(&self, at: u64) -> Result<u32, Stop> {
        let low = self.le16(at)?;
        let high = self.u8(at + 2)?;
        Ok((high as u32) << 16 | low as u32)
    }

    /// The program is for a kernel: a constant.
    #[inline(always)]
    pub(crate) fn in_kernel(&self) -> bool {
        self.target.in_kernel()
    }

    /// 0, for what a loop in a kernel counts from: the kernel's verifier follows every round of
    /// a loop in which it knows the values.
    #[inline(always)]
    pub(crate) fn unknown_zero(&self) -> u64 {
        self.target.unknown_zero()
    }

    /// The same view, for a loop in a kernel to refer to. (Were the original referred to, which
    /// the compiler sees before it sees that this is not the program for a kernel, it would
    /// have to lie in memory.)
    #[inline(always)]
    pub(crate) fn copied(&self) -> Self {
        Self { target: self.target }
    }

    /// Takes a step until it gives something or fails, `rounds` times at most; `None` if that
    /// is not enough. The loop for parsers of unbounded formats: in a kernel it is one that the
    /// kernel counts (`bpf_loop`, since 5.17), where an ordinary one of more than some hundred
    /// rounds is refused by the verifier.
    ///
    /// # Errors
    /// The step's.
    #[inline(always)]
    pub fn repeat<R>(
        &self,
        rounds: u32,
        step: impl FnMut() -> Result<Option<R>, Stop>,
    ) -> Result<Option<R>, Stop> {
        self.target.repeat(rounds, step)
    }

    /// Up to eight bytes from `at` as a little-endian number (the byte at `at` lowest, zeros
    /// beyond the last byte that is here), and how many they are, 0 to 8.
    ///
    /// The piece to build scans from: one load per eight bytes, and it never fails.
    #[inline(always)]
    pub fn window(&self, at: u64) -> (u64, u64) {
        if let Ok(word) = self.le64(at) {
            return (word, 8);
        }
        self.target.tail(at)
    }
}

/// Takes a step until it gives something or fails, `rounds` times at most: an ordinary loop.
#[inline(always)]
pub fn steps<R>(
    rounds: u32,
    mut step: impl FnMut() -> Result<Option<R>, Stop>,
) -> Result<Option<R>, Stop> {
    let mut done = 0;
    while done < rounds {
        done += 1;
        if let Some(found) = step()? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
