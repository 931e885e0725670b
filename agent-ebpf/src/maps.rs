//! Every map, and why it has its size.

use core::hint::black_box;

use crate::kernel::Walk;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use saker_ebpf::config::DeviceTable;
use saker_ebpf::extension::EXTENSIONS_MAX;
use saker_ebpf::plain::{PLAIN_WORDS, is_plain};
use saker_ebpf::wire::{
    ARGV_BYTES_MAX, COUNTER_SLOTS, Counters, ENV_BYTES_MAX, Exec, Open, PATH_BYTES_MAX,
};

/// Records on their way to the agent, of kinds that must not be lost. The loader sets the size; this one only has to be valid.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 16, 0);

/// Likewise, of kinds that can be shed: a flood of those leaves the room of the others alone.
#[map]
pub static SHEDDABLE: RingBuf = RingBuf::with_byte_size(1 << 16, 0);

/// Not 0 while the agent comes by itself to look into the rings: then what comes in crowds has to wake nobody.
#[map]
pub static AWAKE: Array<u32> = Array::with_max_entries(1, 0);

/// [`Counters`] by kind.
#[map]
pub static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(COUNTER_SLOTS, 0);

/// The devices to report, one entry.
#[map]
pub static DEVICES: Array<DeviceTable> = Array::with_max_entries(1, 0);

/// Where an exec record is put together. A record is as long as its text, and `reserve` wants a constant: reserving
/// the longest possible for each would fill the ring with air. So the record is built here and copied once, at its
/// real length. Only the exec program uses it, and the kernel does not run a program twice at once on one CPU.
#[map]
pub static EXEC_SCRATCH: PerCpuArray<ExecScratch> = PerCpuArray::with_max_entries(1, 0);

/// Where an open record is put together, at the end of the call: a place for each program that another can interrupt.
#[map]
pub static OPEN_SCRATCH: PerCpuArray<OpenScratch> =
    PerCpuArray::with_max_entries(OPEN_SCRATCHES, 0);

/// Entries of [`OPEN_SCRATCH`].
pub const OPEN_SCRATCHES: u32 = 11;

/// Opens between entry and end, by thread, on kernels where the end cannot ask for the call's arguments; the loader
/// shrinks the map elsewhere. A program with many threads that wait in an open (of a pipe, say) must not take the room
/// of all others. Allocated ahead: until 6.1 the kernel warns, with a stack trace, of tracing programs that allocate.
#[map]
pub static OPEN_PENDING: HashMap<u64, OpenCall> = HashMap::with_max_entries(32768, 0);

/// Opens that rings were asked for, by their request, with the path: the kernel lets go of its copy before the request completes.
/// One that finds no room is reported as an attempt, at once.
#[map]
pub static URING_OPENS: HashMap<u64, UringOpen> = HashMap::with_max_entries(256, 0);

/// Where an entry of [`URING_OPENS`] is put together. One program does that, and no other interrupts it to do the same.
#[map]
pub static URING_SCRATCH: PerCpuArray<UringOpen> = PerCpuArray::with_max_entries(1, 0);

/// Extensions of file names whose opens are wanted; the value says which of them, in the bits of [`saker_ebpf::extension`].
#[map]
pub static OPEN_EXTENSIONS: HashMap<[u64; 2], u8> = HashMap::with_max_entries(EXTENSIONS_MAX, 0);

/// Connects between entry and end, by thread, when the tracepoints stand in for the cgroup hooks.
#[map]
pub static CONNECT_PENDING: HashMap<u64, ConnectPending> = HashMap::with_max_entries(8192, 0);

/// Bytes that the text of an exec record may start within; a power of two, so that a mask bounds an offset.
pub const EXEC_TEXT_BYTES: usize = 16384;
/// Room behind the last possible start, for the longest single text.
const EXEC_SLACK_BYTES: usize = 4096;

/// Words of the longest piece of a variable that is read at once, with its NUL.
pub const VARIABLE_WORDS: usize = (PATH_BYTES_MAX + 1) / 8;

/// An exec record, and the path that is being walked for it.
#[repr(C)]
pub struct ExecScratch {
    pub exec: Exec,
    pub text: [u8; EXEC_TEXT_BYTES + EXEC_SLACK_BYTES],
    pub walk: Walk,
    pub env: EnvScan,
    /// A string of the environment, before it is known whether it is wanted.
    pub variable: [u64; VARIABLE_WORDS],
    /// Bytes of `text` in use.
    pub used: u32,
    /// The record's `EXEC_*` bits so far.
    pub flags: u32,
}

