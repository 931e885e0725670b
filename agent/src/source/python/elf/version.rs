//! Which Python a file is of, by its names and by the tag that binaries carry.

/// A Python version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version {
    /// 3 since audit events exist.
    pub major: u8,
    /// 8 for Python 3.8.
    pub minor: u8,
    /// Built without the global lock: objects are laid out differently.
    pub free_threaded: bool,
}

impl std::fmt::Display for Version {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let suffix = if self.free_threaded { "t" } else { "" };
        write!(out, "{}.{}{suffix}", self.major, self.minor)
    }
}

impl Version {
    /// From `libpython3.13t.so.1.0`.
    pub fn of_library(name: &str) -> Option<Version> {
        let rest = name.rsplit('/').next()?.strip_prefix("libpython3.")?;
        Self::from_minor(rest.as_bytes())
    }

    /// From `python3.13t`, a program or a folder.
    pub fn of_program(name: &str) -> Option<Version> {
        let rest = name.rsplit('/').next()?.strip_prefix("python3.")?;
        Self::from_minor(rest.as_bytes())
    }

    /// From `_pickle.cpython-313t-x86_64-linux-gnu.so`.
    pub fn of_extension(name: &str) -> Option<Version> {
        Self::of_tag(name.get(name.find("cpython-3")?..)?.as_bytes())
    }

    /// From `cpython-313t` and what follows.
    pub(super) fn of_tag(text: &[u8]) -> Option<Version> {
        Self::from_minor(text.strip_prefix(b"cpython-3")?)
    }

    /// From `13t` and what follows.
    fn from_minor(text: &[u8]) -> Option<Version> {
        let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=2).contains(&digits) {
            return None;
        }
        let minor = std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
        Some(Version {
            major: 3,
            minor,
            free_threaded: text.get(digits) == Some(&b't'),
        })
    }
}

/// The tag that a binary carries of itself; `None` where it names several versions.
pub(super) fn from_tags(tags: &[Version]) -> Option<Version> {
    let first = tags.first()?;
    tags.iter()
        .all(|tag| tag.minor == first.minor)
        .then_some(Version {
            free_threaded: tags.iter().any(|tag| tag.free_threaded),
            ..*first
        })
}

/// Whether this is the name of a shared interpreter; `libpython3.so`, the stable interface, is none.
pub fn is_libpython(name: &str) -> bool {
    Version::of_library(name).is_some()
}
