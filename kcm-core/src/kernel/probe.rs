//! Whether this machine and this process can: by doing it.

use std::fmt;

use super::error::Error;

/// What a probe found.
#[derive(Debug)]
pub struct Report {
    /// What was tried, in order.
    pub steps: Vec<&'static str>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "ok: {step}"))
    }
}

/// Tries.
///
/// # Errors
/// What is missing.
pub fn probe() -> Result<Report, Error> {
    Ok(Report { steps: Vec::new() })
}
