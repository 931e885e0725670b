//! NVML's C interface without a GPU: what it answers is played from a scenario file by a clock that a test sets.
//!
//! The dynamic library is loaded exactly as NVIDIA's: by a path, or as `libnvidia-ml.so.1` where `LD_LIBRARY_PATH` finds it.
//! `SAKER_NVML_SCENARIO` names the file, a [`scenario::Scenario`] as JSON, which is read at every call, so that a test changes what
//! happens by writing it anew. `SAKER_NVML_CLOCK` names a file that holds the scenario's time in seconds; without it
//! the time is that since the library was loaded. [`workload`] says what kinds of programs do to a GPU, and where its
//! numbers come from; tests that judge days of samples use it directly, and read [`trial`]s from files.

mod exports;
pub mod scenario;
pub mod script;
pub mod trial;
pub mod workload;
