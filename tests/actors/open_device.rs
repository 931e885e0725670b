//! Makes a character device node at a path and opens it for reading: `open_device PATH MAJOR MINOR`.
//!
//! Exits 0 when the open was tried, whatever it gave: on a node without that hardware the kernel answers ENXIO.

use std::{env, ffi::CString, fs::File, process::ExitCode};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    let [_, path, major, minor] = &args[..] else {
        eprintln!("usage: open_device PATH MAJOR MINOR");
        return ExitCode::from(2);
    };
    let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else {
        eprintln!("MAJOR and MINOR are numbers");
        return ExitCode::from(2);
    };
    let node = CString::new(path.as_str()).expect("an argument holds no NUL byte");
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    let made = unsafe {
        libc::mknod(
            node.as_ptr(),
            libc::S_IFCHR | 0o600,
            libc::makedev(major, minor),
        )
    };
    if made != 0 {
        eprintln!("cannot make {path}: {}", std::io::Error::last_os_error());
        return ExitCode::FAILURE;
    }
    let opened = File::open(path);
    let _ = std::fs::remove_file(path);
    println!(
        "{}",
        opened.map_or_else(|error| error.to_string(), |_| "opened".into())
    );
    ExitCode::SUCCESS
}
