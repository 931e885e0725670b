//! Compiled rules as bytes: written once, mapped and used in place.
//!
//! The compiled form *is* the bundle: flat tables of little-endian rows. Loading maps the file, compares the checksum and walks the tables
//! once, so that every number that refers to another table is known to fit; no rule is parsed or compiled. The checksum is
//! against damage, not against an author with bad intent: whoever can write the bundle can write rules.
//!
//! Even so nothing reads out of bounds: all reads go through slices. A file must not be changed while it is mapped;
//! [`Bundle::write_to`] replaces a file by renaming and never writes into one.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use self_cell::self_cell;
use xxhash_rust::xxh3::xxh3_64;

use crate::fields::FIELDS;

pub(crate) mod codec;
pub(crate) mod rows;
mod tables;

pub(crate) use tables::{Builder, SPECIAL_PROGRAMS, SUB_DEPTH_MAX, Tables};

/// First bytes of every bundle.
const MAGIC: [u8; 8] = *b"SAKRULES";
/// Grows with every change of a row, of a table's layout or of the hash.
const VERSION: u32 = 1;
/// Reads as another number on a machine of the other byte order.
const ENDIAN: u32 = 0x0102_0304;
/// Header and directory are multiples of this, and sections start at one.
const ALIGN: usize = 8;

/// Compiled rules.
#[derive(Clone)]
pub struct Bundle(Arc<Loaded>);

self_cell!(
    struct Loaded {
        owner: Storage,
        #[covariant]
        dependent: Tables,
    }
);

enum Storage {
    Mapped(memmap2::Mmap),
    /// Quads, so that sections are aligned.
    Owned(Vec<u64>, usize),
}

impl Storage {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(quads, len) => &bytemuck::cast_slice(quads)[..*len],
        }
    }
}

/// Why bytes are not a bundle that this program can use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The file could not be read.
    #[error("reading the rule bundle {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("writing the rule bundle {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The bytes do not start as a bundle does.
    #[error("not a rule bundle: it does not start with {:?}", str::from_utf8(&MAGIC).unwrap_or_default())]
    NotABundle,
    /// The bundle was written on a machine of the other byte order.
    #[error(
        "the rule bundle was compiled for a machine of the other byte order; compile it again for this one"
    )]
    ForeignEndian,
    /// The bundle has another format.
    #[error(
        "the rule bundle has format version {found}, this program reads {VERSION}; compile it again"
    )]
    OtherVersion {
        /// Its version.
        found: u32,
    },
    /// The bundle was compiled with another table of fields.
    #[error("the rule bundle was compiled by a program with other fields; compile it again")]
    OtherFields,
    /// Bytes are missing or left over.
    #[error("the rule bundle is {found} bytes long, its header says {expected}")]
    WrongLength {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// The bytes are not those that were written.
    #[error("the rule bundle is damaged: its checksum does not match")]
    Damaged,
    /// The bytes are those that were written, but make no sense.
    #[error("the rule bundle is malformed: {what}")]
    Malformed {
        /// The first thing that is wrong.
        what: &'static str,
    },
}

