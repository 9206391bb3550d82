//! Logging from a parser, through aya-log's ring buffer.

macro_rules! levels {
    ($dollar:tt $($level:ident)*) => {$(
        #[doc = concat!("Logs at level ", stringify!($level), " from a parse function: `")]
        #[doc = concat!(stringify!($level), "!(msg, \"length {}\", len)`.")]
        ///
        /// The first argument is the [`Message`](crate::Message), then come aya-log's format
        /// string and arguments (integers, booleans, `&str`; hints `:x`, `:X`, `:i`, `:mac`,
        /// `:p`). A crate that logs needs the dependency `aya-log-ebpf = "0.2"` for target
        /// `cfg(target_arch = "bpf")`. A line costs some 300 instructions, so log what is
        /// rare. In a native run of the parse function nothing is written.
        #[cfg(target_arch = "bpf")]
        #[macro_export]
        macro_rules! $level {
            ($dollar msg:expr, $dollar($dollar arg:tt)+) => {
                ::aya_log_ebpf::$level!($dollar msg, $dollar($dollar arg)+)
            };
        }

        #[doc = concat!("Logs at level ", stringify!($level), " from a parse function: `")]
        #[doc = concat!(stringify!($level), "!(msg, \"length {}\", len)`.")]
        ///
        /// The first argument is the [`Message`](crate::Message), then come aya-log's format
        /// string and arguments (integers, booleans, `&str`; hints `:x`, `:X`, `:i`, `:mac`,
        /// `:p`). A crate that logs needs the dependency `aya-log-ebpf = "0.2"` for target
        /// `cfg(target_arch = "bpf")`. A line costs some 300 instructions, so log what is
        /// rare. In a native run of the parse function nothing is written.
        #[cfg(not(target_arch = "bpf"))]
        #[macro_export]
        macro_rules! $level {
            ($dollar msg:expr, $dollar format:literal $dollar(, $dollar arg:expr)* $dollar(,)?) => {{
                let _ = (&$dollar msg, $dollar(&$dollar arg,)*);
            }};
        }
    )*};
}

levels!($ error warn info debug trace);
