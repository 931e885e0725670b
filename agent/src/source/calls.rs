//! System calls that no crate makes for the agent.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use aya_obj::generated::bpf_attr;
use aya_obj::generated::bpf_cmd::BPF_PROG_LOAD;

/// The descriptor that a system call has just handed out, or why it did not.
pub(super) fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just handed out this descriptor, to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bpf(2), for the commands that give a descriptor.
///
/// # Safety
/// What `attr` points at is there.
pub(super) unsafe fn bpf(command: u32, attr: &bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is as long as is said, and the caller vouches for what it points at.
    owned(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of::<bpf_attr>(),
        )
    })
}

/// Loads a program of a few instructions, without maps. `attach_type` is 0 where the program's type says all.
pub(super) fn load(
    program_type: u32,
    attach_type: u32,
    instructions: &[u64],
) -> io::Result<OwnedFd> {
    // SAFETY: a union of integers, for which zeros are a value.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the fields of this command, in a union that is zero otherwise; what they point at outlives the call.
    unsafe {
        let program = &mut attr.__bindgen_anon_3;
        program.prog_type = program_type;
        program.insn_cnt = u32::try_from(instructions.len()).map_err(io::Error::other)?;
        program.insns = instructions.as_ptr() as u64;
        program.license = c"GPL".as_ptr() as u64;
        program.expected_attach_type = attach_type;
        bpf(BPF_PROG_LOAD as u32, &attr)
    }
}
