//! What the agent's memory is, and the part of it that only starting, or a change of rules, needed.
//!
//! Both touch much of the program once: the command line, the compiler of rules, the loader and the kernel object that it loads. These
//! pages are the program file's; whoever needs one again reads it again.

use std::{ffi::c_void, os::raw::c_int, ptr};

/// Has all threads allocate from one heap; to be called before there are any. The allocator would give each thread that meets another one there a heap
/// of its own, and keep what was freed in it for that thread. Of the agent's threads one allocates much.
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes numbers.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives it back: the pages of the program's file, and what the allocator keeps for later.
pub fn give_back() {
    // SAFETY: the function keeps nothing of what it is handed, and needs no data.
    unsafe { libc::dl_iterate_phdr(Some(give_back_segments), ptr::null_mut()) };
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Of the first object, which is the program itself. Not 0: no more objects.
unsafe extern "C" fn give_back_segments(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut c_void,
) -> c_int {
    // SAFETY: takes a number.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    // SAFETY: the loader hands over a description that is valid for the call, with so many headers.
    let (base, segments) = unsafe {
        let info = &*info;
        (
            info.dlpi_addr,
            std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()),
        )
    };
    for segment in segments {
        // What cannot be written to holds nothing but the file. What the loader wrote to and then sealed is part of a segment that can be.
        if segment.p_type != libc::PT_LOAD || segment.p_flags & libc::PF_W != 0 {
            continue;
        }
        let start = (base + segment.p_vaddr).next_multiple_of(page);
        let end = (base + segment.p_vaddr + segment.p_memsz) / page * page;
        if start < end {
            let place = ptr::with_exposed_provenance_mut::<c_void>(start as usize);
            // SAFETY: whole pages of a mapping of the program's file that nobody can write to: the next look at one brings it back as it is.
            unsafe { libc::madvise(place, (end - start) as usize, libc::MADV_DONTNEED) };
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Kibibytes of the program's file that are mapped and present.
    fn of_the_file() -> u64 {
        let status = fs::read_to_string("/proc/self/status").expect("a process has one");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssFile:"))
            .expect("the kernel says");
        line.trim_end_matches(" kB")
            .trim()
            .parse()
            .expect("a number")
    }

    #[test]
    fn what_was_given_back_comes_back_as_it_was() {
        let object = crate::source::object::OBJECT;
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        let before = (sum(object), object.to_vec());
        let resident = of_the_file();
        give_back();
        let left = of_the_file();
        assert!(left < resident, "{left} of {resident} kB");
        assert!(before.1 == object);
        assert_eq!(sum(object), before.0);
    }
}
