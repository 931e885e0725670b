//! Attaching the kernel's programs to a place in an interpreter's file: which program, by the version and by what the place is.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use aya::programs::ProgramFd;

use super::elf::{Site, Version};
use crate::source::{mounts, perf};

/// The programs, loaded.
pub(super) struct Programs {
    programs: Vec<(&'static str, ProgramFd)>,
    perf_type: u32,
}

impl Programs {
    /// From programs by name, as the loader hands them out.
    pub(super) fn new(programs: Vec<(&'static str, ProgramFd)>) -> io::Result<Self> {
        Ok(Self {
            programs,
            perf_type: perf::uprobe_type()?,
        })
    }

    /// Attaches to places in a file, until what is returned is dropped. The kernel keeps the path that it is given, mount
    /// included, for as long as the program is attached: where it can, it is given a mount that nobody wants to unmount.
    pub(super) fn attach(
        &self,
        file: &File,
        sites: &[Site],
        version: Version,
    ) -> io::Result<Vec<OwnedFd>> {
        let own = mounts::clone_detached(file.as_fd());
        let place = own.as_ref().map_or(file.as_fd(), AsFd::as_fd);
        sites
            .iter()
            .map(|site| self.attach_at(place, site, version))
            .collect()
    }

    fn attach_at(
        &self,
        place: BorrowedFd<'_>,
        site: &Site,
        version: Version,
    ) -> io::Result<OwnedFd> {
        let (name, offset) = match site {
            Site::Call { file_offset } => (name(version, false), *file_offset),
            Site::Entry { file_offset } => (name(version, true), *file_offset),
        };
        let (_, program) = self
            .programs
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| io::Error::other(format!("program {name} is not loaded")))?;
        // The file that was read, whatever its name means by now.
        let path = CString::new(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
        perf::attach_uprobe(self.perf_type, &path, offset, program.as_fd())
    }
}

/// The kernel's program for a version's layout of `str`.
fn name(version: Version, at_entry: bool) -> &'static str {
    match (version.minor, version.free_threaded, at_entry) {
        (..=11, _, false) => "saker_pickle_wstr",
        (..=11, _, true) => "saker_audit_wstr",
        (_, false, false) => "saker_pickle",
        (_, false, true) => "saker_audit",
        (..=13, true, false) => "saker_pickle_free",
        (..=13, true, true) => "saker_audit_free",
        (_, true, false) => "saker_pickle_free_wide",
        (_, true, true) => "saker_audit_free_wide",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(minor: u8, free_threaded: bool, expected: [&str; 2]) {
        let version = Version {
            major: 3,
            minor,
            free_threaded,
        };
        assert_eq!([name(version, false), name(version, true)], expected);
    }

    #[test]
    fn every_layout_has_its_program() {
        for minor in 8..=11 {
            check(minor, false, ["saker_pickle_wstr", "saker_audit_wstr"]);
        }
        for minor in 12..=15 {
            check(minor, false, ["saker_pickle", "saker_audit"]);
        }
        check(13, true, ["saker_pickle_free", "saker_audit_free"]);
        for minor in 14..=15 {
            let wide = ["saker_pickle_free_wide", "saker_audit_free_wide"];
            check(minor, true, wide);
        }
    }
}
