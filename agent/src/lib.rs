//! Saker's agent. One event goes one way: source → decode → context → fields → detect → alert → log → sinks.
//!
//! ARCHITECTURE.md has the map; `daemon` wires the stages, `cli` is where a command starts.

pub mod alert;
pub mod api;
mod bounded;
pub mod cli;
pub mod config;
pub mod context;
pub mod daemon;
pub mod decode;
pub mod detect;
pub mod event;
pub mod fields;
pub mod fuzz;
pub mod log;
pub mod metrics;
pub mod mining;
pub mod pipeline;
pub mod proto;
pub mod redact;
pub mod reference;
pub mod sink;
pub mod source;
pub mod watch;
