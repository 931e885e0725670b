//! Getting records out: the ring, and the counters that say what became of every event.
//!
//! The order matters to the counts: `passed` before the attempt to write, `submitted` or a loss after it.

use core::arch::asm;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_ringbuf_output;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_log_ebpf::warn;
use saker_ebpf::wire::{Counters, Kind};

use crate::maps::{COUNTERS, EVENTS};

/// What became of an event.
#[derive(Clone, Copy)]
pub enum Outcome {
    Passed,
    Filtered,
    Submitted,
    RingFull,
    TooBig,
    MapFull,
}

/// Counts an event of this kind.
#[inline(always)]
pub fn count(kind: Kind, outcome: Outcome) {
    let Some(counters) = COUNTERS.get_ptr_mut(kind as u32) else {
        return;
    };
    // SAFETY: the map's value is a `Counters`, 8-byte aligned, and valid while the program runs.
    let counter = unsafe {
        let Counters {
            passed,
            filtered,
            submitted,
            lost_ring_full,
            lost_too_big,
            lost_map_full,
            lost_read_fault: _,
        } = &mut *counters;
        core::ptr::from_mut(match outcome {
            Outcome::Passed => passed,
            Outcome::Filtered => filtered,
            Outcome::Submitted => submitted,
            Outcome::RingFull => lost_ring_full,
            Outcome::TooBig => lost_too_big,
            Outcome::MapFull => lost_map_full,
        })
    };
    // Atomic although per CPU: a program can be preempted on its CPU by another task that counts the same. By hand,
    // because the target has no atomics in `core`; this form has been in every kernel with BPF.
    // SAFETY: `counter` points to an aligned u64 of the map.
    unsafe {
        asm!(
            "lock *(u64 *)({counter} + 0) += {one}",
            counter = in(reg) counter,
            one = in(reg) 1u64,
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

/// Room in the ring for a record of fixed size, to be built in place. `None` is counted as lost.
#[inline(always)]
pub fn reserve<T: 'static>(ctx: &impl EbpfContext, kind: Kind) -> Option<RingBufEntry<T>> {
    count(kind, Outcome::Passed);
    let entry = EVENTS.reserve::<T>(0);
    if entry.is_none() {
        lose(ctx, kind, Outcome::RingFull);
    }
    entry
}

/// Hands over a record that was built in place.
#[inline(always)]
pub fn submit<T>(kind: Kind, entry: RingBufEntry<T>) {
    entry.submit(0);
    count(kind, Outcome::Submitted);
}

/// Copies a record of any size to the ring. `passed` was counted when its building started.
///
/// # Safety
/// `record` points to at least `size` readable bytes, and the verifier knows.
#[inline(always)]
pub unsafe fn output(ctx: &impl EbpfContext, kind: Kind, record: *const u8, size: u64) {
    // SAFETY: the map is a ring buffer; the caller vouches for the record.
    let status = unsafe {
        bpf_ringbuf_output(
            (&raw const EVENTS).cast_mut().cast(),
            record.cast_mut().cast(),
            size,
            0,
        )
    };
    if status == 0 {
        count(kind, Outcome::Submitted);
    } else {
        lose(ctx, kind, Outcome::RingFull);
    }
}
