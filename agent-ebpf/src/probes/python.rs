//! Hooks: uprobes at the call of `PySys_Audit("pickle.find_class", "OO", module, name)` in every CPython, or at the
//! function's entry where the call was not found; and at the entry of the function behind `sys.audit`, by which unpicklers
//! announce that are written in Python. Records out: [`Pickle`].
//!
//! Which program an interpreter gets is for the agent, which reads its version from its file: a program a layout of
//! `str`. A process's memory says whatever the process likes, so nothing here trusts a length or a pointer, and what
//! cannot be read is reported as such: an unpickler that resolves something unreadable is news too.

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};
use aya_ebpf::macros::{map, uprobe};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::ProbeContext;
use core::hint::black_box;
use saker_ebpf::wire::python::{
    PICKLE_FAULT, PICKLE_MODULE_CUT, PICKLE_NAME_CUT, PICKLE_TEXT_BYTES_MAX, TEXT_ASCII,
    TEXT_UNKNOWN,
};
use saker_ebpf::wire::{Kind, Pickle};

use crate::emit::{self, Outcome};
use crate::kernel::{self, Address};
use crate::settings;

/// Globals that were reported, by process. One that others push out is reported again, which costs a record.
#[map]
static PICKLE_SEEN: LruHashMap<SeenKey, u8> = LruHashMap::with_max_entries(16384, 0);

/// What a process asked its unpickler for.
#[derive(Clone, Copy)]
#[repr(C)]
struct SeenKey {
    start_ns: u64,
    exec_id: u64,
    /// Two sums under secret seeds: a name that would hide behind another cannot be computed.
    digest: [u64; 2],
    tgid: u64,
}

/// Where CPython keeps a `str`'s parts (`PyASCIIObject` and `PyCompactUnicodeObject`).
struct Layout {
    /// The flags follow two words behind, in every one.
    length: u32,
    /// First byte of the text of a compact ASCII string.
    ascii: u32,
    /// First byte of the text of any other compact string.
    wide: u32,
    /// Where the three bits of `kind` start in `state`; the bits `compact` and `ascii` follow them.
    kind_shift: u32,
}

/// 3.8 to 3.11.
const WITH_WSTR: Layout = Layout {
    length: 16,
    ascii: 48,
    wide: 72,
    kind_shift: 2,
};
/// Since 3.12.
const WITHOUT_WSTR: Layout = Layout {
    length: 16,
    ascii: 40,
    wide: 56,
    kind_shift: 2,
};
/// 3.13 without the global lock.
const FREE_THREADED: Layout = Layout {
    length: 32,
    ascii: 56,
    wide: 72,
    kind_shift: 2,
};
/// 3.14 without the global lock.
const FREE_THREADED_WIDE_STATE: Layout = Layout {
    length: 32,
    ascii: 56,
    wide: 72,
    kind_shift: 8,
};

#[uprobe]
pub fn saker_pickle_wstr(ctx: ProbeContext) -> u32 {
    find_class(&ctx, &WITH_WSTR)
}

#[uprobe]
pub fn saker_pickle(ctx: ProbeContext) -> u32 {
    find_class(&ctx, &WITHOUT_WSTR)
}

#[uprobe]
pub fn saker_pickle_free(ctx: ProbeContext) -> u32 {
    find_class(&ctx, &FREE_THREADED)
}

#[uprobe]
pub fn saker_pickle_free_wide(ctx: ProbeContext) -> u32 {
    find_class(&ctx, &FREE_THREADED_WIDE_STATE)
}

#[uprobe]
pub fn saker_audit_wstr(ctx: ProbeContext) -> u32 {
    audit(&ctx, &WITH_WSTR)
}

#[uprobe]
pub fn saker_audit(ctx: ProbeContext) -> u32 {
    audit(&ctx, &WITHOUT_WSTR)
}

#[uprobe]
pub fn saker_audit_free(ctx: ProbeContext) -> u32 {
    audit(&ctx, &FREE_THREADED)
}

