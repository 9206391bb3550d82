//! A send queue: a stream of bytes with marks where messages end.
#[derive(Debug, Default)]
pub(super) struct SendQueue {}
