//! What is kept of a cgroup's share of the rings: key and value of a map of the kernel programs, which the
//! agent reads to say whose events were left out.

/// Whose share, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct ShareKey {
    /// Id of the cgroup in the v2 hierarchy, as in [`super::Header`].
    pub cgroup_id: u64,
    /// `SHARE_OF_*`
    pub part: u64,
}

/// What the cgroup's own processes do.
pub const SHARE_OF_ACTS: u64 = 0;
/// What comes to it from outside. Apart, or whoever can send to it could have its own acts left out.
pub const SHARE_OF_PACKETS: u64 = 1;
/// The cgroups that are made directly in it, by whomever: see [`CGROUP_WEIGHT`].
pub const SHARE_OF_CGROUPS: u64 = 2;

/// As many events of its parent's share a new cgroup takes. Its record is long, and goes into the ring that must not lose; a
/// node makes a few of them a second, so that a share for events would be none for them.
pub const CGROUP_WEIGHT: u64 = 64;

/// How much of it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Share {
    /// Up to when it is used up, nanoseconds of `CLOCK_BOOTTIME`: each event moves it on by what it takes, and while it lies
    /// in the future there is no room for another.
    pub used_until_ns: u64,
    /// Events that found no room.
    pub left_out: u64,
}

/// Most shares that are kept; the least used is forgotten first, and begins anew.
pub const SHARES_MAX: u32 = 8192;
