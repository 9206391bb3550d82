//! `parser!`: from parse functions to a BPF object.

/// Makes BPF programs of parse functions: `parser!(name, path::to::parse)`, or for several
/// programs in one object `parser! { one = path::to::a, two = path::to::b }`.
///
/// To be used once, at the root of a binary crate that starts with
///
/// ```text
/// #![cfg_attr(target_arch = "bpf", no_std, no_main)]
/// ```
///
/// On the BPF target it defines, for each, a program in section `sk_skb/stream_parser` under
/// that name, the same for a kernel's sockets (`sk_skb/stream_parser/kernel`, the name with
/// `_kernel` behind it), and once the program that hands whole messages from a kernel to the
/// process (`sk_skb/stream_verdict`), the license (`Dual MIT/GPL`: some helpers, such as the kernel engine's
/// `bpf_probe_read_kernel`, are for GPL-compatible programs only; the source keeps its own
/// license) and the panic handler that `no_std` asks for. On every other target it defines an
/// empty `main`, so that the crate builds and its tests run there.
#[macro_export]
macro_rules! parser {
    ($name:ident, $parse:path $(,)?) => {
        $crate::parser! { $name = $parse }
    };
    ($($name:ident = $parse:path),+ $(,)?) => {
        $(
            // In scopes of their own, so that a program may have its parse function's name.
            #[cfg(target_arch = "bpf")]
            const _: () = {
                const PARSE: fn(&$crate::Message<'_>) -> $crate::Parsed = $parse;
                const _: () = {
                    /// The program: from the message in the context to the verdict.
                    #[allow(unsafe_code)]
                    #[unsafe(no_mangle)]
                    #[unsafe(link_section = "sk_skb/stream_parser")]
                    extern "C" fn $name(context: *mut $crate::__private::__sk_buff) -> i32 {
                        // SAFETY: `context` is what this program was called with, and
                        // `message` is gone when it returns.
                        let message = unsafe { $crate::Message::from_context(context) };
                        $crate::raw_verdict(PARSE(&message))
                    }

                    /// The same for a kernel, where the message starts anywhere in the
                    /// context.
                    #[allow(unsafe_code)]
                    #[unsafe(export_name = concat!(stringify!($name), "_kernel"))]
                    #[unsafe(link_section = "sk_skb/stream_parser/kernel")]
                    extern "C" fn kernel(context: *mut $crate::__private::__sk_buff) -> i32 {
                        // SAFETY: `context` is what this program was called with.
                        unsafe { $crate::__private::kernel::parse(context, PARSE) }
                    }
                };
            };
        )+

        #[cfg(target_arch = "bpf")]
        const _: () = {
            /// What becomes of a whole message in a kernel.
            #[allow(unsafe_code)]
            #[unsafe(no_mangle)]
            #[unsafe(link_section = "sk_skb/stream_verdict")]
            extern "C" fn kcm_verdict_1(context: *mut $crate::__private::__sk_buff) -> i32 {
                // SAFETY: `context` is what this program was called with.
                unsafe { $crate::__private::kernel::verdict(context) }
            }
        };

        $crate::__once_per_object! {}

        // The parse functions are named so that the host build does not call them unused.
        #[cfg(not(target_arch = "bpf"))]
        fn main() {
            $( let _: fn(&$crate::Message<'_>) -> $crate::Parsed = $parse; )+
        }
    };
}

/// What an object has once, whatever programs are in it: the licence and the panic handler.
#[doc(hidden)]
#[macro_export]
macro_rules! __once_per_object {
    () => {
        #[cfg(target_arch = "bpf")]
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "license")]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

        #[cfg(target_arch = "bpf")]
        #[panic_handler]
        fn panic(_: &::core::panic::PanicInfo<'_>) -> ! {
            // Reached only by programs that no verifier accepts: this loop has no end.
            loop {}
        }
    };
}
