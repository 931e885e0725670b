//! One ELF file: does it contain the call that an unpickler makes before it resolves a global, where, and of which Python.
//!
//! The files come from containers and are hostile input: every size is bounded before anything is read, and nothing of
//! them is executed.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind, Register};
use memchr::memmem;
use object::elf::{self, PF_X, PT_DYNAMIC, PT_LOAD};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};
use object::{Endianness, elf::FileHeader64};

/// The audit event's name, with its end.
const EVENT: &[u8] = b"pickle.find_class\0";

/// The largest segment that is read; the largest interpreters have segments of a tenth.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// Program headers that are looked at.
const SEGMENTS_MAX: usize = 32;
/// The start of a file, with its program headers.
const HEADER_BYTES: usize = 4096;
/// Instructions between the name being loaded and the call.
const INSTRUCTIONS_MAX: usize = 24;
/// Places that refer to the name and are decoded.
const REFERENCES_MAX: usize = 64;

/// What a file offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sites {
    /// The call of `PySys_Audit("pickle.find_class", …)`, or the function's entry.
    pub find_class: Option<Site>,
    /// The Python that it belongs to.
    pub version: Option<Version>,
    /// Libraries that it needs, by `DT_NEEDED`.
    pub needed: Vec<String>,
    /// Where it says that they are, by `DT_RUNPATH` or `DT_RPATH`.
    pub search: Vec<String>,
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the field is what its name says")]
pub enum Site {
    /// The call itself.
    Call { file_offset: u64 },
    /// The entry of `PySys_Audit`, which everything else calls too.
    Entry { file_offset: u64 },
}

/// A version of CPython 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 3.`minor`.
    pub minor: u8,
    /// Built without the global lock.
    pub free_threaded: bool,
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = if self.free_threaded { "t" } else { "" };
        write!(out, "3.{}{suffix}", self.minor)
    }
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// It is a folder, a pipe or a device.
    #[error("not a regular file")]
    NotAFile,
    /// It is something else, or damaged.
    #[error("not a 64-bit ELF file of this machine: {0}")]
    NotElf(&'static str),
    /// A part of it is larger than any interpreter's.
    #[error("a segment of {bytes} bytes is more than is read")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// The file system refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
}

struct Segment {
    offset: u64,
    address: u64,
    bytes: Vec<u8>,
    executable: bool,
}

