//! Who did it: what the agent knows about processes, containers and users at the moment of an event.
//!
//! Owned by the sensor thread; nothing here locks.

pub mod container;
pub mod dns;
pub mod gpu;
pub mod model_file;
pub mod names;
pub mod outside;
pub mod pickle;
pub mod process;
pub mod procfs;
pub mod resolved;
pub mod runtime;
pub mod tls;
