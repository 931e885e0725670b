//! One ELF file: which audit events of Python it raises, and at which file offsets.
//!
//! Only the ELF header, the program headers, the dynamic table and the read-only segments are read; section headers,
//! which a file can do without, are not looked at. Files are hostile input: whatever they say is checked against what
//! was read, and every count and length has a bound here.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use memchr::memmem;
use object::LittleEndian as Le;
use object::elf::{self, Dyn64, FileHeader64, ProgramHeader64, Sym64};
use object::pod::{self, Pod};

use super::code::{self, Machine};

mod method;
mod version;

pub use version::{Version, is_libpython};

/// A larger file is no interpreter.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// How much of the segments is searched; the largest build known has 40 MB of code and constants.
const SEARCH_BYTES_MAX: u64 = 96 << 20;
/// Pieces of a segment stay in the processor's cache.
const PIECE_BYTES: usize = 256 << 10;
const SEGMENTS_MAX: usize = 64;
const DYNAMIC_MAX: usize = 512;
const NEEDS_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 4096;
const BUILD_ID_BYTES_MAX: usize = 64;
const NOTES_BYTES_MAX: u64 = 4096;
const CHAIN_MAX: u64 = 256;
/// Places of one string, and calls that take it.
const PLACES_MAX: usize = 8;
const SITES_MAX: usize = 32;

/// Why a file was not analyzed.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// A folder, a pipe, a device.
    #[error("not a regular file")]
    NotRegular,
    /// Larger than any interpreter.
    #[error("{0} bytes are more than an interpreter has")]
    TooLarge(u64),
    /// Something else than ELF.
    #[error("not an ELF file")]
    NotElf,
    /// ELF of a kind that cannot be read here.
    #[error("not a 64-bit little-endian program or library for x86-64 or aarch64")]
    OtherMachine,
    /// Headers that contradict the file or a bound.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// The file could not be read.
    #[error("cannot be read")]
    Io(#[source] io::Error),
}

/// An audit event that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuditName {
    /// An unpickler resolves a global: module, name.
    PickleFindClass,
    /// A shell command: command.
    OsSystem,
    /// A library is loaded: name.
    CtypesDlopen,
    /// Code is read from bytes: bytes.
    MarshalLoads,
    /// A code object is made: code, filename, name, and counts.
    CodeNew,
}

impl AuditName {
    /// All of them.
    pub const ALL: [AuditName; 5] = [
        AuditName::PickleFindClass,
        AuditName::OsSystem,
        AuditName::CtypesDlopen,
        AuditName::MarshalLoads,
        AuditName::CodeNew,
    ];

    /// As Python spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            AuditName::PickleFindClass => "pickle.find_class",
            AuditName::OsSystem => "os.system",
            AuditName::CtypesDlopen => "ctypes.dlopen",
            AuditName::MarshalLoads => "marshal.loads",
            AuditName::CodeNew => "code.__new__",
        }
    }
}

/// Where to attach, as an offset in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Site {
    /// The call of `PySys_Audit` with this event's name.
    Call {
        /// Of the call instruction.
        file_offset: u64,
    },
    /// `PySys_Audit` itself, where the name is in the file but its call was not found.
    Entry {
        /// Of the function's first instruction.
        file_offset: u64,
    },
}

/// What one ELF file offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sites {
    /// Every call for `pickle.find_class`; compilers may make more than one of it.
    pub find_class: Vec<Site>,
    /// File offset of `PySys_Audit`, where this file defines it.
    pub audit_entry: Option<u64>,
    /// From the binary itself; `None` where it does not say.
    pub version: Option<Version>,
    /// The linker's identification of this build.
    pub build_id: Option<Vec<u8>>,
    /// It defines `PySys_Audit` or needs a libpython.
    pub is_python: bool,
    /// A bound of the search was reached, and something may have been overlooked.
    pub is_cut: bool,
    /// Names of the libraries it needs.
    pub needs: Vec<String>,
    /// Folders where those are looked for first, `$ORIGIN` unexpanded.
    pub library_paths: Vec<String>,
}