/// Reads a file.
pub fn analyze(file: &File) -> Result<Sites, ElfError> {
    if !file.metadata()?.is_file() {
        return Err(ElfError::NotAFile);
    }
    let mut start = vec![0; HEADER_BYTES];
    let len = read_at(file, &mut start, 0)?;
    start.truncate(len);
    let header =
        FileHeader64::<Endianness>::parse(&*start).map_err(|_| ElfError::NotElf("no header"))?;
    let endian = header
        .endian()
        .map_err(|_| ElfError::NotElf("byte order"))?;
    let machine = header.e_machine(endian);
    if machine != elf::EM_X86_64 {
        return Err(ElfError::NotElf("another processor"));
    }
    let headers = header
        .program_headers(endian, &*start)
        .map_err(|_| ElfError::NotElf("program headers"))?;
    let mut segments = Vec::new();
    let mut dynamic = None;
    for header in headers.iter().take(SEGMENTS_MAX) {
        let bytes = header.p_filesz(endian);
        match header.p_type(endian) {
            PT_LOAD if bytes > 0 => {
                if bytes > SEGMENT_BYTES_MAX {
                    return Err(ElfError::TooLarge { bytes });
                }
                segments.push((
                    header.p_offset(endian),
                    header.p_vaddr(endian),
                    bytes,
                    header.p_flags(endian).0 & PF_X.0 != 0,
                    header.p_flags(endian).0 & elf::PF_W.0 != 0,
                ));
            }
            PT_DYNAMIC => dynamic = Some((header.p_offset(endian), bytes)),
            _ => {}
        }
    }
    let mut sites = Sites::default();
    let mut read = Vec::new();
    for (offset, address, bytes, executable, writable) in segments {
        if writable {
            continue;
        }
        let mut content = vec![0; bytes as usize];
        let len = read_at(file, &mut content, offset)?;
        content.truncate(len);
        read.push(Segment {
            offset,
            address,
            bytes: content,
            executable,
        });
    }
    if let Some((offset, bytes)) = dynamic {
        needs(file, endian, offset, bytes, &read, &mut sites)?;
    }
    sites.version = version(&read);
    sites.find_class = find_call(&read).map(|file_offset| Site::Call { file_offset });
    Ok(sites)
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(len) => done += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// The names of the libraries that a file needs, and where it looks for them.
fn needs(
    file: &File,
    endian: Endianness,
    offset: u64,
    bytes: u64,
    segments: &[Segment],
    sites: &mut Sites,
) -> Result<(), ElfError> {
    const ENTRIES_MAX: usize = 512;
    const NAMES_MAX: usize = 64;
    let size = size_of::<elf::Dyn64<Endianness>>();
    let mut content = vec![0; (bytes as usize).min(ENTRIES_MAX * size) / size * size];
    let len = read_at(file, &mut content, offset)? / size * size;
    let Ok((entries, _)) =
        object::pod::slice_from_bytes::<elf::Dyn64<Endianness>>(&content, len / size)
    else {
        return Ok(());
    };
    let strings = entries
        .iter()
        .find(|entry| entry.d_tag(endian) == elf::DT_STRTAB)
        .map(|entry| entry.d_val(endian));
    let Some(strings) = strings else {
        return Ok(());
    };
    let text = |at: u64| {
        let address = strings.checked_add(at)?;
        let segment = segments.iter().find(|segment| {
            address >= segment.address && address - segment.address < segment.bytes.len() as u64
        })?;
        let rest = &segment.bytes[(address - segment.address) as usize..];
        let rest = &rest[..rest.len().min(4096)];
        let end = memchr::memchr(0, rest)?;
        Some(String::from_utf8_lossy(&rest[..end]).into_owned())
    };
    for entry in entries {
        let into = match entry.d_tag(endian) {
            elf::DT_NEEDED => &mut sites.needed,
            elf::DT_RUNPATH | elf::DT_RPATH => &mut sites.search,
            _ => continue,
        };
        if into.len() < NAMES_MAX {
            into.extend(text(entry.d_val(endian)));
        }
    }
    Ok(())
}

/// Finds the call by the place that loads the event's name.
fn find_call(segments: &[Segment]) -> Option<u64> {
    let names: Vec<u64> = segments
        .iter()
        .flat_map(|segment| {
            memmem::find_iter(&segment.bytes, EVENT)
                .take(4)
                .map(move |at| segment.address.wrapping_add(at as u64))
        })
        .collect();
    for segment in segments.iter().filter(|segment| segment.executable) {
        for name in &names {
            if let Some(offset) = call_after(segment, *name) {
                return Some(offset);
            }
        }
    }
    None
}

fn call_after(segment: &Segment, name: u64) -> Option<u64> {
    let text = &segment.bytes;
    let relative = memmem::find_iter(text, b"\x48\x8d\x3d").filter(|at| {
        let Some(bytes) = text
            .get(at + 3..at + 7)
            .and_then(|bytes| bytes.first_chunk())
        else {
            return false;
        };
        let next = segment.address.wrapping_add(*at as u64 + 7);
        next.wrapping_add_signed(i32::from_le_bytes(*bytes).into()) == name
    });
    let absolute: Vec<usize> = u32::try_from(name)
        .map(|name| {
            let mut code = [0xbf, 0, 0, 0, 0];
            code[1..].copy_from_slice(&name.to_le_bytes());
            memmem::find_iter(text, &code)
                .take(REFERENCES_MAX)
                .collect()
        })
        .unwrap_or_default();
    relative
        .take(REFERENCES_MAX)
        .chain(absolute)
        .find_map(|at| {
            let code = &text[at..text.len().min(at + 256)];
            let address = segment.address.wrapping_add(at as u64);
            let call = next_call(code, address)?;
            Some(segment.offset + (call - segment.address))
        })
}

/// The first call from here on, as long as the name stays where it is.
fn next_call(code: &[u8], address: u64) -> Option<u64> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    for number in 0..INSTRUCTIONS_MAX {
        if !decoder.can_decode() {
            return None;
        }
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            return None;
        }
        if instruction.is_call_near() || instruction.is_call_near_indirect() {
            return Some(instruction.ip());
        }
        let leaves = instruction.is_jmp_short_or_near()
            || instruction.is_jmp_near_indirect()
            || matches!(instruction.code(), Code::Retnq | Code::Retnq_imm16);
        let overwrites = number > 0
            && instruction.op_count() > 0
            && instruction.op0_kind() == OpKind::Register
            && matches!(instruction.op0_register(), Register::RDI | Register::EDI);
        if leaves || overwrites {
            return None;
        }
    }
    None
}

/// The version, by the texts that every interpreter carries.
fn version(segments: &[Segment]) -> Option<Version> {
    segments
        .iter()
        .find_map(|segment| version_in(&segment.bytes))
}

/// The version that a text or a path speaks of, as in `libpython3.13t.so` or `cpython-311`.
pub fn version_in(text: &[u8]) -> Option<Version> {
    const MARKS: [&[u8]; 3] = [b"cpython-3", b"libpython3.", b"python3."];
    /// Mentions of a mark that are looked at.
    const MENTIONS_MAX: usize = 16;
    MARKS.iter().find_map(|mark| {
        memmem::find_iter(text, mark)
            .take(MENTIONS_MAX)
            .find_map(|at| {
                let rest = &text[at + mark.len()..];
                let digits = rest.iter().take(2).take_while(|byte| byte.is_ascii_digit());
                let count = digits.clone().count();
                let minor = digits.fold(0u8, |minor, digit| minor * 10 + (digit - b'0'));
                (count > 0 && MINORS.contains(&minor)).then(|| Version {
                    minor,
                    free_threaded: rest.get(count) == Some(&b't'),
                })
            })
    })
}

/// Versions that unpicklers are watched in: 3.8 brought the audit event, and what is newer than all that is known here keeps
/// the newest layout until it says otherwise.
const MINORS: std::ops::RangeInclusive<u8> = 8..=30;
