//! What a connection is attached with.

use std::time::Duration;

use bytes::Bytes;
use kcm_common::verdict::DEFAULT_MAX_HEADER;

use crate::error::AttachError as AttachRefusal;

/// Where a connection's messages are delineated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Engine {
    /// In this process, by the verified program: any stream, no privilege.
    Process,
    /// In the kernel, as a sockmap stream parser: TCP connections, verified programs, and
    /// privileges ([`kernel`](crate::kernel)). No back-pressure: a peer that sends faster than
    /// messages are taken is cut off ([`PsockError::Overrun`](crate::PsockError::Overrun));
    /// unattaching shuts the connection down.
    Kernel,
    /// The process. The kernel engine is never chosen unasked: it cannot hold a peer back.
    #[default]
    Auto,
}

/// How a connection is attached. `AttachOptions::default()` is what
/// [`attach`](super::KcmSocket::attach) uses.
///
/// ```
/// use std::time::Duration;
/// use kcm_core::AttachOptions;
///
/// let options = AttachOptions::new()
///     .max_message(1 << 20)
///     .assembly_timeout(Duration::from_secs(10));
/// assert_eq!(options.max_message, Some(1 << 20));
/// ```
#[derive(Clone, Debug)]
pub struct AttachOptions {
    /// The longest message accepted, in bytes; one of exactly this length is accepted
    /// (semantics B5). A longer one fails the connection with
    /// [`PsockError::TooLong`](crate::PsockError::TooLong). None: the socket's SO_RCVBUF as
    /// it is at attach, as reported (semantics B5, without B6's moving limit); 212992 for
    /// streams that are no sockets. 1 to 2³¹−1.
    pub max_message: Option<u32>,
    /// The most bytes the parser may be shown before it must name a length (semantics J3);
    /// more fail the connection with
    /// [`PsockError::HeaderTooLong`](crate::PsockError::HeaderTooLong). 64 KiB. At least 1.
    pub max_header: u32,
    /// From a message's first byte to its last (semantics B18, B19); longer fails the
    /// connection with [`PsockError::TimedOut`](crate::PsockError::TimedOut). None: the
    /// socket's SO_RCVTIMEO as it is at attach. `Some(Duration::ZERO)`: no limit. The time
    /// during which we do not read, for no KCM socket can take more, does not count.
    pub assembly_timeout: Option<Duration>,
    /// Which engine delineates.
    pub engine: Engine,
    /// A peer that ends its sending side on a message boundary can still be sent to
    /// (semantics B26). Otherwise the connection is out of use then.
    pub half_close: bool,
    /// Close the connection as soon as it is out of use, instead of keeping it until it is
    /// unattached (semantics F5). Its unread bytes are dropped.
    pub auto_close: bool,
    /// What TCP_NODELAY is set to while attached; None leaves it as it is. Default:
    /// `Some(true)`. Messages are coalesced here, as many as are queued in one write, so
    /// Nagle's algorithm would only hold back the last one (exceeding semantics D17).
    pub nodelay: Option<bool>,
    /// Bytes that the application has read from the stream already; they come before what is
    /// read from now on. This is how a greeting or an upgrade is handled before attaching
    /// (exceeding semantics A26).
    pub initial: Bytes,
}

impl Default for AttachOptions {
    fn default() -> Self {
        AttachOptions {
            max_message: None,
            max_header: DEFAULT_MAX_HEADER as u32,
            assembly_timeout: None,
            engine: Engine::Auto,
            half_close: false,
            auto_close: false,
            nodelay: Some(true),
            initial: Bytes::new(),
        }
    }
}

impl AttachOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`max_message`](Self#structfield.max_message), in bytes.
    pub fn max_message(mut self, bytes: u32) -> Self {
        self.max_message = Some(bytes);
        self
    }

    /// Sets [`max_header`](Self#structfield.max_header), in bytes.
    pub fn max_header(mut self, bytes: u32) -> Self {
        self.max_header = bytes;
        self
    }

    /// Sets [`assembly_timeout`](Self#structfield.assembly_timeout); zero is no limit.
    pub fn assembly_timeout(mut self, timeout: Duration) -> Self {
        self.assembly_timeout = Some(timeout);
        self
    }

    /// Sets [`engine`](Self#structfield.engine).
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = engine;
        self
    }

    /// Sets [`half_close`](Self#structfield.half_close).
    pub fn half_close(mut self, yes: bool) -> Self {
        self.half_close = yes;
        self
    }

    /// Sets [`auto_close`](Self#structfield.auto_close).
    pub fn auto_close(mut self, yes: bool) -> Self {
        self.auto_close = yes;
        self
    }

    /// Sets [`nodelay`](Self#structfield.nodelay).
    pub fn nodelay(mut self, set: Option<bool>) -> Self {
        self.nodelay = set;
        self
    }

    /// Sets [`initial`](Self#structfield.initial).
    pub fn initial(mut self, bytes: impl Into<Bytes>) -> Self {
        self.initial = bytes.into();
        self
    }

    pub(super) fn check(&self) -> Result<(), AttachRefusal> {
        let bad = |name, reason| Err(AttachRefusal::InvalidOption { name, reason });
        if self.max_message.is_some_and(|max| max == 0 || max > i32::MAX as u32) {
            return bad("max_message", "1 to 2147483647 bytes");
        }
        if self.max_header == 0 {
            return bad("max_header", "at least 1 byte");
        }
        if self.engine == Engine::Kernel && !self.initial.is_empty() {
            return Err(AttachRefusal::UnsupportedEngine {
                engine: "kernel",
                reason: "it cannot be given bytes that were read before (`initial`); use \
                         Engine::Process"
                    .to_owned(),
            });
        }
        Ok(())
    }
}
