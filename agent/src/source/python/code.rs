//! Machine code: finds the call that takes a given string as its first argument.
//!
//! Text is not decoded from its start: references are found as byte patterns, checked by arithmetic, and only what
//! follows each is decoded, up to the next call. Pure: knows nothing of files.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic, OpKind, Register};
use memchr::memmem;

/// Instructions between the reference and its call; compilers put the other three arguments there.
const INSTRUCTIONS_MAX: usize = 16;
/// Bytes behind a reference that [`call_sites`] may look at.
pub const WINDOW_BYTES: usize = 16 * 15 + 8;

/// An instruction set that can be read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm, little-endian.
    Aarch64,
}

/// A call whose first argument is one of the targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallSite {
    /// Position in the list of targets.
    pub target: usize,
    /// Where the call instruction starts, in bytes from the start of the code.
    pub offset: usize,
    /// Where the reference to the target starts; a caller that reads code in overlapping pieces needs it.
    pub reference: usize,
}

/// Every call in `code`, which lies at address `address`, that gets one of the target addresses as first argument.
///
/// `absolute` says that addresses are fixed at link time, so that `mov edi, imm32` may carry one.
pub fn call_sites(
    machine: Machine,
    code: &[u8],
    address: u64,
    targets: &[u64],
    absolute: bool,
) -> Vec<CallSite> {
    match machine {
        Machine::X86_64 => x86_64(code, address, targets, absolute),
        Machine::Aarch64 => aarch64(code, address, targets),
    }
}

fn x86_64(code: &[u8], address: u64, targets: &[u64], absolute: bool) -> Vec<CallSite> {
    let mut found = Vec::new();
    let mut check = |reference: usize, length: usize, target: usize| {
        let start = reference + length;
        if let Some(at) = next_call_x86_64(code.get(start..).unwrap_or_default()) {
            found.push(CallSite {
                target,
                offset: start + at,
                reference,
            });
        }
    };
    // lea rdi, [rip + disp32]
    for at in memmem::find_iter(code, b"\x48\x8d\x3d") {
        let Some(bytes) = code.get(at + 3..at + 7) else {
            continue;
        };
        let displacement = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let to = address
            .wrapping_add(at as u64 + 7)
            .wrapping_add_signed(i64::from(displacement));
        if let Some(target) = targets.iter().position(|target| *target == to) {
            check(at, 7, target);
        }
    }
    if absolute {
        for (index, target) in targets.iter().enumerate() {
            let Ok(immediate) = u32::try_from(*target) else {
                continue;
            };
            // mov edi, imm32
            let mut pattern = [0xbf; 5];
            pattern[1..].copy_from_slice(&immediate.to_le_bytes());
            for at in memmem::find_iter(code, &pattern) {
                check(at, 5, index);
            }
        }
    }
    found
}

/// The next call, provided that the first argument is still what it was: nothing writes rdi, nothing leaves.
fn next_call_x86_64(code: &[u8]) -> Option<usize> {
    let code = &code[..code.len().min(WINDOW_BYTES)];
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    for _ in 0..INSTRUCTIONS_MAX {
        if !decoder.can_decode() {
            return None;
        }
        let at = decoder.position();
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return None;
        }
        match instruction.flow_control() {
            FlowControl::Call | FlowControl::IndirectCall => return Some(at),
            FlowControl::Next | FlowControl::ConditionalBranch => {}
            _ => return None,
        }
        let only_reads = matches!(
            instruction.mnemonic(),
            Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push
        );
        if !only_reads
            && instruction.op_count() > 0
            && instruction.op0_kind() == OpKind::Register
            && instruction.op0_register().full_register() == Register::RDI
        {
            return None;
        }
    }
    None
}

