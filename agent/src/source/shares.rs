//! Cgroups' shares of the ring of what can be shed: what they are, and who wanted more.
//!
//! The root cgroup has none: where containers cannot be told apart all processes are in it, and a share would be one for all.

use std::io;

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};
use saker_ebpf::config::Settings;
use saker_ebpf::wire::share::{Share, ShareKey};

use super::errors::SensorError;
use super::loader::map_error;

/// How many events of the kinds that can be shed one cgroup gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareLimit {
    /// Events a second; 0 is no limit.
    pub events_per_s: u32,
    /// Events at once, after a time with fewer.
    pub burst: u32,
}

impl Default for ShareLimit {
    /// A busy node has some thousands of such events a second from all its containers. The burst fills about half of the ring's
    /// usual size, with opens of usual paths.
    fn default() -> Self {
        Self {
            events_per_s: 20_000,
            burst: 8_000,
        }
    }
}

impl ShareLimit {
    /// Tells the kernel programs.
    pub fn apply(self, settings: &mut Settings) {
        let Some(interval_ns) = 1_000_000_000u64.checked_div(self.events_per_s.into()) else {
            return;
        };
        // At least 1: 0 would be no limit, which is not what a very high one asks for.
        settings.share_interval_ns = interval_ns.max(1);
        settings.share_burst_ns =
            u64::from(self.burst.saturating_sub(1)) * settings.share_interval_ns;
    }
}

/// The map of shares.
pub struct Shares(HashMap<MapData, Key, Value>);

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Key(ShareKey);

// SAFETY: `ShareKey` is repr(C), Copy, and holds integers only.
unsafe impl Pod for Key {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Value(Share);

// SAFETY: `Share` is repr(C), Copy, and holds integers only.
unsafe impl Pod for Value {}

impl Shares {
    /// Name of the map in the object.
    pub const MAP: &str = "SHARES";

    /// Reads from this map.
    pub fn new(map: Map) -> Result<Self, SensorError> {
        HashMap::try_from(map).map(Self).map_err(map_error)
    }

    /// Whose events were left out, and how many since their share began. Some thousand system calls on a node with as many
    /// cgroups, so not for every second.
    pub fn left_out(&self) -> io::Result<Vec<(ShareKey, u64)>> {
        let mut left_out = Vec::new();
        for entry in self.0.iter() {
            match entry {
                Ok((Key(key), Value(share))) if share.left_out > 0 => {
                    left_out.push((key, share.left_out));
                }
                // Forgotten by the kernel while it was looked at.
                Ok(_) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_times() {
        let check = |events_per_s: u32, burst: u32, expected: (u64, u64)| {
            let mut settings = Settings::NONE;
            let limit = ShareLimit {
                events_per_s,
                burst,
            };
            limit.apply(&mut settings);
            assert_eq!(
                (settings.share_interval_ns, settings.share_burst_ns),
                expected,
                "{limit:?}"
            );
        };
        check(0, 0, (0, 0));
        check(0, 100, (0, 0));
        check(1000, 100, (1_000_000, 99_000_000));
        check(1000, 1, (1_000_000, 0));
        check(1000, 0, (1_000_000, 0));
        check(1, u32::MAX, (1_000_000_000, 4_294_967_294_000_000_000));
        check(u32::MAX, 10, (1, 9));
    }
}
