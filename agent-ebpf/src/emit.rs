//! Getting records out: the rings, and the counters that say what became of every event.
//!
//! A record goes into the ring of its kind, one that can be shed only where its cgroup has room in its share.
//! The order matters to the counts: `passed` before the attempt to write, `submitted` or a loss after it.
//!
//! To wake the agent costs whoever does what is seen more than all the rest. While records come thick and fast the agent says so
//! in [`AWAKE`], looks into the rings every millisecond, and is not woken for what comes in crowds: what can be shed, the globals
//! of a model, forks and ends of processes, and starts of what was started a moment ago. When it is about to sleep it takes that
//! back and looks once more; here the ring is written first and `AWAKE` read after it. So one of the two sees the other.

use core::arch::asm;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_RING_SIZE,
};
use aya_ebpf::helpers::generated::{bpf_ringbuf_output, bpf_ringbuf_query};
use aya_ebpf::maps::RingBuf;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_log_ebpf::warn;
use saker_ebpf::wire::{Counters, Kind};

use crate::maps::{AWAKE, COUNTERS, EVENTS, SHEDDABLE};
use crate::share;

/// What became of an event.
#[derive(Clone, Copy)]
pub enum Outcome {
    Passed,
    Filtered,
    Submitted,
    RingFull,
    TooBig,
    MapFull,
    ReadFault,
    OverShare,
}

/// Counts an event of this kind.
#[inline(always)]
pub fn count(kind: Kind, outcome: Outcome) {
    let Some(counter) = counter(kind, outcome) else {
        return;
    };
    // Atomic although per CPU: a program can be preempted on its CPU by another task that counts the same.
    // SAFETY: `counter` points to an aligned u64 of the map.
    unsafe { add(counter, 1) };
}

/// Likewise by a program that runs where nothing can take its CPU from it that counts the same: at a tracepoint. It costs a fifth.
#[inline(always)]
pub fn count_alone(kind: Kind, outcome: Outcome) {
    let Some(counter) = counter(kind, outcome) else {
        return;
    };
    // SAFETY: `counter` points to an aligned u64 of the map.
    unsafe { *counter += 1 };
}

#[inline(always)]
fn counter(kind: Kind, outcome: Outcome) -> Option<*mut u64> {
    let counters = COUNTERS.get_ptr_mut(kind as u32)?;
    // SAFETY: the map's value is a `Counters`, 8-byte aligned, and valid while the program runs.
    unsafe {
        let Counters {
            passed,
            filtered,
            submitted,
            lost_ring_full,
            lost_too_big,
            lost_map_full,
            lost_read_fault,
            lost_over_share,
        } = &mut *counters;
        Some(core::ptr::from_mut(match outcome {
            Outcome::Passed => passed,
            Outcome::Filtered => filtered,
            Outcome::Submitted => submitted,
            Outcome::RingFull => lost_ring_full,
            Outcome::TooBig => lost_too_big,
            Outcome::MapFull => lost_map_full,
            Outcome::ReadFault => lost_read_fault,
            Outcome::OverShare => lost_over_share,
        }))
    }
}

/// Adds at once, whoever else does the same. By hand, because the target has no atomics in `core`; this form has been in
/// every kernel with BPF.
///
/// # Safety
/// `to` points to an aligned u64 of a map's value, and the verifier knows.
#[inline(always)]
pub unsafe fn add(to: *mut u64, more: u64) {
    // SAFETY: the caller vouches for `to`.
    unsafe {
        asm!(
            "lock *(u64 *)({to} + 0) += {more}",
            to = in(reg) to,
            more = in(reg) more,
            options(nostack),
        );
    }
}

/// Counts a loss, and says so in the kernel log when that is on.
#[inline(always)]
pub fn lose(ctx: &impl EbpfContext, kind: Kind, outcome: Outcome) {
    count(kind, outcome);
    warn!(ctx, "lost an event of kind {}", kind as u32);
}

/// Room in the ring for a record of fixed size that must not be lost, to be built in place. `None` is counted as lost.
#[inline(always)]
pub fn reserve<T: 'static>(ctx: &impl EbpfContext, kind: Kind) -> Option<RingBufEntry<T>> {
    count(kind, Outcome::Passed);
    room(ctx, kind, &EVENTS)
}

/// Likewise for a record that can be shed, where that cgroup has room in its share at that moment.
#[inline(always)]
pub fn reserve_share<T: 'static>(
    ctx: &impl EbpfContext,
    kind: Kind,
    cgroup_id: u64,
    moment: u64,
) -> Option<RingBufEntry<T>> {
    count(kind, Outcome::Passed);
    if !share::admits_at(kind, cgroup_id, moment) {
        return None;
    }
    room(ctx, kind, &SHEDDABLE)
}

