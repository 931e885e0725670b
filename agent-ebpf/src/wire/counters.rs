//! What the kernel programs count, per kind and CPU.

use super::Kind;

/// Counts of one kind on one CPU, all in events, all since load.
///
/// `seen = filtered + passed`, and once the programs are detached `passed = submitted + every lost_*`. `passed` is
/// counted before the attempt to write and the others after it, so the second line is a real check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Wanted: got past every filter.
    pub passed: u64,
    /// Dropped because the settings say that nobody wants it.
    pub filtered: u64,
    /// Written into the ring.
    pub submitted: u64,
    /// Lost: the ring had no room.
    pub lost_ring_full: u64,
    /// Lost: the record did not fit its buffer.
    pub lost_too_big: u64,
    /// Lost: no room in the map that carries a call from its entry to its end.
    pub lost_map_full: u64,
    /// Lost: the memory that says what happened could not be read.
    pub lost_read_fault: u64,
    /// Lost: its cgroup had more than its share of the ring of what can be shed.
    pub lost_over_share: u64,
}

/// Slots of the counters map: a kind counts in the slot of its number, slot 0 is unused.
pub const COUNTER_SLOTS: u32 = Kind::ALL.len() as u32 + 1;
