//! Says whether this machine and process can have the kernel engine, or what is missing; exits
//! with 1 then. `cargo xtask kernel-engine probe` runs it.

use std::process::ExitCode;

fn main() -> ExitCode {
    match kcm_core::kernel::probe() {
        Ok(report) => {
            print!("{report}");
            println!("the kernel engine can be used");
            ExitCode::SUCCESS
        }
        Err(e) => {
            println!("no kernel engine: {e}");
            ExitCode::FAILURE
        }
    }
}