fn aarch64(code: &[u8], address: u64, targets: &[u64]) -> Vec<CallSite> {
    let mut found = Vec::new();
    let words = code.as_chunks::<4>().0;
    for (index, bytes) in words.iter().enumerate() {
        let word = u32::from_le_bytes(*bytes);
        if word & 0x9f00_0000 != 0x9000_0000 {
            continue;
        }
        let page = adrp_page(word, address.wrapping_add(index as u64 * 4));
        for (target, to) in targets.iter().enumerate() {
            if to & !0xfff != page {
                continue;
            }
            let low = (to & 0xfff) as u32;
            if let Some(call) = next_call_aarch64(&words[index + 1..], word & 31, low) {
                found.push(CallSite {
                    target,
                    offset: (index + 1 + call) * 4,
                    reference: index * 4,
                });
            }
        }
    }
    found
}

/// The page that `adrp` at this address gives.
fn adrp_page(word: u32, address: u64) -> u64 {
    let immediate = ((word >> 5 & 0x7_ffff) << 2) | (word >> 29 & 3);
    let signed = i64::from((immediate << 11).cast_signed() >> 11) << 12;
    (address & !0xfff).wrapping_add_signed(signed)
}

/// The next call after `add x0, x<page>, #low`, provided that nothing writes x0 in between and nothing leaves.
fn next_call_aarch64(words: &[[u8; 4]], page_register: u32, low: u32) -> Option<usize> {
    let mut loaded = false;
    for (index, bytes) in words.iter().take(INSTRUCTIONS_MAX).enumerate() {
        let word = u32::from_le_bytes(*bytes);
        let is_call = word & 0xfc00_0000 == 0x9400_0000 || word & 0xffff_fc1f == 0xd63f_0000;
        if is_call {
            return loaded.then_some(index);
        }
        // b, br, ret
        if word & 0xfc00_0000 == 0x1400_0000 || word & 0xff9f_fc1f == 0xd61f_0000 {
            return None;
        }
        // add x<d>, x<n>, #imm12
        if word & 0xffc0_0000 == 0x9100_0000
            && word >> 5 & 31 == page_register
            && word >> 10 & 0xfff == low
            && word & 31 == 0
        {
            loaded = true;
            continue;
        }
        if loaded && writes_aarch64(word, 0) {
            return None;
        }
        if !loaded && writes_aarch64(word, page_register) {
            return None;
        }
    }
    None
}

