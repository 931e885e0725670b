//! Where the running kernel keeps the struct fields that the programs read.
//!
//! A field that is missing, or has another size than the programs read, is left out and named. What needs it is then
//! not attached, or its value stays unset; nothing is guessed.

use std::fs;
use std::path::Path;

use saker_ebpf::config::{ABSENT, FIELDS, Field, Group, Offsets, SIZE, UPID_BYTES};

use super::btf::Btf;
use super::cast::Cast;
use super::errors::SensorError;

/// The running kernel's types.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Controllers whose v1 hierarchy may stand in for v2: every runtime has cgroups of its containers in each. The first that is there.
pub const CONTROLLERS: [&str; 5] = ["memory", "pids", "devices", "freezer", "cpu"];

const POINTER_BYTES: u32 = size_of::<usize>() as u32;

/// The offsets that were found, and the fields that were not.
#[derive(Debug)]
pub struct FoundOffsets {
    /// For the kernel programs.
    pub offsets: Offsets,
    /// In the order of [`FIELDS`].
    pub by_field: [u32; FIELDS.len()],
    /// What could not be found.
    pub missing: Vec<MissingField>,
    /// Places of controllers' states in `css_set`, of those of [`CONTROLLERS`] that the kernel has, in that order.
    pub controllers: Vec<(&'static str, u32)>,
    /// What lets programs read by plain loads, where the kernel has it.
    pub cast: Option<Cast>,
}

/// A field that this kernel does not have as the programs expect it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingField {
    /// The field.
    pub field: Field,
    /// Why it cannot be used, in a few words.
    pub reason: String,
}

impl MissingField {
    /// The field and the reason in one line.
    pub fn describe(&self) -> String {
        let Field {
            type_name, path, ..
        } = self.field;
        format!("{type_name}.{path}: {}", self.reason)
    }
}

impl FoundOffsets {
    /// Required fields of these groups that are missing.
    pub fn missing_in<'a>(&'a self, groups: &'a [Group]) -> impl Iterator<Item = &'a MissingField> {
        self.missing
            .iter()
            .filter(|missing| groups.contains(&missing.field.group))
    }

    /// What is lost because a field that nothing strictly needs is missing.
    pub fn lost_extras(&self) -> impl Iterator<Item = (&'static str, &MissingField)> {
        self.missing
            .iter()
            .filter_map(|missing| match missing.field.group {
                Group::Extra(lost) => Some((lost, missing)),
                _ => None,
            })
    }
}

/// Reads the BTF of the running kernel, or the file at `path` in its place, and finds every field.
pub fn read(path: Option<&Path>) -> Result<FoundOffsets, SensorError> {
    let path = path.unwrap_or(Path::new(KERNEL_BTF));
    let bytes = fs::read(path).map_err(|source| SensorError::NoBtf {
        path: path.to_owned(),
        source,
    })?;
    let btf = Btf::parse(bytes).map_err(|source| SensorError::BadBtf {
        path: path.to_owned(),
        source,
    })?;
    Ok(find(&btf))
}

/// Finds every field of the table.
pub fn find(btf: &Btf) -> FoundOffsets {
    let mut by_field = [ABSENT; FIELDS.len()];
    let mut missing = Vec::new();
    for (offset, field) in by_field.iter_mut().zip(FIELDS) {
        match find_field(btf, field) {
            Ok(found) => *offset = found,
            Err(reason) => missing.push(MissingField {
                field: *field,
                reason,
            }),
        }
    }
    FoundOffsets {
        offsets: Offsets::from_array(by_field),
        by_field,
        missing,
        controllers: controllers(btf),
        cast: Cast::find(btf),
    }
}

fn controllers(btf: &Btf) -> Vec<(&'static str, u32)> {
    let Ok(states) = btf.member("css_set", "subsys") else {
        return Vec::new();
    };
    let place = |name: &'static str| {
        let number = btf.enum_value("cgroup_subsys_id", &format!("{name}_cgrp_id"))?;
        let at = number.checked_mul(POINTER_BYTES)?;
        (at < states.size).then(|| (name, states.offset + at))
    };
    CONTROLLERS.iter().copied().filter_map(place).collect()
}

fn find_field(btf: &Btf, field: &Field) -> Result<u32, String> {
    if field.path == SIZE {
        return size_of_inode(btf, field.type_name);
    }
    // The error is the oldest name's: that one is known to be in some kernel.
    let member = field
        .path
        .split('|')
        .map(|path| btf.member(field.type_name, path))
        .reduce(|found, next| found.or(next))
        .unwrap_or_else(|| btf.member(field.type_name, field.path))
        .map_err(|error| error.to_string())?;
    if field.bytes != 0 && member.size != field.bytes {
        return Err(format!(
            "is {} bytes, expected {}",
            member.size, field.bytes
        ));
    }
    // An array's elements are reached by their size, which is no member and so no row of the table.
    if (field.type_name, field.path) == ("pid", "numbers")
        && btf
            .member("upid", "ns")
            .is_ok_and(|ns| ns.offset + ns.size != UPID_BYTES)
    {
        return Err(format!("its elements are not {UPID_BYTES} bytes"));
    }
    Ok(member.offset)
}

/// Where an overlay's inode continues behind the plain one. Type information that has the overlay's own struct must agree.
fn size_of_inode(btf: &Btf, type_name: &str) -> Result<u32, String> {
    let size = btf
        .size_of(type_name)
        .ok_or_else(|| format!("no struct {type_name}"))?;
    let overlay = |path| btf.member("ovl_inode", path);
    if let (Ok(inode), Ok(upper)) = (overlay("vfs_inode"), overlay("__upperdentry"))
        && inode.offset + size != upper.offset
    {
        return Err("an overlay's inode does not continue behind it".to_owned());
    }
    if overlay("vfs_inode").is_ok() && overlay("__upperdentry").is_err() {
        return Err("an overlay's inode has no __upperdentry".to_owned());
    }
    Ok(size)
}
