//! Files opened by 32-bit system calls, which any 64-bit program can make, too.

use std::arch::asm;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use saker::event::{Body, OpenSyscall};
use saker::source::{Kind, OpenFilter, SensorConfig};

use crate::{kinds, watch};

/// Memory whose addresses have 32 bits.
struct Low(*mut u8);

const LOW_BYTES: usize = 4096;
const HOW_AT: usize = 2048;

impl Low {
    fn new() -> Self {
        // SAFETY: new memory, of nobody else.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LOW_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
                -1,
                0,
            )
        };
        assert_ne!(memory, libc::MAP_FAILED);
        Self(memory.cast())
    }

    fn write(&self, at: usize, bytes: &[u8]) -> u32 {
        assert!(at + bytes.len() <= LOW_BYTES);
        // SAFETY: within the memory, which is longer.
        unsafe { self.0.add(at).copy_from(bytes.as_ptr(), bytes.len()) };
        u32::try_from(self.0 as usize + at).expect("it is low")
    }
}

impl Drop for Low {
    fn drop(&mut self) {
        // SAFETY: mapped above, and used no more.
        unsafe { libc::munmap(self.0.cast(), LOW_BYTES) };
    }
}

/// A system call as 32-bit programs make it.
///
/// # Safety
/// As of the call.
unsafe fn call32(number: u32, arguments: [u32; 4]) -> i32 {
    let [first, second, third, fourth] = arguments;
    let mut result = number;
    // SAFETY: the first argument's register is the compiler's own: it is put back. The kernel may clear the others.
    unsafe {
        asm!(
            "push rbx",
            "mov ebx, {first:e}",
            "int 0x80",
            "pop rbx",
            first = in(reg) first,
            inlateout("eax") result,
            in("ecx") second,
            in("edx") third,
            in("esi") fourth,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    result as i32
}

/// Numbers of the 32-bit calls.
const OPEN: u32 = 5;
const CREAT: u32 = 8;
const OPENAT: u32 = 295;
const OPENAT2: u32 = 437;

#[test]
fn opens_by_32_bit_calls_are_seen_or_said_to_be_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("by-32-bit");
    fs::write(&file, b"").expect("write");
    let path = file.as_os_str().as_bytes();
    let config = SensorConfig {
        opens: OpenFilter {
            prefixes: vec![path.to_vec()],
            ..OpenFilter::default()
        },
        ..kinds(&[Kind::Open])
    };
    let Some(mut watch) = watch(config) else {
        return;
    };
    let row = watch.sensor.status().iter().find(|row| row.kind == "open");
    let row = row.expect("a row").clone();
    let is_said = row.lost.iter().any(|lost| lost.contains("32-bit calls"));
    // Without the kernel's 32-bit calls there is nothing to see, and the instruction below ends the process.
    let kernel_has_them = fs::read_to_string("/proc/kallsyms")
        .is_ok_and(|symbols| symbols.contains(" __ia32_compat_sys_openat\n"));
    assert_eq!(
        row.hook == Some("fexit/open*") && kernel_has_them,
        !is_said,
        "{row:?}"
    );
    if is_said {
        return;
    }
    let memory = Low::new();
    let here = libc::AT_FDCWD as u32;
    let flags = (libc::O_RDWR | libc::O_CLOEXEC) as u32;
    let address = memory.write(0, &[path, b"\0"].concat());
    let how = [u64::from(flags), 0, 0].map(u64::to_ne_bytes).concat();
    let how = memory.write(HOW_AT, &how);
    let created = (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u32;
    for (number, arguments, syscall, flags, mode) in [
        (OPEN, [address, flags, 0, 0], OpenSyscall::Open, flags, 0),
        (
            CREAT,
            [address, 0o640, 0, 0],
            OpenSyscall::Creat,
            created,
            0o640,
        ),
        (
            OPENAT,
            [here, address, flags, 0],
            OpenSyscall::Openat,
            flags,
            0,
        ),
        (
            OPENAT2,
            [here, address, how, 24],
            OpenSyscall::Openat2,
            flags,
            0,
        ),
    ] {
        // SAFETY: the calls get a path that ends, and integers or the struct that they take.
        let result = unsafe { call32(number, arguments) };
        assert!(result >= 0, "{syscall:?}: {result}");
        // SAFETY: just opened, and nobody else's.
        unsafe { libc::close(result) };
        watch.until("32-bit open", |event| match event.body {
            Body::Open(open) if open.syscall == syscall && event.tgid == std::process::id() => {
                let seen = (open.flags, open.mode, open.res, open.dfd);
                assert_eq!(seen, (u64::from(flags), mode, result, libc::AT_FDCWD));
                assert_eq!(
                    Path::new(std::ffi::OsStr::from_bytes(open.path.bytes)),
                    file
                );
                Some(())
            }
            _ => None,
        });
    }
}
