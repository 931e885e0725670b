//! Is a file name one that somebody wants? Nearly every name is not by its last two bytes; of others the extension is looked up, or all of it where it has
//! none. Only names under whose extension some are wanted and some not are looked at further.

use core::hint::black_box;

use saker_ebpf::extension::{
    EXTENSION_BYTES, EXTENSION_OF_ALL, EXTENSION_OF_MODULE, EXTENSION_OF_PAIR, MODULES,
    key_of_pair, key_of_tail,
};
use saker_ebpf::wire::PATH_BYTES_MAX;

use crate::kernel::{self, Address};
use crate::maps::{OPEN_EXTENSIONS, OpenScratch};
use crate::opaque::opaque;
use crate::settings;

/// Do the last two bytes of the opened file's name say that it is not wanted, and is its name all that counts? Not so of no file.
///
/// One branch for all of it: the verifier would follow what comes after from each.
#[inline(always)]
pub fn is_unwanted(dentry: Address) -> bool {
    let (name, length) = kernel::name(dentry);
    // 1: it is its own key, or there is none.
    let is_short = u64::from(length).wrapping_sub(2) >> 63;
    // Of no name nothing is read in front of address 0, which is where kernels would look.
    let end = (name + u64::from(length)).wrapping_sub(8 * (is_short ^ 1));
    opaque(settings::is_unwanted_end(kernel::read(end, 0)) & !is_short & 1) != 0
}

/// Does the opened file's name end in a wanted extension?
#[inline(always)]
pub fn is_wanted(dentry: Address) -> bool {
    let (name, length) = kernel::name(dentry);
    let tail = kernel::tail(name, length);
    let wanted = wanted_of(tail, length);
    wanted & EXTENSION_OF_ALL != 0
        || wanted & EXTENSION_OF_PAIR != 0 && is_pair_wanted(tail, length)
        || wanted & EXTENSION_OF_MODULE != 0 && MODULES.contains(&kernel::read(name, 0))
}

/// Does the path as passed end in a wanted extension? One that led to no file led to no module.
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
            return is_end_wanted(moved(low, high, length), length);
        }
        let from = black_box(length - EXTENSION_BYTES as u32) as usize & PATH_BYTES_MAX;
        let tail = text.add(from).cast::<[u64; 2]>().read_unaligned();
        is_end_wanted(tail, length)
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
fn is_end_wanted(tail: [u64; 2], length: u32) -> bool {
    let wanted = wanted_of(tail, length);
    wanted & EXTENSION_OF_ALL != 0
        || wanted & EXTENSION_OF_PAIR != 0 && is_pair_wanted(tail, length)
}

/// Which names with the last extension are wanted; 0: none.
#[inline(always)]
fn wanted_of(tail: [u64; 2], length: u32) -> u8 {
    let Some(key) = key_of_tail(tail, length) else {
        return 0;
    };
    // SAFETY: the value is one byte, read at once, and stands for itself.
    unsafe { OPEN_EXTENSIONS.get(key) }.copied().unwrap_or(0)
}

#[inline(always)]
fn is_pair_wanted(tail: [u64; 2], length: u32) -> bool {
    let Some(key) = key_of_pair(tail, length) else {
        return false;
    };
    // SAFETY: the value is not looked at, only whether there is one.
    unsafe { OPEN_EXTENSIONS.get(key).is_some() }
}