/// What else an interpreter's file offers. It takes longer to find, and who is in a hurry attaches to [`Sites`] first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audits {
    /// Calls of the events other than `pickle.find_class`.
    pub calls: Vec<(AuditName, Site)>,
    /// File offset of the function behind `sys.audit`, by which unpicklers announce that are Python themselves.
    pub python: Option<u64>,
    /// A bound of the search was reached, and something may have been overlooked.
    pub is_cut: bool,
}

/// Finds the calls for `pickle.find_class` in a file. Reads at most about 100 MB twice, whatever the file says.
pub fn analyze(file: &File) -> Result<Sites, ElfError> {
    let image = Image::open(file)?;
    let mut sites = image.summary()?;
    let strings = image.find_strings(&[AuditName::PickleFindClass], &[b"cpython-3"])?;
    let tags = &strings.versions;
    if sites.version.is_none() {
        sites.version = version::from_tags(tags);
    } else if let Some(version) = &mut sites.version {
        version.free_threaded |= tags
            .iter()
            .any(|tag| tag.free_threaded && tag.minor == version.minor);
    }
    let calls = image.find_calls(&strings.names)?;
    sites.find_class = sites_of(
        AuditName::PickleFindClass,
        &strings,
        &calls,
        sites.audit_entry,
    );
    sites.is_cut = image.is_cut.get();
    Ok(sites)
}

/// Finds what else a file offers that defines `PySys_Audit`. Reads at most about 100 MB twice, and its data.
pub fn audits(file: &File) -> Result<Audits, ElfError> {
    let image = Image::open(file)?;
    let entry = image.summary()?.audit_entry;
    let others = &AuditName::ALL[1..];
    let strings = image.find_strings(others, &[b"audit\0"])?;
    let calls = image.find_calls(&strings.names)?;
    let calls = others
        .iter()
        .flat_map(|name| {
            sites_of(*name, &strings, &calls, entry)
                .into_iter()
                .map(|site| (*name, site))
        })
        .collect();
    let python = match entry {
        Some(_) => method::fastcall(&image, &strings.methods)?,
        None => None,
    };
    Ok(Audits {
        calls,
        python,
        is_cut: image.is_cut.get(),
    })
}

/// The calls for an event, or the function's entry where the name is in the file and no call was found.
fn sites_of(
    name: AuditName,
    strings: &Strings,
    calls: &[(AuditName, u64)],
    entry: Option<u64>,
) -> Vec<Site> {
    let of_name: Vec<_> = calls.iter().filter(|call| call.0 == name).collect();
    if of_name.is_empty() && strings.names.iter().any(|place| place.0 == name) {
        return entry
            .map(|file_offset| Site::Entry { file_offset })
            .into_iter()
            .collect();
    }
    let call = |call: &(AuditName, u64)| Site::Call {
        file_offset: call.1,
    };
    of_name.into_iter().map(call).collect()
}

/// Texts that were found.
#[derive(Debug, Default)]
struct Strings {
    /// Names of events, with their addresses.
    names: Vec<(AuditName, u64)>,
    /// What the tags `cpython-313` name.
    versions: Vec<Version>,
    /// Addresses of the name `audit` of a method.
    methods: Vec<u64>,
}

/// What the headers and the dynamic table say, without a search: no call sites, and a version only where a symbol or
/// the name of a library gives it. Costs a few small reads.
pub fn summarize(file: &File) -> Result<Sites, ElfError> {
    Image::open(file)?.summary()
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    address: u64,
    offset: u64,
    bytes: u64,
    flags: u32,
}

impl Segment {
    fn executable(&self) -> bool {
        self.flags & elf::PF_X != 0
    }

