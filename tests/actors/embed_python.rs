//! A program that is no Python, and becomes one: after a line on its standard input it loads an interpreter's library by name,
//! and runs what it is given.
//!
//!     embed_python LIBRARY CODE

use std::{
    env,
    ffi::{CStr, CString, c_char, c_int, c_void},
    io,
    process::ExitCode,
};

fn main() -> ExitCode {
    let arguments: Vec<CString> = env::args()
        .skip(1)
        .map(|argument| CString::new(argument).expect("no zeros in arguments"))
        .collect();
    let [library, code] = &arguments[..] else {
        eprintln!("usage: embed_python LIBRARY CODE");
        return ExitCode::from(2);
    };
    io::stdin()
        .read_line(&mut String::new())
        .expect("standard input can be read");
    // SAFETY: the name ends with a zero. What the library does at its start is trusted: the test names it.
    let loaded = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    assert!(!loaded.is_null(), "{library:?} cannot be loaded");
    let symbol = |name: &CStr| {
        // SAFETY: the library is loaded and the name ends with a zero.
        let found = unsafe { libc::dlsym(loaded, name.as_ptr()) };
        assert!(!found.is_null(), "no {name:?}");
        found
    };
    // SAFETY: the types are those of CPython's documented interface.
    let (start, run) = unsafe {
        (
            std::mem::transmute::<*mut c_void, extern "C" fn()>(symbol(c"Py_Initialize")),
            std::mem::transmute::<*mut c_void, extern "C" fn(*const c_char) -> c_int>(symbol(
                c"PyRun_SimpleString",
            )),
        )
    };
    start();
    if run(code.as_ptr()) == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