#[uprobe]
pub fn saker_audit_free_wide(ctx: ProbeContext) -> u32 {
    audit(&ctx, &FREE_THREADED_WIDE_STATE)
}

/// One of two functions, for all their callers: most are about something else. `int PySys_Audit(const char *event, const
/// char *format, ...)`, by which C announces, or the function behind `sys.audit`, by which Python does: its second argument is an
/// array of objects and its third their count.
#[inline(always)]
fn audit(ctx: &ProbeContext, layout: &Layout) -> u32 {
    let mut objects: [Address; 2] = [ctx.arg(2).unwrap_or(0), ctx.arg(3).unwrap_or(0)];
    if !is_find_class(ctx.arg(0).unwrap_or(0)) {
        if objects[0] != 3 {
            return 0;
        }
        let [event, module, name]: [Address; 3] = read_user(ctx.arg(1).unwrap_or(0));
        // The text of a `str` ends with a zero too.
        if !is_find_class(event.wrapping_add(u64::from(layout.ascii))) {
            return 0;
        }
        objects = [module, name];
    }
    resolved(ctx, objects[0], objects[1], layout)
}

/// Whether the name of the event stands at an address.
#[inline(always)]
fn is_find_class(address: Address) -> bool {
    let wanted = *b"pickle.find_class\0\0\0\0\0\0\0";
    let name: [u64; 3] = read_user(address);
    let mut at = 0;
    while at < 3 {
        let word = u64::from_le_bytes([
            wanted[at * 8],
            wanted[at * 8 + 1],
            wanted[at * 8 + 2],
            wanted[at * 8 + 3],
            wanted[at * 8 + 4],
            wanted[at * 8 + 5],
            wanted[at * 8 + 6],
            wanted[at * 8 + 7],
        ]);
        // Of the last word the name's last letter and its end count; something else follows them.
        let mask = if at == 2 { 0xffff } else { u64::MAX };
        if u64::from_le(name[at]) & mask != word {
            return false;
        }
        at += 1;
    }
    true
}

/// A `str` in the process's memory. Words, so that there is no padding between them.
#[derive(Clone, Copy)]
#[repr(C)]
struct Text {
    address: Address,
    /// Characters, as the object says.
    length: u64,
    /// One of `TEXT_*`.
    form: u64,
    /// Bytes that are read.
    bytes: u64,
    /// 1: there are more of them than are read.
    cut: u64,
}

impl Text {
    /// One of the words, as it is in memory: what the verifier has learned of it at one use is not carried to the next.
    #[inline(always)]
    fn word(word: &u64) -> u64 {
        // SAFETY: a reference is readable.
        unsafe { core::ptr::read_volatile(word) }
    }

    #[inline(always)]
    fn is_cut(&self) -> bool {
        Self::word(&self.cut) != 0
    }

    #[inline(always)]
    fn is_unknown(&self) -> bool {
        Self::word(&self.form) == u64::from(TEXT_UNKNOWN)
    }
}

