//! Whether tests of the kernel engine can run here.

use crate::skip::skip;

/// True where the kernel engine works; else the calling test is skipped, with what is missing.
pub fn available() -> bool {
    match kcm_core::kernel::probe() {
        Ok(_) => true,
        Err(e) => {
            skip(format!("no kernel engine here: {e}"));
            false
        }
    }
}
