//! The C function behind a method of a module, for those that no call of C shows: `sys.audit`, by which Python's own code announces.
//!
//! A module's methods are a table of `PyMethodDef { name, function, flags, doc }` in writable data. Its pointers stand in the
//! file where they are fixed or packed, and in the relocations where a loader fills them in.

use object::LittleEndian as Le;
use object::elf::{self, Rela64};

use super::{DYNAMIC_MAX, Dyn64, ElfError, Image, Machine, read_at, read_pod};

/// How much data and how many relocations are searched; the largest build known has 3 MB and 1 MB.
const DATA_BYTES_MAX: u64 = 32 << 20;
const RELOCATION_BYTES_MAX: u64 = 16 << 20;
const PIECE_BYTES: usize = 1 << 20;
/// `METH_FASTCALL`: the function gets its arguments as an array and a count.
const FASTCALL: u32 = 0x80;

/// The file offset of the function of a method that has one of these addresses as its name and takes an array of arguments.
pub(super) fn fastcall(image: &Image<'_>, names: &[u64]) -> Result<Option<u64>, ElfError> {
    if names.is_empty() {
        return Ok(None);
    }
    match fixed(image, names)? {
        Some(found) => Ok(Some(found)),
        None => relocated(image, names),
    }
}

/// Pointers that stand in the file.
fn fixed(image: &Image<'_>, names: &[u64]) -> Result<Option<u64>, ElfError> {
    // A table's entry may lie across two pieces.
    const OVERLAP: usize = 24;
    let mut budget = DATA_BYTES_MAX;
    let mut buffer = vec![0; PIECE_BYTES];
    for segment in image.segments.iter().filter(|segment| segment.writable()) {
        // Entries lie at multiples of eight in memory.
        let mut done = segment.address.wrapping_neg() & 7;
        while done + (OVERLAP as u64) <= segment.bytes {
            if budget == 0 {
                image.is_cut.set(true);
                return Ok(None);
            }
            let want = (segment.bytes - done).min(PIECE_BYTES as u64) as usize;
            let read = read_at(image.file, &mut buffer[..want], segment.offset + done)?;
            let (words, _) = buffer[..read].as_chunks::<8>();
            let words = words.iter().map(|word| u64::from_le_bytes(*word));
            let mut window = words.clone().zip(words.clone().skip(1)).zip(words.skip(2));
            let found = window.find_map(|((name, function), flags)| {
                let is_it = names.contains(&name) && flags as u32 == FASTCALL;
                (is_it && image.is_code(function)).then_some(function)
            });
            if let Some(function) = found {
                return Ok(image.file_offset(function));
            }
            if read < PIECE_BYTES {
                break;
            }
            done += (PIECE_BYTES - OVERLAP) as u64;
            budget = budget.saturating_sub(PIECE_BYTES as u64);
        }
    }
    Ok(None)
}

/// Pointers that a loader fills in.
fn relocated(image: &Image<'_>, names: &[u64]) -> Result<Option<u64>, ElfError> {
    let Some((offset, bytes)) = relocations(image)? else {
        return Ok(None);
    };
    if bytes > RELOCATION_BYTES_MAX {
        image.is_cut.set(true);
    }
    let mut table = vec![0; bytes.min(RELOCATION_BYTES_MAX) as usize];
    let read = read_at(image.file, &mut table, offset)?;
    let (entries, _) = table[..read].as_chunks::<{ size_of::<Rela64<Le>>() }>();
    let relative = match image.machine {
        Machine::X86_64 => elf::R_X86_64_RELATIVE,
        Machine::Aarch64 => elf::R_AARCH64_RELATIVE,
    };
    // Where a pointer goes, and which.
    let pointers = || {
        entries.iter().filter_map(|entry| {
            let word = |at: usize| {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&entry[at..at + 8]);
                u64::from_le_bytes(bytes)
            };
            (word(8) as u32 == relative).then(|| (word(0), word(16)))
        })
    };
    for (place, _) in pointers().filter(|(_, to)| names.contains(to)).take(8) {
        let Some(function_at) = place.checked_add(8) else {
            continue;
        };
        let mut flags = [0; 4];
        if let Some(at) = image.file_offset(function_at.saturating_add(8)) {
            read_at(image.file, &mut flags, at)?;
        }
        let function = pointers()
            .find(|(at, _)| *at == function_at)
            .map(|(_, to)| to);
        if let Some(function) = function
            && u32::from_le_bytes(flags) == FASTCALL
            && image.is_code(function)
        {
            return Ok(image.file_offset(function));
        }
    }
    Ok(None)
}

/// Where the table of relocations lies in the file, and its size.
fn relocations(image: &Image<'_>) -> Result<Option<(u64, u64)>, ElfError> {
    let Some((offset, bytes)) = image.dynamic else {
        return Ok(None);
    };
    let (mut table, mut size) = (None, None);
    let count = (bytes as usize / size_of::<Dyn64<Le>>()).min(DYNAMIC_MAX);
    for index in 0..count {
        let at = offset + (index * size_of::<Dyn64<Le>>()) as u64;
        let Some(entry) = read_pod::<Dyn64<Le>>(image.file, at)? else {
            break;
        };
        let value = entry.d_val.get(Le);
        match entry.d_tag.get(Le) {
            elf::DT_NULL => break,
            elf::DT_RELA => table = image.file_offset(value),
            elf::DT_RELASZ => size = Some(value),
            _ => {}
        }
    }
    Ok(table.zip(size))
}
