//! Python on this node: where an interpreter's files lie, where in them its audit events are raised, and the thread that
//! attaches programs there.
//!
//! Files are read, never executed, and every one of them may be hostile.

mod attach;
pub mod code;
mod detach;
pub mod elf;
pub mod interpreters;
mod key;
pub mod locate;
mod opened;
mod warm;
pub mod watch;
