//! How the kernel side cuts a name's extension, against the plain way to say what one is.

use saker_ebpf::extension::{EXTENSION_BYTES, extension_key, key_of_tail};

/// What follows the last dot of a name, dot included.
fn plain(name: &[u8]) -> Option<[u64; 2]> {
    let dot = name.iter().rposition(|byte| *byte == b'.')?;
    extension_key(&name[dot..])
}

/// The last bytes of a name in memory, where `before` stands in front of it.
fn tail(before: u8, name: &[u8]) -> [u64; 2] {
    let mut memory = vec![before; EXTENSION_BYTES];
    memory.extend(name);
    let end = memory.len();
    let word = |from: usize| {
        let bytes = memory[from..from + 8].try_into().expect("8 bytes");
        u64::from_le_bytes(bytes)
    };
    [word(end - 16), word(end - 8)]
}

fn check(name: &[u8]) {
    for before in [0, b'.', b'a', u8::MAX] {
        let cut = key_of_tail(tail(before, name), name.len() as u32);
        assert_eq!(cut, plain(name), "{name:?} behind {before:#x}");
    }
}

#[test]
fn names_of_every_length_with_dots_anywhere() {
    for length in 0..40 {
        let name: Vec<u8> = (0..length).map(|at| b'a' + at as u8 % 26).collect();
        check(&name);
        for first in 0..length {
            for second in first..length {
                let mut name = name.clone();
                name[first] = b'.';
                name[second] = b'.';
                check(&name);
            }
        }
    }
}

#[test]
fn no_byte_is_taken_for_a_dot() {
    for byte in 0..=u8::MAX {
        // Not 0, which no name has, nor a slash: extensions have neither, and the plain way says so.
        if byte == 0 || byte == b'/' {
            continue;
        }
        check(&[byte; 20]);
        check(&[b'.', byte, byte, byte]);
        check(&[byte, byte, b'.', byte, byte, byte, byte, byte, byte]);
        check(&[b'.', byte, b'.', byte]);
    }
}
