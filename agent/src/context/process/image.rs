//! What a process runs: everything that execve set, and that children share until they exec themselves.
//!
//! Built once from what the kernel recorded, joined texts included, so that a field costs no allocation.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// What a process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `comm`: at most 15 bytes.
    pub name: Box<[u8]>,
    /// Absolute path of the executable, as the kernel resolved it; empty where it is not known.
    pub exe_path: Box<[u8]>,
    /// `argv[0]`, which the caller of execve chose freely.
    pub argv0: Box<[u8]>,
    /// How many arguments follow `argv[0]`; also those that were cut off, where the kernel counted them.
    pub args_count: usize,
    /// Whether the kernel side had to cut the arguments, or could not read them.
    pub argv_truncated: bool,
    /// `name argv[1] argv[2] …`, built once.
    pub cmdline: Box<[u8]>,
    /// `argv[1] argv[2] …`: the tail of `cmdline`.
    args_at: usize,
    /// Where each argument ends in `args`, kept only where one holds a blank: elsewhere the blanks say it.
    ends: Box<[u16]>,
    /// Working directory at exec; empty where it is not known.
    pub cwd: Box<[u8]>,
    /// `NAME=value NAME=value …`: the recorded variables, each ended by a NUL byte.
    pub env: Box<[u8]>,
    /// Whether more of the recorded variables were there than there is room for, or they could not be read. `None` where
    /// the environment was not recorded at all.
    pub env_truncated: Option<bool>,
    /// Whether the executable lived in memory only (memfd_create).
    pub from_memfd: bool,
    /// The executable's file; `None` where it was not examined.
    pub file: Option<File>,
}

/// What the kernel knew of the executable's file when it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Inode number.
    pub inode: u64,
    /// Last change of the inode, nanoseconds since the Unix epoch; `None` where it is not known.
    pub ctime_ns: Option<u64>,
    /// Last change of the contents.
    pub mtime_ns: Option<u64>,
    /// Whether the user who started it may write it; `None` where it is not known.
    pub is_writable: Option<bool>,
    /// Where in a container's file system it lies.
    pub layer: Layer,
}

/// Where in an overlay of a container's image and its own changes a file lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layer {
    /// In no overlay.
    None,
    /// In the changes: made or altered since the container was.
    Upper,
    /// In the image.
    Lower,
    /// Not known.
    #[default]
    Unknown,
}

/// Everything that a start of a program brings; [`Image::new`] makes what is kept of it.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "each is the field of Image with the same name")]
pub struct Start<'a> {
    pub name: &'a [u8],
    pub exe_path: &'a [u8],
    /// Arguments, each ended by a NUL byte; the last one may lack it.
    pub argv: &'a [u8],
    pub argv_truncated: bool,
    /// How many arguments there were, where somebody counted.
    pub argc: Option<usize>,
    pub cwd: &'a [u8],
    pub env: &'a [u8],
    pub env_truncated: Option<bool>,
    pub from_memfd: bool,
    pub file: Option<File>,
}

impl Image {
    /// Builds the joined command line along with the parts.
    pub fn new(start: &Start<'_>) -> Self {
        let Start { name, argv, .. } = *start;
        let argv = argv.strip_suffix(b"\0").unwrap_or(argv);
        let argv0 = argv.split(|byte| *byte == 0).next().unwrap_or_default();
        let args = argv.get(argv0.len() + 1..);
        let mut cmdline = Vec::with_capacity(name.len() + argv.len() - argv0.len());
        cmdline.extend_from_slice(name);
        let mut ends = Vec::new();
        if let Some(args) = args {
            cmdline.push(b' ');
            cmdline.extend(
                args.iter()
                    .map(|byte| if *byte == 0 { b' ' } else { *byte }),
            );
            if args.contains(&b' ') {
                let at_end = args.iter().enumerate().filter(|(_, byte)| **byte == 0);
                ends.extend(at_end.map_while(|(at, _)| u16::try_from(at).ok()));
            }
        }
        let args_at = cmdline.len().min(name.len() + 1);
        let seen = argv.iter().filter(|byte| **byte == 0).count();
        Self {
            name: name.into(),
            exe_path: start.exe_path.into(),
            argv0: argv0.into(),
            args_count: start
                .argc
                .map_or(seen, |argc| argc.saturating_sub(1).max(seen)),
            argv_truncated: start.argv_truncated,
            cmdline: cmdline.into(),
            args_at,
            ends: ends.into(),
            cwd: start.cwd.into(),
            env: start.env.into(),
            env_truncated: start.env_truncated,
            from_memfd: start.from_memfd,
            file: start.file,
        }
    }

    /// A process of which only the name is known.
    pub fn named(name: &[u8]) -> Self {
        Self::new(&Start {
            name,
            ..Start::default()
        })
    }

    /// `argv[1]` and the rest, joined by blanks.
    pub fn args(&self) -> &[u8] {
        &self.cmdline[self.args_at..]
    }

