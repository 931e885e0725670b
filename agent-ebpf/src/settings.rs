//! The globals that the agent fills, what rules want among them, and the numbers that it puts into instructions; how programs read them.
//!
//! Reads are volatile, a field at a time: the compiler must not fold the values it sees at build time, and the
//! structs are too large to copy to the stack.

use core::arch::asm;
use core::hint::{assert_unchecked, black_box};

use aya_ebpf::Global;
use saker_ebpf::config::{
    ABSENT, CAST_TYPE, DEVICE_RANGES_MAX, ENV_NAMES_MAX, First, NUMBER_MARK, OPEN_BY_EXTENSION,
    OPEN_BY_RESOLVED, OPEN_PREFIXES_MAX, OpenPrefix, Settings, Turns, Wanted,
};
use saker_ebpf::extension::{ENDS_WORDS, Ends};
use saker_ebpf::wire::Kind;

use crate::maps::DEVICES;
use crate::opaque::opaque;

#[unsafe(no_mangle)]
static SAKER_SETTINGS: Global<Settings> = Global::new(Settings::NONE);

// What the agent writes while programs run. Globals and no maps, because their places are known: looking up the first was 6 ns of 65 for an open that
// nobody wants.

/// What most opens are decided by.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.first")]
static mut SAKER_FIRST: First = First::NONE;

/// What the rules want.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.wanted")]
static mut SAKER_WANTED: Turns = Turns::NONE;

/// Odd where nothing but its name decides whether an opened file is wanted, and no wanted name of two bytes or more ends with the last two bytes of `tail`; else even.
#[inline(always)]
pub fn is_unwanted_end(tail: u64) -> u64 {
    let (word, bit) = Ends::place(tail);
    // SAFETY: volatile, because the agent changes it; `word` is within, and the verifier sees why.
    let (by_name_alone, word) = unsafe {
        let words = (&raw const SAKER_FIRST.ends).cast::<u64>();
        (
            core::ptr::read_volatile(&raw const SAKER_FIRST.by_name_alone),
            core::ptr::read_volatile(words.add(opaque(word as u64) as usize & (ENDS_WORDS - 1))),
        )
    };
    by_name_alone & !(word >> bit)
}

/// A number that the loader puts into the instruction, by what stands behind [`NUMBER_MARK`] in its place.
#[inline(always)]
pub fn number<const WHICH: u32>() -> u32 {
    let number: u64;
    // SAFETY: sets a register, to what the loader lets through. That it is said keeps everybody from cutting the number down to what it is.
    unsafe {
        asm!(
            "{number} = {mark}",
            number = out(reg) number,
            mark = const NUMBER_MARK + WHICH,
            options(nomem, nostack),
        );
        assert_unchecked(number <= ABSENT as u64);
    }
    number as u32
}

/// Offset of a kernel struct field by its key in `saker_ebpf::config::Offsets`.
macro_rules! offset {
    ($key:ident) => {
        $crate::settings::number::<
            {
                (core::mem::offset_of!(saker_ebpf::config::Offsets, $key) / size_of::<u32>()) as u32
            },
        >()
    };
}
pub(crate) use offset;

/// Is the field there on this kernel? Required fields need no asking: the loader attaches nothing without them.
#[inline(always)]
pub fn present(offset: u32) -> bool {
    offset != ABSENT
}

fn settings() -> *const Settings {
    (&raw const SAKER_SETTINGS).cast()
}

/// Is this the agent's own process?
#[inline(always)]
pub fn is_own(tgid: u32) -> bool {
    // SAFETY: a `repr(transparent)` global, initialised and never written after load.
    let own = unsafe { core::ptr::read_volatile(&raw const (*settings()).own_tgid) };
    own != 0 && own == tgid
}

/// What rules want, as it is while one event is looked at: found once, so that what is asked of it fits together.
#[derive(Clone, Copy)]
pub struct Now(*const Wanted);

/// What rules want now.
#[inline(always)]
pub fn now() -> Now {
    // SAFETY: volatile, because the agent changes it. `opaque`, or the compiler makes two ways of it.
    unsafe {
        let turn = core::ptr::read_volatile(&raw const SAKER_WANTED.turn);
        let wanted = (&raw const SAKER_WANTED.wanted).cast::<Wanted>();
        Now(wanted.add(opaque(u64::from(turn & 1)) as usize))
    }
}

/// Where `css_set` has the state of a controller of the v1 hierarchy that stands in for v2, and that hierarchy's number; [`ABSENT`]
/// and 0 for none.
#[inline(always)]
pub fn v1() -> (u32, u32) {
    // SAFETY: as above.
    unsafe {
        (
            core::ptr::read_volatile(&raw const (*settings()).v1_state),
            core::ptr::read_volatile(&raw const (*settings()).v1_hierarchy),
        )
    }
}

/// What an event takes of a cgroup's share, 0 where there are no shares, and how much can be saved; nanoseconds.
#[inline(always)]
pub fn share() -> (u64, u64) {
    // SAFETY: as above.
    unsafe {
        (
            core::ptr::read_volatile(&raw const (*settings()).share_interval_ns),
            core::ptr::read_volatile(&raw const (*settings()).share_burst_ns),
        )
    }
}