impl Bundle {
    /// Takes a copy of the bytes and checks them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BundleError> {
        let mut quads = vec![0_u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut quads)[..bytes.len()].copy_from_slice(bytes);
        Self::load(Storage::Owned(quads, bytes.len()))
    }

    /// Maps the file and checks it. The file must not be written to while the bundle is in use; replacing it is fine.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, BundleError> {
        let path = path.as_ref();
        let failed = |source| BundleError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() == 0 {
            return Err(BundleError::NotABundle);
        }
        // SAFETY: the map is private and read-only. That nobody changes the file under it is asked of the caller, as for every
        // mapped file; all reads are bounds-checked, so that even then no memory outside the map is read.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
        Self::load(Storage::Mapped(map))
    }

    /// The bytes, to store or send.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.borrow_owner().bytes()
    }

    /// Writes the bundle beside the path, then renames it there, so that readers see the old file or the new one.
    pub fn write_to(&self, path: impl AsRef<Path>) -> Result<(), BundleError> {
        let path = path.as_ref();
        self.replace(path).map_err(|source| BundleError::Write {
            path: path.to_owned(),
            source,
        })
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut beside = name.to_owned();
        beside.push(format!(".{}.tmp", std::process::id()));
        let beside = path.with_file_name(beside);
        let written = (|| {
            let mut file = File::create(&beside)?;
            file.write_all(self.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&beside, path)
        })();
        if written.is_err() {
            // The first failure is the one to report.
            let _ = std::fs::remove_file(&beside);
        }
        written
    }

    /// The digest of what the bundle was compiled from.
    pub fn source_digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        if let Some(stored) = self.as_bytes().get(HEADER_DIGEST..HEADER_DIGEST + 32) {
            digest.copy_from_slice(stored);
        }
        digest
    }

    /// What evaluation reads of the bundle, in bytes: all but what is told of rules.
    pub fn index_len(&self) -> usize {
        self.tables().index_len()
    }

    pub(crate) fn tables(&self) -> &Tables<'_> {
        self.0.borrow_dependent()
    }

    fn load(storage: Storage) -> Result<Self, BundleError> {
        Ok(Self(Arc::new(Loaded::try_new(storage, |storage| {
            let bytes = storage.bytes();
            check_header(bytes)?;
            Tables::load(&bytes[HEADER_LEN..]).map_err(|what| BundleError::Malformed { what })
        })?)))
    }
}

impl core::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Bundle")
            .field("bytes", &self.as_bytes().len())
            .finish_non_exhaustive()
    }
}

/// Builds a bundle from finished tables.
pub(crate) fn assemble(tables: &Builder, digest: [u8; 32]) -> Result<Bundle, BundleError> {
    let mut bytes = vec![0; HEADER_LEN];
    tables.write(&mut bytes);
    let len = bytes.len() as u64;
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&ENDIAN.to_le_bytes());
    bytes[12..16].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&len.to_le_bytes());
    bytes[32..40].copy_from_slice(&fields_digest().to_le_bytes());
    bytes[HEADER_DIGEST..HEADER_DIGEST + 32].copy_from_slice(&digest);
    let checksum = xxh3_64(&bytes[32..]);
    bytes[24..32].copy_from_slice(&checksum.to_le_bytes());
    Bundle::from_bytes(&bytes)
}

// Magic 8, endian 4, version 4, length 8, checksum of what follows 8, fields 8, source digest 32.
const HEADER_DIGEST: usize = 40;
const HEADER_LEN: usize = 72;
const _: () = assert!(HEADER_LEN.is_multiple_of(ALIGN));

fn check_header(bytes: &[u8]) -> Result<(), BundleError> {
    let word = |at: usize| {
        bytes
            .get(at..at + 4)
            .map(|raw| u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]))
    };
    let quad = |at: usize| Some(u64::from(word(at)?) | u64::from(word(at + 4)?) << 32);
    if !bytes.starts_with(&MAGIC) {
        return Err(BundleError::NotABundle);
    }
    match word(8) {
        Some(ENDIAN) if cfg!(target_endian = "little") => {}
        Some(ENDIAN) => return Err(BundleError::ForeignEndian),
        Some(other) if other == ENDIAN.swap_bytes() => return Err(BundleError::ForeignEndian),
        _ => return Err(BundleError::NotABundle),
    }
    match word(12) {
        Some(VERSION) => {}
        Some(found) => return Err(BundleError::OtherVersion { found }),
        None => return Err(BundleError::NotABundle),
    }
    let expected = quad(16).ok_or(BundleError::NotABundle)?;
    if expected != bytes.len() as u64 || bytes.len() < HEADER_LEN {
        return Err(BundleError::WrongLength {
            found: bytes.len() as u64,
            expected,
        });
    }
    if quad(24) != Some(xxh3_64(&bytes[32..])) {
        return Err(BundleError::Damaged);
    }
    if quad(32) != Some(fields_digest()) {
        return Err(BundleError::OtherFields);
    }
    Ok(())
}

/// Changes when a field's number, name or type does.
fn fields_digest() -> u64 {
    static DIGEST: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *DIGEST.get_or_init(|| {
        let text: String = FIELDS
            .iter()
            .map(|field| format!("{} {:?} {}\n", field.name, field.ty, field.list))
            .collect();
        xxh3_64(text.as_bytes())
    })
}

/// Bytes of a section, from an offset that is rounded up to the alignment.
fn align(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
}