/// Whether a data-processing or load instruction has this register as its destination.
fn writes_aarch64(word: u32, register: u32) -> bool {
    let class = word >> 25 & 15;
    let data = class & 0b1110 == 0b1000 || class & 0b0111 == 0b0101;
    let memory = class & 0b0101 == 0b0100;
    let vector = word >> 26 & 1 == 1;
    let literal = word & 0x3b00_0000 == 0x1800_0000;
    let pair = word & 0x3800_0000 == 0x2800_0000;
    let loads = memory && !vector && (literal || word >> 22 & 3 != 0);
    (data || loads) && word & 31 == register || (loads && pair && word >> 10 & 31 == register)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE_AT: u64 = 0x40_1000;
    const STRING_AT: u64 = 0x40_2345;

    /// `lea rdi, [rip + d]` to the string, at the start of the code.
    fn lea() -> Vec<u8> {
        let mut code = vec![0x48, 0x8d, 0x3d];
        code.extend(((STRING_AT - CODE_AT - 7) as u32).to_le_bytes());
        code
    }

    fn mov() -> Vec<u8> {
        let mut code = vec![0xbf];
        code.extend((STRING_AT as u32).to_le_bytes());
        code
    }

    #[track_caller]
    fn check(machine: Machine, code: &[u8], absolute: bool, expected: Option<usize>) {
        let found = call_sites(machine, code, CODE_AT, &[0x1234_5678, STRING_AT], absolute);
        let expected: Vec<_> = expected.into_iter().map(|offset| (1, offset)).collect();
        let found: Vec<_> = found.iter().map(|s| (s.target, s.offset)).collect();
        assert_eq!(found, expected);
    }

    fn x86(reference: Vec<u8>, rest: &[u8], expected: Option<usize>) {
        let code = [reference, rest.to_vec()].concat();
        check(Machine::X86_64, &code, true, expected);
    }

    #[test]
    fn the_next_call_is_the_site() {
        x86(lea(), b"\xe8\0\0\0\0", Some(7));
        x86(lea(), b"\x4c\x89\xe9\x4c\x89\xe2\xe8\0\0\0\0", Some(13));
        // call [rip + x], as -fno-plt makes it
        x86(lea(), b"\x31\xc0\xff\x15\0\0\0\0", Some(9));
        x86(lea(), b"\xf3\x0f\x1e\xfa\xe8\0\0\0\0", Some(11));
        x86(mov(), b"\xe8\0\0\0\0", Some(5));
        // cmp rdi, rax and a conditional branch change nothing
        x86(lea(), b"\x48\x39\xc7\x74\x02\xe8\0\0\0\0", Some(12));
    }

    #[test]
    fn what_is_not_a_call_with_the_string_is_refused() {
        // jmp: a tail call
        x86(lea(), b"\xe9\0\0\0\0\xe8\0\0\0\0", None);
        x86(lea(), b"\xc3\xe8\0\0\0\0", None);
        // mov rdi, rax; xor edi, edi
        x86(lea(), b"\x48\x89\xc7\xe8\0\0\0\0", None);
        x86(lea(), b"\x31\xff\xe8\0\0\0\0", None);
        x86(lea(), b"\x06\xe8\0\0\0\0", None);
        x86(
            lea(),
            &[[0x90; 16].as_slice(), b"\xe8\0\0\0\0"].concat(),
            None,
        );
        x86(lea(), b"", None);
        x86(lea(), b"\xe8\0", None);
        x86(vec![0x48, 0x8d, 0x3d, 0, 0], b"", None);
        let code = [mov(), b"\xe8\0\0\0\0".to_vec()].concat();
        check(Machine::X86_64, &code, false, None);
    }

    fn arm(words: &[u32], expected: Option<usize>) {
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        check(Machine::Aarch64, &code, false, expected);
    }

    /// `adrp x<d>, 0x402000`, one page up.
    fn adrp(register: u32) -> u32 {
        0xb000_0000 | register
    }

    fn add(to: u32, from: u32) -> u32 {
        0x9100_0000 | 0x345 << 10 | from << 5 | to
    }

    #[test]
    fn arm_loads_an_address_in_two_steps() {
        let bl = 0x9400_0010;
        let mov_x2_x20 = 0xaa14_03e2;
        arm(&[adrp(0), add(0, 0), bl], Some(8));
        arm(&[adrp(1), mov_x2_x20, add(0, 1), mov_x2_x20, bl], Some(16));
        // blr x8
        arm(&[adrp(0), add(0, 0), 0xd63f_0100], Some(8));
        // str x0, [sp]: reads x0
        arm(&[adrp(0), add(0, 0), 0xf900_03e0, bl], Some(12));
        // b, ret
        arm(&[adrp(0), add(0, 0), 0x1400_0010, bl], None);
        arm(&[adrp(0), add(0, 0), 0xd65f_03c0, bl], None);
        // mov x0, x20; ldr x0, [sp]; another page; another offset; a call before the address is whole
        arm(&[adrp(0), add(0, 0), 0xaa14_03e0, bl], None);
        arm(&[adrp(0), add(0, 0), 0xf940_03e0, bl], None);
        arm(&[0xd000_0000, add(0, 0), bl], None);
        arm(&[adrp(0), 0x9100_0000, bl], None);
        arm(&[adrp(0), bl, add(0, 0), bl], None);
        arm(&[adrp(0)], None);
    }

    #[test]
    fn a_page_may_lie_before_the_code() {
        assert_eq!(adrp_page(0xf0ff_ffe0, 0x40_1234), 0x40_0000);
    }
}
