//! GPUs, as their drivers show them: a thread of its own asks, and hands what it finds to the sensor thread.
//!
//! [`nvml`] is NVIDIA's. Another vendor's reader supplies the same [`GpuSample`] and is tried beside it in [`sampler`]; nothing behind it
//! knows vendors. What the values mean is `context`'s and `mining`'s business.

pub mod look;
pub mod nvml;
pub mod sampler;

pub use crate::event::gpu::GpuSample;
pub use sampler::{Driver, Sampler, SamplerConfig};