/// Looks at a `str`. The many ways through this end in the same memory, which the verifier does not see into: without
/// that it would follow the rest of the program, both texts of it, once for each.
#[inline(always)]
fn text(object: Address, layout: &Layout) -> Text {
    // A read costs as much as all that is done with what it brings.
    let [length, _hash, state]: [u64; 3] = read_user(object.wrapping_add(u64::from(layout.length)));
    let state = state as u32;
    let kind = state >> layout.kind_shift & 7;
    let is_compact = state >> (layout.kind_shift + 3) & 1 != 0;
    let is_ascii = state >> (layout.kind_shift + 4) & 1 != 0;
    let is_known = is_compact && (kind == 1 || kind == 2 || kind == 4);
    let form = match (is_known, is_ascii) {
        (false, _) => TEXT_UNKNOWN,
        (true, true) => TEXT_ASCII,
        (true, false) => kind,
    };
    let data = if is_ascii { layout.ascii } else { layout.wide };
    // No overflow: whatever does not fit is cut, and a quarter of the largest number is far beyond that.
    let size = if length > PICKLE_TEXT_BYTES_MAX as u64 {
        PICKLE_TEXT_BYTES_MAX as u64 + 1
    } else {
        length * u64::from(kind)
    };
    let cut = size > PICKLE_TEXT_BYTES_MAX as u64;
    // Whole characters only.
    let bytes = match (cut, kind) {
        (false, _) => size,
        (true, 1) => PICKLE_TEXT_BYTES_MAX as u64,
        (true, 2) => PICKLE_TEXT_BYTES_MAX as u64 - 1,
        (true, _) => PICKLE_TEXT_BYTES_MAX as u64 - 3,
    };
    let found = Text {
        address: object.wrapping_add(u64::from(data)),
        length,
        form: u64::from(form),
        bytes: if is_known { bytes } else { 0 },
        cut: u64::from(cut && is_known),
    };
    // Not `kernel::read`, whose status is looked at: this cannot fail, being the program's own stack.
    let mut copy = core::mem::MaybeUninit::<Text>::uninit();
    // SAFETY: the helper fills all of `copy`, with words for which any value is one.
    unsafe {
        bpf_probe_read_kernel(
            copy.as_mut_ptr().cast(),
            size_of::<Text>() as u32,
            (&raw const found).cast(),
        );
        copy.assume_init()
    }
}

/// At `PySys_Audit("pickle.find_class", "OO", module, name)`.
#[inline(always)]
fn find_class(ctx: &ProbeContext, layout: &Layout) -> u32 {
    resolved(
        ctx,
        ctx.arg(2).unwrap_or(0),
        ctx.arg(3).unwrap_or(0),
        layout,
    )
}

/// Reports what an unpickler resolves, once for each process and program that it runs.
#[inline(always)]
fn resolved(ctx: &ProbeContext, module: Address, name: Address, layout: &Layout) -> u32 {
    let module = text(module, layout);
    let name = text(name, layout);
    let task = kernel::current_task();
    let mut digest = settings::seeds();
    digest_text(&mut digest, &module);
    digest_text(&mut digest, &name);
    let key = SeenKey {
        start_ns: kernel::start_ns(task),
        exec_id: kernel::exec_id(task),
        digest,
        tgid: u64::from(kernel::tgid(task)),
    };
    // Of what was cut the rest is not known, and may differ: always reported.
    let is_whole = !module.is_cut() && !name.is_cut() && !module.is_unknown() && !name.is_unknown();
    // SAFETY: the value is not looked at, only whether there is one.
    if is_whole && unsafe { PICKLE_SEEN.get(key) }.is_some() {
        emit::count(Kind::Pickle, Outcome::Filtered);
        return 0;
    }
    let moment = kernel::now();
    let Some(mut entry) = emit::reserve_half::<Pickle>(ctx, Kind::Pickle) else {
        return 0;
    };
    let pickle = entry.as_mut_ptr();
    // SAFETY: the ring gave room for a `Pickle`.
    unsafe {
        kernel::fill_header(
            &raw mut (*pickle).header,
            Kind::Pickle,
            size_of::<Pickle>() as u32,
            task,
            moment,
        );
        let module_len = read_text((&raw mut (*pickle).module).cast(), &module);
        let name_len = read_text((&raw mut (*pickle).name).cast(), &name);
        let mut flags = 0;
        if module.is_cut() {
            flags |= PICKLE_MODULE_CUT;
        }
        if name.is_cut() {
            flags |= PICKLE_NAME_CUT;
        }
        if u64::from(module_len) != Text::word(&module.bytes)
            || u64::from(name_len) != Text::word(&name.bytes)
            || module.is_unknown()
            || name.is_unknown()
        {
            flags |= PICKLE_FAULT;
        }
        (*pickle).module_len = module_len;
        (*pickle).name_len = name_len;
        (*pickle).module_form = Text::word(&module.form) as u32;
        (*pickle).name_form = Text::word(&name.form) as u32;
        (*pickle).flags = flags;
        (*pickle).reserved = 0;
    }
    emit::submit(Kind::Pickle, entry);
    if is_whole {
        // A full map drops its oldest entry; should it fail all the same, the global is reported again.
        let _ = PICKLE_SEEN.insert(key, 1, 0);
    }
    0
}

