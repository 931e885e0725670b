//! Reading the kernel's memory, in the cheapest way that it offers.
//!
//! Since 6.2 the function `bpf_rdonly_cast` lets a program take any address for one of a kernel type. Calling it costs nothing, the
//! verifier puts a move in its place; and a load from what it gives is one instruction, which a bad address turns into a zero.
//! Elsewhere a helper copies, ten times slower. Either way a bad address reads as zeros.

use core::arch::asm;
use core::mem::{MaybeUninit, transmute_copy};

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use saker_ebpf::config::CAST_MARK;

use super::Address;
use crate::settings;

/// Loads as wide as `$width` says from `$address`, which is taken for the address of a `$type`: of two numbers of 8 bytes.
///
/// Bytes, because the assembler does not know how to call a function of the kernel: `call` with 2 in the place of the source.
macro_rules! load {
    ($width:literal, $address:expr, $type:expr) => {{
        let value: u64;
        asm!(
            ".byte 0x85, 0x20, 0, 0",
            ".long {mark}",
            concat!("r0 = *(", $width, " *)(r0 + 0)"),
            mark = const CAST_MARK,
            inout("r1") $address => _,
            inout("r2") u64::from($type) => _,
            out("r0") value,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
            options(nostack),
        );
        value
    }};
}

/// Words that are loaded one after the other where one copy would do. The helper costs as much as a dozen of them.
const WORDS_MAX: usize = 4;

/// Reads a `T` at `base + offset`; zeros when there is nothing to read.
#[inline(always)]
pub fn read<T: Copy>(base: Address, offset: u32) -> T {
    let address = base + u64::from(offset);
    let cast_type = settings::cast_type();
    if size_of::<T>() > 8
        && size_of::<T>() <= 8 * WORDS_MAX
        && size_of::<T>().is_multiple_of(8)
        && cast_type != 0
    {
        let mut words = [0; WORDS_MAX];
        let mut at = 0;
        while at < size_of::<T>() / 8 {
            // SAFETY: the verifier vouches for the load.
            words[at] = unsafe { load!("u64", address + 8 * at as u64, cast_type) };
            at += 1;
        }
        // SAFETY: `T` is used only with integers and arrays of them, and as long as the words that were read.
        return unsafe { transmute_copy(&words) };
    }
    if size_of::<T>() <= 8 && size_of::<T>().is_power_of_two() && cast_type != 0 {
        // SAFETY: the verifier vouches for the load. `T` is used only with integers and arrays of them, of which every byte pattern
        // is a value, and each arm makes one of a number of the same size.
        return unsafe {
            match size_of::<T>() {
                1 => transmute_copy(&(load!("u8", address, cast_type) as u8)),
                2 => transmute_copy(&(load!("u16", address, cast_type) as u16)),
                4 => transmute_copy(&(load!("u32", address, cast_type) as u32)),
                _ => transmute_copy(&load!("u64", address, cast_type)),
            }
        };
    }
    copy(address)
}

/// Reads two words of a struct, in one go where they are neighbours and reading twice would cost more.
#[inline(always)]
pub fn pair(base: Address, first: u32, second: u32) -> (u64, u64) {
    // As wide as registers are: narrower sums would have to be cut.
    let (first, second) = (u64::from(first), u64::from(second));
    if settings::cast_type() == 0 && second == first + 8 {
        let [first, second]: [u64; 2] = copy(base + first);
        return (first, second);
    }
    (read(base + first, 0), read(base + second, 0))
}

/// The last 16 bytes of a text of the kernel's, `length` long. What stands before a shorter one is anything.
#[inline(always)]
pub fn tail(text: Address, length: u32) -> [u64; 2] {
    let tail = text.wrapping_add(u64::from(length)).wrapping_sub(16);
    let (low, high) = pair(tail, 0, 8);
    [low, high]
}

/// Copies with the helper.
#[inline(always)]
fn copy<T: Copy>(address: Address) -> T {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the helper writes at most `size_of::<T>()` bytes to `value`, and checks the source itself. `T` is used
    // only with integers and arrays of them, for which zeros are a value.
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const _,
        );
        value.assume_init()
    }
}
