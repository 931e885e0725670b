//! The source of events: finds what the kernel programs need, loads them, and hands on the bytes of their records.
//!
//! Everything that knows struct offsets, hooks and maps lives under here. What the bytes mean is `decode`'s business.

pub mod attach;
pub mod btf;
mod calls;
pub mod capture;
pub mod cast;
pub mod cgroup;
pub mod devices;
pub mod errors;
pub mod gpu;
pub mod loader;
pub mod mounts;
pub mod numbers;
pub mod object;
pub mod offsets;
pub mod perf;
pub mod priority;
pub mod privileges;
pub mod probes;
pub mod program_types;
pub mod python;
pub mod ring;
pub mod sensor;
pub mod shares;
pub mod status;
pub mod wanted;

pub use errors::SensorError;
pub use saker_ebpf::wire::{Counters, Kind};
pub use sensor::{KernelCounters, OpenFilter, Sensor, SensorConfig, Waker, Wish};
pub use shares::ShareLimit;
pub use status::{HookStatus, Refusal};
