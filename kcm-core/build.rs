//! Says whether there is a JIT in this build.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(kcm_jit)");
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let machine = matches!(&*arch, "x86_64" | "aarch64");
    if machine && std::env::var_os("CARGO_FEATURE_JIT").is_some() {
        println!("cargo::rustc-cfg=kcm_jit");
    }
}
