//! Keeping the compiler from knowing a number.

use core::arch::asm;

/// The same number, of which the compiler knows nothing any more, so that what is done with it stays as it is written. It stays in a register:
/// `black_box` takes it through memory, which for a handful of them is a tenth of the time that an open that nobody wants takes.
#[inline(always)]
pub fn opaque(number: u64) -> u64 {
    let same: u64;
    // SAFETY: copies a register. One instruction there must be, or two lines of source stand at the next one, which the kernel refuses.
    unsafe {
        asm!(
            "{same} = {number}",
            same = lateout(reg) same,
            number = in(reg) number,
            options(pure, nomem, nostack),
        );
    }
    same
}