    fn writable(&self) -> bool {
        self.flags & elf::PF_W != 0
    }
}

struct Image<'a> {
    file: &'a File,
    machine: Machine,
    /// Linked to fixed addresses.
    absolute: bool,
    segments: Vec<Segment>,
    dynamic: Option<(u64, u64)>,
    notes: Vec<(u64, u64)>,
    is_cut: Cell<bool>,
}

impl<'a> Image<'a> {
    fn open(file: &'a File) -> Result<Self, ElfError> {
        let metadata = file.metadata().map_err(ElfError::Io)?;
        if !metadata.is_file() {
            return Err(ElfError::NotRegular);
        }
        let file_bytes = metadata.len();
        if file_bytes > FILE_BYTES_MAX {
            return Err(ElfError::TooLarge(file_bytes));
        }
        let mut magic = [0; 4];
        if read_at(file, &mut magic, 0)? < 4 || magic != elf::ELFMAG {
            return Err(ElfError::NotElf);
        }
        let header: FileHeader64<Le> =
            read_pod(file, 0)?.ok_or(ElfError::Malformed("ELF header"))?;
        let ident = header.e_ident;
        let kind = header.e_type.get(Le);
        let machine = match header.e_machine.get(Le) {
            elf::EM_X86_64 => Machine::X86_64,
            elf::EM_AARCH64 => Machine::Aarch64,
            _ => return Err(ElfError::OtherMachine),
        };
        if ident.class != elf::ELFCLASS64
            || ident.data != elf::ELFDATA2LSB
            || ![elf::ET_EXEC, elf::ET_DYN].contains(&kind)
        {
            return Err(ElfError::OtherMachine);
        }
        let count = usize::from(header.e_phnum.get(Le));
        if count > SEGMENTS_MAX
            || usize::from(header.e_phentsize.get(Le)) != size_of::<ProgramHeader64<Le>>()
        {
            return Err(ElfError::Malformed("program headers"));
        }
        let mut image = Image {
            file,
            machine,
            absolute: kind == elf::ET_EXEC,
            segments: Vec::new(),
            dynamic: None,
            notes: Vec::new(),
            is_cut: Cell::new(false),
        };
        let table = header.e_phoff.get(Le);
        for index in 0..count {
            let at = table.checked_add((index * size_of::<ProgramHeader64<Le>>()) as u64);
            let header: ProgramHeader64<Le> = at
                .map(|at| read_pod(file, at))
                .transpose()?
                .flatten()
                .ok_or(ElfError::Malformed("program headers"))?;
            let offset = header.p_offset.get(Le);
            let address = header.p_vaddr.get(Le);
            let stated = header.p_filesz.get(Le);
            let bytes = stated.min(file_bytes.saturating_sub(offset));
            if address.checked_add(stated).is_none() {
                return Err(ElfError::Malformed("a segment's address"));
            }
            match header.p_type.get(Le) {
                elf::PT_LOAD if bytes > 0 => image.segments.push(Segment {
                    address,
                    offset,
                    bytes,
                    flags: header.p_flags.get(Le),
                }),
                elf::PT_DYNAMIC => image.dynamic = Some((offset, bytes)),
                elf::PT_NOTE => image.notes.push((offset, bytes)),
                _ => {}
            }
        }
        Ok(image)
    }

