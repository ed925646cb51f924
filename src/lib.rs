//! Backstop.
pub mod proto;
