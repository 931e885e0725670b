//! Python interpreters: finding them in processes and files, and watching what their unpicklers resolve.

pub mod elf;
pub mod locate;
pub mod watch;
