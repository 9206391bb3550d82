//! What a parser's 32-bit result means (semantics B3, B4, B5, B9).

/// Result of a parser that cannot tell the length yet (semantics B3).
pub const NEED_MORE: i32 = 0;

/// Default limit on the bytes a parser may look at before it must name a length, in bytes
/// (semantics J3).
pub const DEFAULT_MAX_HEADER: usize = 64 * 1024;

/// The answer of a parser for the message bytes it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The head of the message is not complete: ask again when there are more bytes.
    NeedMore,
    /// The message is this many bytes long, counted from its first byte. Never 0. It may be
    /// longer than what has arrived.
    Message(u32),
    /// The stream is not what this parser understands; the positive errno that says why.
    Error(i32),
}

impl Verdict {
    /// Reads a program's signed 32-bit result: positive is a length, 0 is need-more, negative
    /// is an error (semantics B3, B4, B9).
    #[inline(always)]
    pub const fn from_raw(raw: i32) -> Self {
        if raw > 0 {
            Verdict::Message(raw as u32)
        } else if raw == NEED_MORE {
            Verdict::NeedMore
        } else {
            // i32::MIN has no positive counterpart; it is as good an error as any.
            Verdict::Error(raw.saturating_neg())
        }
    }

    /// The signed 32-bit result that a program returns for this verdict. A length beyond
    /// `i32::MAX` cannot be said and becomes `-EMSGSIZE`; `Message(0)` becomes `-EPROTO`,
    /// for there are no empty messages (semantics D3).
    #[inline(always)]
    pub const fn to_raw(self) -> i32 {
        match self {
            Verdict::NeedMore => NEED_MORE,
            Verdict::Message(0) => -crate::errno::EPROTO,
            Verdict::Message(len) if len <= i32::MAX as u32 => len as i32,
            Verdict::Message(_) => -crate::errno::EMSGSIZE,
            Verdict::Error(code) if code > 0 => -code,
            Verdict::Error(_) => -crate::errno::EPROTO,
        }
    }
}
