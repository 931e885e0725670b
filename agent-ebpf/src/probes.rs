//! The programs, a hook family a file. Program names are what `agent/src/source/probes.rs` lists.

mod connect;
mod device;
mod file;
mod process;
mod python;
