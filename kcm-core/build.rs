//! Tells the engine what this build can do: whether a call in tail position is compiled to a
//! jump (threaded interpreter), and whether there is a JIT.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(kcm_threaded)");
    println!("cargo::rustc-check-cfg=cfg(kcm_jit)");
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    // LLVM does so from optimisation level 1 on these machines. A sanitizer's or profiler's
    // instrumentation does not change it.
    let optimised = matches!(&*var("OPT_LEVEL"), "1" | "2" | "3" | "s" | "z");
    let machine = matches!(&*var("CARGO_CFG_TARGET_ARCH"), "x86_64" | "aarch64");
    if machine && std::env::var_os("CARGO_FEATURE_JIT").is_some() {
        println!("cargo::rustc-cfg=kcm_jit");
    }
    if optimised && machine {
        println!("cargo::rustc-cfg=kcm_threaded");
    }
}