/// The kernel type that any address may be read as; 0 where reads go through a helper.
#[inline(always)]
pub fn cast_type() -> u32 {
    number::<CAST_TYPE>()
}

/// The root cgroup.
#[inline(always)]
pub fn root_cgroup_id() -> u64 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const (*settings()).root_cgroup_id) }
}

/// The loader's random numbers.
#[inline(always)]
pub fn seeds() -> [u64; 2] {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const (*settings()).seeds) }
}

/// Are new threads reported?
#[inline(always)]
pub fn report_threads() -> bool {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const (*settings()).report_threads) != 0 }
}

/// Does the loader want this device?
#[inline(always)]
pub fn wants_device(node: u32, major: u32, minor: u32) -> bool {
    let Some(table) = DEVICES.get(0) else {
        return false;
    };
    let mut at = 0;
    while at < DEVICE_RANGES_MAX {
        if at >= table.len as usize {
            return false;
        }
        // SAFETY: `at` is within the array; the verifier checks the map's bound.
        let range = unsafe { table.ranges.get_unchecked(at) };
        if range.major == major
            && range.node == node
            && range.minor_first <= minor
            && range.minor_last >= minor
        {
            return true;
        }
        at += 1;
    }
    false
}

/// Can variables of the environment be asked for?
#[inline(always)]
pub fn wants_env() -> bool {
    env_slots() != 0
}

#[inline(always)]
fn env_slots() -> usize {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const (*settings()).env_slots) as usize }
}

impl Now {
    /// Are events of this kind wanted?
    #[inline(always)]
    pub fn wants(self, kind: Kind) -> bool {
        // SAFETY: a map's value, which stays.
        let kinds = unsafe { core::ptr::read_volatile(&raw const (*self.0).kinds) };
        kinds & 1 << kind as u32 != 0
    }

    /// Are paths compared as the kernel resolved them?
    #[inline(always)]
    pub fn opens_by_resolved(self) -> bool {
        self.open_filter() & OPEN_BY_RESOLVED != 0
    }

    /// Are file names looked up by their extension?
    #[inline(always)]
    pub fn opens_by_extension(self) -> bool {
        self.open_filter() & OPEN_BY_EXTENSION != 0
    }

    #[inline(always)]
    fn open_filter(self) -> u32 {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).open_filter) }
    }

    /// Is any variable of the environment asked for?
    #[inline(always)]
    pub fn wants_env(self) -> bool {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).env_len) != 0 }
    }

    /// Is any prefix wanted?
    #[inline(always)]
    pub fn has_prefixes(self) -> bool {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).prefixes_len) != 0 }
    }

    /// Is the empty prefix wanted? It stands alone: it covers all others.
    #[inline(always)]
    pub fn wants_every_path(self) -> bool {
        // SAFETY: as above.
        unsafe {
            let first = (&raw const (*self.0).prefixes).cast::<OpenPrefix>();
            self.has_prefixes() && core::ptr::read_volatile(&raw const (*first).mask[0]) == 0
        }
    }

    /// Does a path with this start match a wanted prefix?
    #[inline(always)]
    pub fn wants_path(self, start: &[u64; 4]) -> bool {
        // SAFETY: as above; `at` stays within the array.
        unsafe {
            let len = core::ptr::read_volatile(&raw const (*self.0).prefixes_len) as usize;
            let first = (&raw const (*self.0).prefixes).cast::<OpenPrefix>();
            let mut at = 0;
            while at < OPEN_PREFIXES_MAX {
                if at >= len {
                    return false;
                }
                let prefix = first.add(at);
                let mask = core::ptr::read_volatile(&raw const (*prefix).mask);
                let value = core::ptr::read_volatile(&raw const (*prefix).value);
                if (OpenPrefix { mask, value }).matches(start) {
                    return true;
                }
                at += 1;
            }
            false
        }
    }

    /// 1 where a variable with this start is asked for, else 0.
    #[inline(always)]
    pub fn wanted_variable(self, start: &[u64; 4]) -> u64 {
        let slots = env_slots();
        // SAFETY: as above; `at` stays within the array.
        unsafe {
            let first = (&raw const (*self.0).env).cast::<OpenPrefix>();
            // Without a branch for each name: this runs for every string of an environment, and the verifier would follow
            // each of them from each. So as many are compared as the loader has made room for, which is a constant.
            let mut found = 0;
            let mut at = 0;
            while at < ENV_NAMES_MAX {
                if at >= slots {
                    break;
                }
                let name = first.add(at);
                let mask = core::ptr::read_volatile(&raw const (*name).mask);
                let value = core::ptr::read_volatile(&raw const (*name).value);
                let difference = (OpenPrefix { mask, value }).difference(start);
                // The uppermost bit of this is 0 for 0 alone. `black_box`, or the compiler makes a branch of it.
                found |= !black_box(difference | difference.wrapping_neg()) >> 63;
                at += 1;
            }
            found
        }
    }
}
