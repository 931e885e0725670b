//! Messages and services as the build script makes them of `proto/`, and their descriptors.

#![allow(
    missing_docs,
    non_camel_case_types,
    clippy::all,
    clippy::pedantic,
    reason = "generated; the comments are in the proto files"
)]

/// Saker's own.
pub mod saker {
    /// The first version.
    pub mod v1 {
        tonic::include_proto!("saker.v1");
    }
}

/// What Falco's clients speak.
pub mod falco {
    /// Alerts.
    pub mod outputs {
        tonic::include_proto!("falco.outputs");
    }
    /// Priorities and sources.
    pub mod schema {
        tonic::include_proto!("falco.schema");
    }
    /// The version.
    pub mod version {
        tonic::include_proto!("falco.version");
    }
}

/// All of it as a `FileDescriptorSet`, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
