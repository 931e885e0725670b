//! How the kernel side cuts a name's extension, or takes a name that has none, against the plain way to say what they are.

use saker_ebpf::extension::{EXTENSION_BYTES, extension_key, key_of_pair, key_of_tail};

/// What follows the last dot or slash of a name, that included; a name has a slash before it.
fn plain(name: &[u8]) -> Option<[u64; 2]> {
    if name.is_empty() {
        return None;
    }
    let name = [b"/", name].concat();
    let mark = name.iter().rposition(|byte| matches!(byte, b'.' | b'/'))?;
    extension_key(&name[mark..])
}

/// What follows the last dot but one.
fn plain_pair(name: &[u8]) -> Option<[u64; 2]> {
    let dots = name.iter().enumerate().rev();
    let mut dots = dots.filter_map(|(at, byte)| (*byte == b'.').then_some(at));
    extension_key(&name[dots.nth(1)?..])
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
    for before in [0, b'.', b'/', b'a', u8::MAX] {
        let cut = key_of_tail(tail(before, name), name.len() as u32);
        assert_eq!(cut, plain(name), "{name:?} behind {before:#x}");
        // Names have no slash, and paths that have one there are wanted by nobody.
        if name.contains(&b'/') {
            continue;
        }
        let cut = key_of_pair(tail(before, name), name.len() as u32);
        assert_eq!(cut, plain_pair(name), "two of {name:?} behind {before:#x}");
    }
}

#[test]
fn names_of_every_length_with_dots_and_slashes_anywhere() {
    for length in 0..40 {
        let name: Vec<u8> = (0..length).map(|at| b'a' + at as u8 % 26).collect();
        check(&name);
        for first in 0..length {
            for second in first..length {
                for marks in [*b"..", *b"./", *b"/.", *b"//"] {
                    let mut name = name.clone();
                    [name[first], name[second]] = marks;
                    check(&name);
                    if let Some(last) = name.last_mut() {
                        *last = b'.';
                    }
                    check(&name);
                }
            }
        }
    }
}

#[test]
fn no_byte_is_taken_for_a_mark() {
    for byte in 0..=u8::MAX {
        // No name has 0.
        if byte == 0 {
            continue;
        }
        check(&[byte; 20]);
        check(&[b'.', byte, byte, byte]);
        check(&[byte, byte, b'.', byte, byte, byte, byte, byte, byte]);
        check(&[b'.', byte, b'.', byte]);
    }
}