    /// `argv[1]` and the rest, one by one.
    pub fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = Some(self.args()).filter(|args| !args.is_empty());
        let mut ends = self.ends.iter();
        let mut used = 0;
        let by_blanks = self.ends.is_empty() && !self.is_one_argument();
        std::iter::from_fn(move || {
            let args = rest?;
            let end = if by_blanks {
                args.iter().position(|byte| *byte == b' ')
            } else {
                ends.next().map(|end| usize::from(*end) - used)
            };
            let Some(end) = end.filter(|end| *end < args.len()) else {
                rest = None;
                return Some(args);
            };
            rest = Some(&args[end + 1..]);
            used += end + 1;
            Some(&args[..end])
        })
    }

    fn is_one_argument(&self) -> bool {
        self.args_count == 1 && self.args().contains(&b' ')
    }

    /// The value of a recorded environment variable.
    pub fn variable(&self, name: &[u8]) -> Option<&[u8]> {
        self.variables().find_map(|variable| {
            variable
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix(b"="))
        })
    }

    /// The recorded environment variables, `NAME=value` each.
    pub fn variables(&self) -> impl Iterator<Item = &[u8]> {
        self.env
            .split(|byte| *byte == 0)
            .filter(|variable| !variable.is_empty())
    }

    /// Do its parts fit each other? Always, except in one that somebody else has put together.
    fn is_sound(&self) -> bool {
        let Some(args) = self.cmdline.get(self.args_at..) else {
            return false;
        };
        let is_growing = self.ends.windows(2).all(|two| two[0] < two[1]);
        let last = self.ends.last();
        is_growing && last.is_none_or(|last| usize::from(*last) < args.len())
    }

    /// About how much memory it holds.
    pub fn size_bytes(&self) -> usize {
        size_of::<Self>()
            + self.name.len()
            + self.exe_path.len()
            + self.argv0.len()
            + self.cmdline.len()
            + self.cwd.len()
            + self.env.len()
            + 2 * self.ends.len()
    }
}

/// Writes an image into a capture.
pub(super) fn write<S: Serializer>(image: &Arc<Image>, serializer: S) -> Result<S::Ok, S::Error> {
    image.serialize(serializer)
}

/// Reads one from a capture, which anybody may have written.
pub(super) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Image>, D::Error> {
    let image = Image::deserialize(deserializer)?;
    if image.is_sound() {
        Ok(Arc::new(image))
    } else {
        Err(D::Error::custom("an image whose parts do not fit"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(argv: &[u8]) -> Image {
        let name = b"py";
        Image::new(&Start {
            name,
            argv,
            ..Start::default()
        })
    }

    #[test]
    fn a_command_line_is_joined_once() {
        let check = |argv: &[u8], cmdline: &str, args: &str, count: usize| {
            let image = image(argv);
            assert_eq!(
                (image.cmdline.as_ref(), image.args()),
                (cmdline.as_bytes(), args.as_bytes())
            );
            assert_eq!(image.args_count, count, "{cmdline}");
        };
        check(b"", "py", "", 0);
        check(b"python3\0", "py", "", 0);
        check(
            b"python3\0-c\0import os\0",
            "py -c import os",
            "-c import os",
            2,
        );
        check(b"python3\0\0x", "py  x", " x", 2);
    }

    #[test]
    fn arguments_are_told_apart_where_they_hold_blanks() {
        let check = |argv: &[u8], expected: &[&str]| {
            let image = image(argv);
            let found: Vec<_> = image.arguments().map(String::from_utf8_lossy).collect();
            assert_eq!(found, expected);
        };
        check(b"py\0", &[]);
        check(b"py\0-c\0x\0", &["-c", "x"]);
        check(b"py\0-c\0a b\0c\0", &["-c", "a b", "c"]);
        check(b"py\0a b c\0", &["a b c"]);
        check(b"py\0a b", &["a b"]);
        check(b"py\0a b\0c d\0", &["a b", "c d"]);
        check(b"py\0\0x\0", &["", "x"]);
    }

    #[test]
    fn arguments_that_were_cut_off_are_counted_all_the_same() {
        let argv = b"py\0one\0tw";
        let start = Start {
            argv,
            argc: Some(9),
            argv_truncated: true,
            ..Start::default()
        };
        assert_eq!(Image::new(&start).args_count, 8);
    }

    #[test]
    fn images_from_outside_are_checked() {
        let sound = image(b"py\0a b\0c d\0");
        assert!(sound.is_sound() && Image::default().is_sound());
        let check = |change: fn(&mut Image)| {
            let mut image = sound.clone();
            change(&mut image);
            assert!(!image.is_sound(), "{image:?}");
        };
        check(|image| image.args_at = image.cmdline.len() + 1);
        check(|image| image.ends = [3, 3].into());
        check(|image| image.ends = [5, 3].into());
        check(|image| image.ends = [7].into());
        check(|image| image.cmdline = Box::default());
    }

    #[test]
    fn variables_are_found_by_their_whole_name() {
        let env = b"LD_PRELOAD=/x.so\0LD_LIBRARY_PATH=\0broken\0";
        let image = Image::new(&Start {
            env,
            ..Start::default()
        });
        let check = |name: &str, expected: Option<&str>| {
            let found = image.variable(name.as_bytes());
            assert_eq!(found, expected.map(str::as_bytes), "{name}");
        };
        check("LD_PRELOAD", Some("/x.so"));
        check("LD_LIBRARY_PATH", Some(""));
        check("LD_", None);
        check("broken", None);
        check("", None);
        assert_eq!(image.variables().count(), 3);
    }
}
