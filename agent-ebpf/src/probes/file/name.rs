//! Is a file name one that somebody wants? By its extension, in one look-up, and none for a name without.

use core::hint::black_box;

use saker_ebpf::extension::{EXTENSION_BYTES, key_of_tail};
use saker_ebpf::wire::PATH_BYTES_MAX;

use crate::kernel::{self, Address};
use crate::maps::{OPEN_EXTENSIONS, OpenScratch};

/// Does the opened file's name end in a wanted extension?
#[inline(always)]
pub fn is_wanted(dentry: Address) -> bool {
    let (name, length) = kernel::name(dentry);
    is_extension_wanted(kernel::tail(name, length), length)
}

/// Does the path as passed end in a wanted extension?
///
/// # Safety
/// `scratch` is the value of [`crate::maps::OPEN_SCRATCH`], and its path was read.
#[inline(always)]
pub unsafe fn is_tail_wanted(scratch: *mut OpenScratch) -> bool {
    // SAFETY: `from` is below the size of `text`, whose slack is longer than a tail.
    unsafe {
        let length = (*scratch).path_len();
        let text = (&raw const (*scratch).text).cast::<u8>();
        if length < EXTENSION_BYTES as u32 {
            // Moved, so that it ends where a longer one does.
            let [low, high] = text.cast::<[u64; 2]>().read_unaligned();
            return is_extension_wanted(moved(low, high, length), length);
        }
        let from = black_box(length - EXTENSION_BYTES as u32) as usize & PATH_BYTES_MAX;
        let tail = text.add(from).cast::<[u64; 2]>().read_unaligned();
        is_extension_wanted(tail, length)
    }
}

/// The first `length` bytes of two words, less than both have, as their last.
#[inline(always)]
fn moved(low: u64, high: u64, length: u32) -> [u64; 2] {
    if length == 0 {
        return [0; 2];
    }
    if length <= 8 {
        return [0, low << (64 - 8 * length)];
    }
    // By 8 to 56 bits, so that the shift the other way is by less than all 64.
    let shift = 8 * (16 - length);
    [low << shift, (high << shift) | (low >> (64 - shift))]
}

#[inline(always)]
fn is_extension_wanted(tail: [u64; 2], length: u32) -> bool {
    let Some(key) = key_of_tail(tail, length) else {
        return false;
    };
    // SAFETY: the value is not looked at, only whether there is one.
    unsafe { OPEN_EXTENSIONS.get(key).is_some() }
}