/// Where the search through an environment stands. In the map, for the same reason as [`Walk`]'s state.
#[repr(C)]
pub struct EnvScan {
    /// The next string; behind `end` when there is nothing more to look at.
    pub address: u64,
    /// Behind the last one.
    pub end: u64,
    /// Bytes of the text that are variables.
    pub env_len: u32,
    /// 1: `address` is in the middle of a long string.
    pub is_inside: u32,
}

/// Bytes that the text of an open record may start within; a power of two, so that a mask bounds an offset.
pub const OPEN_TEXT_BYTES: usize = PATH_BYTES_MAX + 1;

/// An open record, and the path that is being walked for it.
#[repr(C)]
pub struct OpenScratch {
    pub open: Open,
    pub text: [u8; 2 * OPEN_TEXT_BYTES],
    /// What reading the path as passed gave: its bytes with the NUL, or an error.
    pub read_status: i64,
    pub walk: Walk,
}

impl OpenScratch {
    /// Bytes of the path as passed.
    #[inline(always)]
    pub fn path_len(&self) -> u32 {
        // SAFETY: a field of `self`; volatile, so that the verifier sees the bound where it is set.
        let status = unsafe { core::ptr::read_volatile(&raw const self.read_status) };
        if status <= 0 {
            return 0;
        }
        (status as u32 - 1) & PATH_BYTES_MAX as u32
    }

    /// The first bytes of the path as passed.
    #[inline(always)]
    pub fn beginning(&self) -> [u64; 4] {
        #[expect(clippy::cast_ptr_alignment, reason = "the alignment is asserted below")]
        let start = (&raw const self.text).cast::<[u64; 4]>();
        // SAFETY: within `text`.
        unsafe { start.read() }
    }

    /// Leaves nothing of another path behind the one that is to be read, as far as [`Self::is_plain`] looks.
    #[inline(always)]
    pub fn clear(&mut self) {
        #[expect(clippy::cast_ptr_alignment, reason = "the alignment is asserted below")]
        let words = (&raw mut self.text).cast::<u64>();
        let mut at = 0;
        while at < PLAIN_WORDS {
            // SAFETY: within `text`, which is longer; volatile, or it becomes a call of a function that is not there.
            unsafe { words.add(at).write_volatile(0) };
            at += 1;
        }
    }

    /// Does the path as passed begin as it does for rules, once they have made it plain?
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        #[expect(clippy::cast_ptr_alignment, reason = "the alignment is asserted below")]
        let words = (&raw const self.text).cast::<u64>();
        // SAFETY: as above.
        let word = |at: usize| unsafe { words.add(at).read_volatile() };
        is_plain(word, black_box(self.path_len()))
    }
}

/// What a call was given.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct OpenCall {
    /// Where the caller keeps the path.
    pub path: u64,
    pub open_flags: u64,
    pub resolve: u64,
    pub mode: u32,
    pub dfd: i32,
    pub syscall: u32,
    pub flags: u32,
}

/// An open that a ring was asked for.
#[repr(C)]
pub struct UringOpen {
    pub call: OpenCall,
    /// Not 0: where in the ring's own table it goes, so that it gets no descriptor.
    pub slot: u32,
    pub reserved: u32,
    /// What reading the path gave: its bytes with the NUL, or an error.
    pub read_status: i64,
    pub path: [u8; OPEN_TEXT_BYTES],
}

/// The fields of a connect that only its entry knows.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ConnectPending {
    /// Where the caller keeps the address.
    pub given: u64,
    pub address: [u8; 16],
    /// 0: it could not be read yet.
    pub family: u16,
    pub port: u16,
    pub reserved: u32,
}

const _: () = {
    assert!(
        size_of::<Exec>() + 3 * PATH_BYTES_MAX + ARGV_BYTES_MAX + ENV_BYTES_MAX < EXEC_TEXT_BYTES
    );
    // The kernel allows no larger value in a per-CPU map.
    assert!(size_of::<ExecScratch>() <= 32 * 1024);
    // The path's start is compared by words.
    assert!(core::mem::offset_of!(OpenScratch, text) % 8 == 0);
};