/// Reads a text into its area of the record; returns its bytes, 0 when they could not be read.
///
/// # Safety
/// `to` has room for `PICKLE_TEXT_BYTES_MAX` bytes.
#[inline(always)]
unsafe fn read_text(to: *mut u8, text: &Text) -> u32 {
    let bytes = Text::word(&text.bytes) as u32 & PICKLE_TEXT_BYTES_MAX as u32;
    // SAFETY: the caller vouches for `to`; the helper checks what it reads.
    let status = unsafe { bpf_probe_read_user(to.cast(), bytes, text.address as *const _) };
    if black_box(status) == 0 { bytes } else { 0 }
}

/// Bytes of a text that are looked at together.
const CHUNK_BYTES: usize = 64;

/// Mixes a text, its length and its form into both sums.
#[inline(always)]
fn digest_text(digest: &mut [u64; 2], text: &Text) {
    mix(
        digest,
        Text::word(&text.length) << 4 | Text::word(&text.form),
    );
    let mut done = 0;
    while done < PICKLE_TEXT_BYTES_MAX as u64 + 1 {
        let bytes = Text::word(&text.bytes);
        if done >= bytes {
            return;
        }
        let left = bytes - done;
        let mut chunk = zeros();
        let bytes = if left > CHUNK_BYTES as u64 {
            CHUNK_BYTES as u32
        } else {
            left as u32
        };
        // The largest chunk is a power of two, so one less is the mask, and one is added behind it.
        let bytes = (black_box(bytes - 1) & (CHUNK_BYTES as u32 - 1)) + 1;
        // SAFETY: the helper writes at most `bytes`, which `chunk` has.
        unsafe {
            bpf_probe_read_user(
                chunk.as_mut_ptr().cast(),
                bytes,
                text.address.wrapping_add(done) as *const _,
            );
        }
        // All of it, also the zeros behind a short text: a way out of this loop for each word would be a way for the verifier to
        // follow for each pair of lengths.
        let mut word = 0;
        while word < CHUNK_BYTES / 8 {
            mix(digest, chunk[word]);
            word += 1;
        }
        done += CHUNK_BYTES as u64;
    }
}

/// A chunk of zeros, word by word: the compiler's own way sets one byte after another.
#[inline(always)]
fn zeros() -> [u64; CHUNK_BYTES / 8] {
    let mut chunk = core::mem::MaybeUninit::<[u64; CHUNK_BYTES / 8]>::uninit();
    let words = chunk.as_mut_ptr().cast::<u64>();
    let mut word = 0;
    // SAFETY: each word is the chunk's, and all are written.
    unsafe {
        while word < CHUNK_BYTES / 8 {
            core::ptr::write_volatile(words.add(word), 0);
            word += 1;
        }
        chunk.assume_init()
    }
}

/// One step of two sums with different odd factors.
#[inline(always)]
fn mix(digest: &mut [u64; 2], value: u64) {
    let first = (digest[0] ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let second = (digest[1] ^ value).wrapping_mul(0xd6e8_feb8_6659_fd93);
    digest[0] = first ^ first >> 29 ^ digest[1] << 1;
    digest[1] = second ^ second >> 32 ^ first << 7;
}

/// Reads a `T` of the process's own memory; zeros when it cannot be read.
#[inline(always)]
fn read_user<T: Copy>(address: Address) -> T {
    let mut value = core::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: the helper writes at most `size_of::<T>()` bytes to `value`, and checks the source itself. `T` is used
    // only with integers and arrays of them, for which zeros are a value.
    unsafe {
        bpf_probe_read_user(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const _,
        );
        value.assume_init()
    }
}
