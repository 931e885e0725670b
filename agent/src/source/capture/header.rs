//! What a capture says of the machine and the agent that wrote it.

use saker_ebpf::wire::{self, Kind};
use serde::{Deserialize, Serialize};

use super::CaptureError;
use crate::source::OpenFilter;

/// The header: all that does not change while a capture is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Header {
    /// Version of the agent.
    pub agent: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Machine type, as `uname -m` has it.
    pub machine: String,
    /// The node's name, as alerts have it.
    pub hostname: String,
    /// Nanoseconds from the boot clock, which records carry, to the Unix epoch, when the capture began.
    pub epoch_offset_ns: i64,
    /// The agent's own process id.
    pub own_tgid: u32,
    /// Inode number of the host's mount namespace.
    pub host_mount_ns: Option<u32>,
    /// Id of the root cgroup.
    pub cgroup_root: Option<u64>,
    /// Whether containers may be in hierarchies of cgroup v1 alone.
    pub has_cgroup_v1: bool,
    /// Kinds of events that were asked for, with the hook that supplied each; `None` where none did.
    pub hooks: Vec<(String, Option<String>)>,
    /// Which opens were recorded.
    pub opens: OpenFilter,
    /// Environment variables that were recorded.
    pub variables: Vec<String>,
    /// Fixed length of each kind of record.
    pub record_bytes: Vec<u32>,
    /// Of the kernel's struct fields that were read.
    pub offsets_digest: u32,
}

impl Header {
    /// What this agent's records look like.
    pub fn of_this_agent() -> Self {
        Self {
            agent: env!("CARGO_PKG_VERSION").into(),
            record_bytes: record_bytes(),
            offsets_digest: wire::TABLE.offsets_digest,
            ..Self::default()
        }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, CaptureError> {
        let header: Self = serde_json::from_slice(bytes).map_err(|error| CaptureError::Header {
            problem: error.to_string(),
        })?;
        if header.record_bytes == record_bytes() {
            Ok(header)
        } else {
            Err(CaptureError::Layout)
        }
    }
}

fn record_bytes() -> Vec<u32> {
    Kind::ALL
        .iter()
        .map(|kind| u32::try_from(kind.fixed_bytes()).unwrap_or(u32::MAX))
        .collect()
}
