//! The agent.
pub mod source;
pub mod decode;
pub mod event;
