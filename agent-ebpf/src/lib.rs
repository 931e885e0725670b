//! What both halves of Saker must agree on: the wire format, the settings that the loader hands to the kernel
//! programs, and the table of kernel struct fields those programs read.
//!
//! The kernel programs (the `saker-probes` binary, feature `kernel`) and the agent compile this library; neither may
//! describe any of it a second time. It knows no rule, no container and no JSON.
#![no_std]

pub mod config;
pub mod extension;
pub mod plain;
pub mod wire;