/// Likewise for a record that must not be lost and that whoever owns a cgroup can cause any number of: where that cgroup has room
/// in its share, and in the half of the ring that is not kept for all others.
#[inline(always)]
pub fn reserve_half_of_share<T: 'static>(
    ctx: &impl EbpfContext,
    kind: Kind,
    cgroup_id: u64,
) -> Option<RingBufEntry<T>> {
    if !share::admits(kind, cgroup_id) {
        count(kind, Outcome::Passed);
        return None;
    }
    reserve_half(ctx, kind)
}

/// Likewise for a record that a file can cause any number of: in the half of the ring that is not kept for the starts and ends of
/// processes.
#[inline(always)]
pub fn reserve_half<T: 'static>(ctx: &impl EbpfContext, kind: Kind) -> Option<RingBufEntry<T>> {
    count(kind, Outcome::Passed);
    let ring = (&raw const EVENTS).cast_mut().cast();
    // SAFETY: the map is a ring buffer; the helper only looks.
    let (used, size) = unsafe {
        (
            bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA.into()),
            bpf_ringbuf_query(ring, BPF_RB_RING_SIZE.into()),
        )
    };
    if used > size / 2 {
        lose(ctx, kind, Outcome::RingFull);
        return None;
    }
    room(ctx, kind, &EVENTS)
}

#[inline(always)]
fn room<T: 'static>(ctx: &impl EbpfContext, kind: Kind, ring: &RingBuf) -> Option<RingBufEntry<T>> {
    let entry = ring.reserve::<T>(0);
    if entry.is_none() {
        lose(ctx, kind, Outcome::RingFull);
    }
    entry
}

/// Hands over a record that was built in place.
#[inline(always)]
pub fn submit<T>(kind: Kind, entry: RingBufEntry<T>) {
    let flags = Haste::of(kind).flags();
    entry.submit(flags);
    count(kind, Outcome::Submitted);
    wake(flags);
}

/// When the agent should see a record.
#[derive(Clone, Copy)]
pub enum Haste {
    /// When it comes by itself, if it does.
    None,
    /// As the kernel thinks: at once where all before it was read.
    Some,
    /// At once. Without being told the kernel would leave that out behind a record that was handed over quietly and has not been read.
    Most,
}

impl Haste {
    /// What comes in crowds wakes nobody.
    #[inline(always)]
    fn of(kind: Kind) -> Self {
        if kind.is_sheddable() || matches!(kind, Kind::Pickle | Kind::Fork | Kind::Exit) {
            Self::None
        } else {
            Self::Some
        }
    }

    #[inline(always)]
    fn flags(self) -> u64 {
        match self {
            Self::None if is_awake() => BPF_RB_NO_WAKEUP.into(),
            Self::Most if is_awake() => BPF_RB_FORCE_WAKEUP.into(),
            _ => 0,
        }
    }
}

/// Wakes the agent if it went to sleep while a record was handed over quietly.
#[inline(always)]
fn wake(flags: u64) {
    if flags != u64::from(BPF_RB_NO_WAKEUP) || is_awake() {
        return;
    }
    // A full ring is one that the agent has yet to look into.
    if let Some(nothing) = SHEDDABLE.reserve::<u64>(0) {
        nothing.discard(BPF_RB_FORCE_WAKEUP.into());
    }
}

#[inline(always)]
fn is_awake() -> bool {
    let Some(awake) = AWAKE.get_ptr(0) else {
        return false;
    };
    // SAFETY: the map's value; volatile, because the agent changes it.
    unsafe { core::ptr::read_volatile(awake) != 0 }
}

/// Copies a record of any size to its ring. `passed` was counted when its building started, and one of a kind that can be shed
/// was admitted then.
///
/// # Safety
/// `record` points to at least `size` readable bytes, and the verifier knows.
#[inline(always)]
pub unsafe fn output(ctx: &impl EbpfContext, kind: Kind, record: *const u8, size: u64) {
    // SAFETY: the caller vouches for the record.
    unsafe { output_in(ctx, kind, record, size, Haste::of(kind)) };
}

/// As [`output`], in such haste.
///
/// # Safety
/// As [`output`].
#[inline(always)]
pub unsafe fn output_in(
    ctx: &impl EbpfContext,
    kind: Kind,
    record: *const u8,
    size: u64,
    haste: Haste,
) {
    let ring = if kind.is_sheddable() {
        &raw const SHEDDABLE
    } else {
        &raw const EVENTS
    };
    let flags = haste.flags();
    // SAFETY: the map is a ring buffer; the caller vouches for the record.
    let status = unsafe {
        bpf_ringbuf_output(
            ring.cast_mut().cast(),
            record.cast_mut().cast(),
            size,
            flags,
        )
    };
    if status == 0 {
        count(kind, Outcome::Submitted);
        wake(flags);
    } else {
        lose(ctx, kind, Outcome::RingFull);
    }
}
