//! The programs, a hook family a file. Program names are what `agent/src/source/probes.rs` lists.

mod cgroup;
mod connect;
mod device;
mod dns;
mod file;
mod packet;
mod process;
mod python;
mod sendto;
mod sockets;
mod tls;
