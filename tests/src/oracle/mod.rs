//! The oracle: what a real AF_KCM answers, and what this product answers, to the same questions.
//!
//! Each [scenario](scenarios) is written once, against [`backend::Backend`]. Two back ends
//! implement it: [`kernel`] (sockets of the kernel's own AF_KCM, under User-Mode-Linux) and
//! [`ours`] (the public interface of `kcm_core`). The answers are short lines of text.
//! What the kernel answered is committed (`data/oracle`), so that the ordinary tests compare
//! with it and need no kernel; every difference must be [explained](differences) by a statement
//! of the semantics that says how and why this product behaves otherwise, or the test fails.
//!
//! `cargo xtask oracle` runs both live.

pub mod backend;
pub mod context;
pub mod differences;
pub mod errno;
pub mod kernel;
pub mod ours;
pub mod program;
pub mod record;
pub mod runner;
pub mod scenarios;
pub mod signal;
pub mod text;
pub mod transcript;