    fn file_offset(&self, address: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let inside = address.checked_sub(segment.address)?;
            (inside < segment.bytes).then_some(segment.offset + inside)
        })
    }

    fn summary(&self) -> Result<Sites, ElfError> {
        let mut sites = Sites {
            build_id: self.build_id()?,
            ..Sites::default()
        };
        let Some((offset, bytes)) = self.dynamic else {
            return Ok(sites);
        };
        let mut names = Vec::new();
        let [mut strings, mut symbols, mut hash] = [None; 3];
        let count = (bytes as usize / size_of::<Dyn64<Le>>()).min(DYNAMIC_MAX);
        for index in 0..count {
            let at = offset + (index * size_of::<Dyn64<Le>>()) as u64;
            let Some(entry) = read_pod::<Dyn64<Le>>(self.file, at)? else {
                break;
            };
            let value = entry.d_val.get(Le);
            match entry.d_tag.get(Le) {
                elf::DT_NULL => break,
                elf::DT_STRTAB => strings = self.file_offset(value),
                elf::DT_SYMTAB => symbols = self.file_offset(value),
                elf::DT_GNU_HASH => hash = self.file_offset(value),
                tag @ (elf::DT_NEEDED | elf::DT_SONAME | elf::DT_RPATH | elf::DT_RUNPATH)
                    if names.len() < NEEDS_MAX =>
                {
                    names.push((tag, value));
                }
                _ => {}
            }
        }
        let Some(strings) = strings else {
            return Ok(sites);
        };
        let mut soname = None;
        for (tag, at) in names {
            let Some(at) = strings.checked_add(at) else {
                continue;
            };
            let Some(name) = self.string(at)? else {
                continue;
            };
            match tag {
                elf::DT_NEEDED => sites.needs.push(name),
                elf::DT_SONAME => soname = Some(name),
                _ => sites
                    .library_paths
                    .extend(name.split(':').take(NEEDS_MAX).map(str::to_owned)),
            }
        }
        let mut version_symbol = None;
        if let (Some(symbols), Some(hash)) = (symbols, hash) {
            let table = SymbolTable {
                strings,
                symbols,
                hash,
            };
            sites.audit_entry = self
                .symbol(&table, "PySys_Audit")?
                .filter(|address| self.is_code(*address))
                .and_then(|address| self.file_offset(address));
            version_symbol = self.symbol(&table, "Py_Version")?;
        }
        let by_name = soname
            .iter()
            .chain(&sites.needs)
            .find_map(|name| Version::of_library(name));
        sites.version = match version_symbol.and_then(|address| self.file_offset(address)) {
            Some(at) => self.version_constant(at)?,
            None => None,
        }
        .map(|version| Version {
            free_threaded: by_name.is_some_and(|named| named.free_threaded),
            ..version
        })
        .or(by_name);
        sites.is_python =
            sites.audit_entry.is_some() || sites.needs.iter().any(|name| is_libpython(name));
        Ok(sites)
    }

    fn is_code(&self, address: u64) -> bool {
        self.segments.iter().any(|segment| {
            segment.executable()
                && address
                    .checked_sub(segment.address)
                    .is_some_and(|inside| inside < segment.bytes)
        })
    }

    /// The value of `Py_Version`: 0x030d00f0 is 3.13.0 final.
    fn version_constant(&self, at: u64) -> Result<Option<Version>, ElfError> {
        let mut bytes = [0; 4];
        let read = read_at(self.file, &mut bytes, at)?;
        Ok(
            (read == 4 && bytes[3] == 3 && bytes[2] < 100).then_some(Version {
                major: bytes[3],
                minor: bytes[2],
                free_threaded: false,
            }),
        )
    }

    fn build_id(&self) -> Result<Option<Vec<u8>>, ElfError> {
        for (offset, bytes) in &self.notes {
            let mut notes = vec![0; (*bytes).min(NOTES_BYTES_MAX) as usize];
            let read = read_at(self.file, &mut notes, *offset)?;
            if let Some(id) = build_id_in(&notes[..read]) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    fn string(&self, at: u64) -> Result<Option<String>, ElfError> {
        let mut bytes = vec![0; 256];
        let mut read = read_at(self.file, &mut bytes, at)?;
        if !bytes[..read].contains(&0) {
            bytes.resize(NAME_BYTES_MAX, 0);
            read = read_at(self.file, &mut bytes, at)?;
        }
        let text = bytes[..read].split(|byte| *byte == 0).next();
        Ok(text
            .filter(|text| text.len() < read)
            .and_then(|text| String::from_utf8(text.to_vec()).ok()))
    }

    /// The address of a defined symbol, through the GNU hash table.
    fn symbol(&self, table: &SymbolTable, name: &str) -> Result<Option<u64>, ElfError> {
        let Some([buckets, first, bloom_words, _]) = self.words::<4>(table.hash)? else {
            return Ok(None);
        };
        if buckets == 0 {
            return Ok(None);
        }
        let hash = elf::gnu_hash(name.as_bytes());
        let buckets_at = table.hash + 16 + u64::from(bloom_words) * 8;
        let chains_at = buckets_at + u64::from(buckets) * 4;
        let Some([start]) = self.words::<1>(buckets_at + u64::from(hash % buckets) * 4)? else {
            return Ok(None);
        };
        let Some(into_chains) = start.checked_sub(first) else {
            return Ok(None);
        };
        for step in 0..CHAIN_MAX {
            let chain_at = chains_at + (u64::from(into_chains) + step) * 4;
            let Some([chain]) = self.words::<1>(chain_at)? else {
                return Ok(None);
            };
            if chain | 1 == hash | 1 {
                let index = u64::from(start) + step;
                let at = table.symbols + index * size_of::<Sym64<Le>>() as u64;
                if let Some(symbol) = read_pod::<Sym64<Le>>(self.file, at)?
                    && symbol.st_shndx.get(Le) != elf::SHN_UNDEF
                    && self
                        .string(table.strings + u64::from(symbol.st_name.get(Le)))?
                        .as_deref()
                        == Some(name)
                {
                    return Ok(Some(symbol.st_value.get(Le)));
                }
            }
            if chain & 1 == 1 {
                break;
            }
        }
        Ok(None)
    }

    fn words<const N: usize>(&self, at: u64) -> Result<Option<[u32; N]>, ElfError> {
        let mut bytes = [[0; 4]; N];
        let read = read_at(self.file, bytes.as_flattened_mut(), at)?;
        Ok((read == N * 4).then(|| bytes.map(u32::from_le_bytes)))
    }

    /// Where the names of events stand, and what else is asked for: `cpython-3` for versions, `audit` for methods.
    fn find_strings(&self, names: &[AuditName], others: &[&[u8]]) -> Result<Strings, ElfError> {
        let finders: Vec<_> = names
            .iter()
            .map(|name| {
                let with_end = [name.as_str().as_bytes(), b"\0"].concat();
                (*name, memmem::Finder::new(&with_end).into_owned())
            })
            .collect();
        let asked = |text: &[u8]| {
            others
                .contains(&text)
                .then(|| memmem::Finder::new(text).into_owned())
        };
        let (tag, method) = (asked(b"cpython-3"), asked(b"audit\0"));
        let mut strings = Strings::default();
        let mut search = |executable: bool| {
            self.pieces(executable, 64, |address, piece, fresh| {
                let places = &mut strings.names;
                for (name, finder) in &finders {
                    let of_name = places.iter().filter(|(of, _)| of == name).count();
                    let more = finder
                        .find_iter(piece)
                        .filter(|at| *at < fresh)
                        .map(|at| (*name, address + at as u64));
                    places.extend(more.take(PLACES_MAX - of_name));
                }
                if let Some(method) = &method {
                    let found = method.find_iter(piece).filter(|at| *at < fresh);
                    let room = PLACES_MAX - strings.methods.len();
                    strings
                        .methods
                        .extend(found.map(|at| address + at as u64).take(room));
                }
                let found = tag.iter().flat_map(|tag| tag.find_iter(piece).take(64));
                let versions = &mut strings.versions;
                for version in found.filter_map(|at| Version::of_tag(&piece[at..])) {
                    if versions.len() < PLACES_MAX && !versions.contains(&version) {
                        versions.push(version);
                    }
                }
            })?;
            Ok::<bool, ElfError>(strings.names.is_empty())
        };
        // Linkers without separate-code put constants into the segment of the code.
        if search(false)? {
            search(true)?;
        }
        Ok(strings)
    }

    fn find_calls(&self, places: &[(AuditName, u64)]) -> Result<Vec<(AuditName, u64)>, ElfError> {
        let mut calls = Vec::new();
        if places.is_empty() {
            return Ok(calls);
        }
        let targets: Vec<u64> = places.iter().map(|place| place.1).collect();
        self.pieces(true, code::WINDOW_BYTES + 8, |address, piece, fresh| {
            for site in code::call_sites(self.machine, piece, address, &targets, self.absolute) {
                let offset = self.file_offset(address + site.offset as u64);
                if let Some(offset) = offset
                    && site.reference < fresh
                    && calls.len() < SITES_MAX
                {
                    let call = (places[site.target].0, offset);
                    if !calls.contains(&call) {
                        calls.push(call);
                    }
                }
            }
        })?;
        Ok(calls)
    }

    /// Hands over the read-only segments, executable or not, in pieces: address, bytes, and how many of these bytes
    /// the next piece does not repeat.
    fn pieces(
        &self,
        executable: bool,
        overlap: usize,
        mut each: impl FnMut(u64, &[u8], usize),
    ) -> Result<(), ElfError> {
        let mut budget = SEARCH_BYTES_MAX;
        let mut buffer = vec![0; PIECE_BYTES + overlap];
        let wanted = |segment: &&Segment| {
            segment.executable() == executable && (executable || !segment.writable())
        };
        for segment in self.segments.iter().filter(wanted) {
            let mut done = 0;
            while done < segment.bytes {
                if budget == 0 {
                    self.is_cut.set(true);
                    return Ok(());
                }
                let want = (segment.bytes - done).min(buffer.len() as u64) as usize;
                let read = read_at(self.file, &mut buffer[..want], segment.offset + done)?;
                if read == 0 {
                    break;
                }
                let last = done + read as u64 >= segment.bytes || read < want;
                let fresh = if last { read } else { PIECE_BYTES };
                each(segment.address + done, &buffer[..read], fresh);
                if last {
                    break;
                }
                done += PIECE_BYTES as u64;
                budget = budget.saturating_sub(PIECE_BYTES as u64);
            }
        }
        Ok(())
    }
}

struct SymbolTable {
    strings: u64,
    symbols: u64,
    hash: u64,
}

fn build_id_in(mut notes: &[u8]) -> Option<Vec<u8>> {
    let word = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    loop {
        let (name, content, kind) = (word(notes, 0)?, word(notes, 4)?, word(notes, 8)?);
        let content_at = 12usize.checked_add(name.checked_next_multiple_of(4)?)?;
        let next = content_at.checked_add(content.checked_next_multiple_of(4)?)?;
        if kind == elf::NT_GNU_BUILD_ID as usize
            && notes.get(12..16) == Some(b"GNU\0")
            && (1..=BUILD_ID_BYTES_MAX).contains(&content)
        {
            return notes
                .get(content_at..content_at + content)
                .map(<[u8]>::to_vec);
        }
        notes = notes.get(next..)?;
    }
}

fn read_pod<T: Pod + Copy>(file: &File, at: u64) -> Result<Option<T>, ElfError> {
    let mut bytes = [0; 64];
    let bytes = &mut bytes[..size_of::<T>()];
    let read = read_at(file, bytes, at)?;
    if read < bytes.len() {
        return Ok(None);
    }
    Ok(pod::from_bytes::<T>(bytes).ok().map(|(value, _)| *value))
}

/// Reads as much as there is. An offset that no file can have reads nothing.
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> Result<usize, ElfError> {
    if at > FILE_BYTES_MAX {
        return Ok(0);
    }
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ElfError::Io(error)),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests;
