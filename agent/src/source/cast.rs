//! Whether this kernel lets programs read its memory by plain loads, and the object made ready for that.
//!
//! The programs call the kernel's function `bpf_rdonly_cast` by a number that every kernel gives differently. It stands in the
//! kernel's own type information, as does the type that addresses are taken for. Kernels have the function since 6.2, and take it
//! only where programs are compiled to machine code; so a program that uses it is tried before anything relies on it.

use aya_obj::generated::bpf_prog_type::{BPF_PROG_TYPE_CGROUP_SKB, BPF_PROG_TYPE_TRACEPOINT};
use saker_ebpf::config::CAST_MARK;

use super::attach::without_signals;
use super::btf::Btf;
use super::calls;

const FUNCTION: &str = "bpf_rdonly_cast";
/// Two numbers of 8 bytes, which programs may load as numbers, whole or in part.
const TYPE: &str = "timespec64";

/// Both kinds of hooks there are: on what the kernel does, and in a cgroup.
const TRIED_TYPES: [u32; 2] = [
    BPF_PROG_TYPE_TRACEPOINT as u32,
    BPF_PROG_TYPE_CGROUP_SKB as u32,
];

/// A call of a function of the kernel's, which is to be named.
const CALL: [u8; 4] = [0x85, 0x20, 0, 0];
/// `r0 = r1`: in the place of a call that is never reached, and that older kernels would refuse for what it is.
const NO_CALL: [u8; 8] = [0xbf, 0x10, 0, 0, 0, 0, 0, 0];

/// The numbers that a kernel has for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cast {
    /// The function's.
    pub function: u32,
    /// The type's.
    pub type_number: u32,
}

impl Cast {
    /// What a kernel with these types has; `None` where it does not have both.
    pub fn find(types: &Btf) -> Option<Self> {
        let words = ["tv_sec", "tv_nsec"].map(|name| types.member(TYPE, name));
        let [Ok(first), Ok(second)] = words else {
            return None;
        };
        let is_two_words =
            [(first.offset, first.size), (second.offset, second.size)] == [(0, 8), (8, 8)];
        let cast = Self {
            function: types.function(FUNCTION)?,
            type_number: types.struct_number(TYPE)?,
        };
        is_two_words.then_some(cast)
    }

    /// Does the running kernel take programs that read by loads of every width?
    pub fn works(&self) -> bool {
        TRIED_TYPES
            .into_iter()
            .all(|program| without_signals(|| calls::load(program, 0, &self.trial())).is_ok())
    }

    /// Reads at address 0, which gives 0. It is loaded, and never run.
    fn trial(&self) -> Vec<u64> {
        let [call] = words(&[CALL, self.function.to_le_bytes()].concat());
        let loads = [0x79, 0x61, 0x69, 0x71].map(|load| {
            let type_number = u64::from(self.type_number) << 32;
            // r1 = 0, r2 = the type, the call, r0 = what is there.
            [0x01b7, 0x02b7 | type_number, call, load]
        });
        // The result: neither kind of hook takes any number for one.
        let end = [0x00b7 | 1 << 32, 0x95];
        loads.into_iter().flatten().chain(end).collect()
    }
}

fn words<const WORDS: usize>(bytes: &[u8]) -> [u64; WORDS] {
    std::array::from_fn(|at| {
        u64::from_le_bytes(std::array::from_fn(|byte| {
            bytes.get(at * 8 + byte).copied().unwrap_or(0)
        }))
    })
}

/// Puts the function's number into every call of it in `object`; without one, takes the calls away.
pub fn resolve(object: &mut [u8], cast: Option<Cast>) {
    let [mark] = words(&[CALL, CAST_MARK.to_le_bytes()].concat());
    let mark = mark.to_le_bytes();
    let mut there: [u8; 8] = NO_CALL;
    if let Some(cast) = cast {
        there[..4].copy_from_slice(&CALL);
        there[4..].copy_from_slice(&cast.function.to_le_bytes());
    }
    // Instructions are aligned in the file as they are in memory.
    for instruction in object.chunks_exact_mut(mark.len()) {
        if instruction == mark {
            instruction.copy_from_slice(&there);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::object::OBJECT;

    fn count(object: &[u8], instruction: [u8; 8]) -> usize {
        object
            .chunks_exact(8)
            .filter(|bytes| **bytes == instruction)
            .count()
    }

    /// A call of the function with this number.
    fn call(number: u32) -> [u8; 8] {
        let [word] = words(&[CALL, number.to_le_bytes()].concat());
        word.to_le_bytes()
    }

    #[test]
    fn every_call_gets_the_functions_number_or_goes() {
        let calls = count(OBJECT, call(CAST_MARK));
        assert!(calls > 100, "{calls}");
        // Wherever the bytes stand, they are such a call.
        let anywhere = OBJECT
            .windows(8)
            .filter(|bytes| **bytes == call(CAST_MARK))
            .count();
        assert_eq!(anywhere, calls);

        let number = 0x1234_5678;
        let mut object = OBJECT.to_vec();
        let cast = Cast {
            function: number,
            type_number: 1,
        };
        resolve(&mut object, Some(cast));
        assert_eq!(count(&object, call(CAST_MARK)), 0);
        assert_eq!(count(&object, call(number)), calls);

        let moves = count(OBJECT, NO_CALL);
        let mut object = OBJECT.to_vec();
        resolve(&mut object, None);
        assert_eq!(count(&object, call(CAST_MARK)), 0);
        assert_eq!(count(&object, NO_CALL), moves + calls);
    }
}
