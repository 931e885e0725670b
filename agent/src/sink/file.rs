//! Alerts in a file, a line each: for its owner's eyes only, begun anew when it is too long or too old, and found again when somebody
//! else moved it away.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Format,
    deliver::{Failure, Message, Progress, Target},
    filter::Filter,
};

/// Alerts in a file.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Name of the sink: its place in the alert log and its metrics are kept under it.
    pub name: String,
    /// The file, an absolute path; its folder must exist. It is made with mode 0600. A link, and a file of another user, get nothing.
    pub path: PathBuf,
    /// `json`: one object a line in Falco's shape; `ocsf`: one a line, as OCSF Detection Finding; `text`: the alert's text.
    #[serde(default)]
    pub format: Format,
    /// Which alerts.
    #[serde(default)]
    pub filter: Filter,
    /// The file is renamed to `PATH.1` and begun anew before it gets longer than this (from 4096).
    #[serde(default = "bytes_max")]
    #[schemars(range(min = 4096))]
    pub bytes_max: u64,
    /// And when it is older than this many hours (at most ten years); 0: it may be as old as it likes.
    #[serde(default)]
    #[schemars(range(max = 87_600))]
    pub age_max_h: u64,
    /// How many of the renamed ones are kept, as `PATH.1` to `PATH.N` (0 to 1000).
    #[serde(default = "keep")]
    #[schemars(range(max = 1000))]
    pub keep: u32,
    /// Longest pause between tries, in seconds (1 to 3600).
    #[serde(default = "super::deliver::pause_max_s")]
    #[schemars(range(min = 1, max = 3600))]
    pub pause_max_s: u64,
}

fn bytes_max() -> u64 {
    100 << 20
}

fn keep() -> u32 {
    5
}

/// Ten years.
const AGE_MAX_H: u64 = 87_600;

impl Settings {
    /// Is this path the file's, or one that it is renamed to?
    pub fn takes(&self, path: &Path) -> bool {
        let text = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let (own, other) = (text(&self.path), text(path));
        let Some(rest) = other.strip_prefix(own.as_slice()) else {
            return self.path == path;
        };
        let number = rest.strip_prefix(b".").map(String::from_utf8_lossy);
        let number = number.and_then(|digits| digits.parse::<u32>().ok());
        self.path == path || number.is_some_and(|number| number <= self.keep)
    }

    /// What cannot be meant; the key and what is wrong.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        self.filter.check()?;
        if !self.path.is_absolute() || self.path.file_name().is_none() {
            return Err((
                "path",
                format!("{:?} is no absolute path of a file", self.path),
            ));
        }
        if self.bytes_max < 4096 {
            return Err(("bytes_max", format!("{} is less than 4096", self.bytes_max)));
        }
        if self.age_max_h > AGE_MAX_H {
            let problem = format!("{} is more than {AGE_MAX_H}", self.age_max_h);
            return Err(("age_max_h", problem));
        }
        if self.keep > 1000 {
            return Err(("keep", format!("{} is more than 1000", self.keep)));
        }
        Ok(())
    }
}

/// The file as it is written.
#[derive(Debug)]
pub struct FileTarget {
    settings: Settings,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Device and inode: where the path leads elsewhere, somebody has moved it.
    identity: (u64, u64),
    length: u64,
    begun: SystemTime,
}

impl FileTarget {
    /// Nothing is opened yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            open: None,
        }
    }

    fn write(&mut self, messages: &[(usize, String)]) -> (usize, io::Result<()>) {
        for (done, line) in messages {
            if let Err(error) = self.write_line(line) {
                self.open = None;
                return (*done, Err(error));
            }
        }
        (messages.len(), Ok(()))
    }

    fn write_line(&mut self, line: &str) -> io::Result<()> {
        let path = self.settings.path.clone();
        self.open = self.open.take().filter(|open| open.is_at(&path));
        let is_due = |open: &Open| {
            let age_max = Duration::from_secs(self.settings.age_max_h * 3600);
            let too_old =
                !age_max.is_zero() && open.begun.elapsed().is_ok_and(|age| age >= age_max);
            open.length > 0
                && (open.length + line.len() as u64 > self.settings.bytes_max || too_old)
        };
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open::new(&path)?,
        };
        if is_due(&open) {
            open.file.sync_data()?;
            rotate(&path, self.settings.keep)?;
            open = Open::new(&path)?;
        }
        let written = open.file.write_all(line.as_bytes());
        if let Err(error) = written {
            // Half a line is no line: what reads the file must not stumble over it.
            let _ = open.file.set_len(open.length);
            return Err(error);
        }
        open.length += line.len() as u64;
        self.open = Some(open);
        Ok(())
    }
}

impl Open {
    fn new(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ELOOP) => io::Error::other("is a symbolic link, which is not followed"),
                _ => error,
            })?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        // SAFETY: takes nothing and cannot fail.
        let own = unsafe { libc::geteuid() };
        if found.uid() != own {
            // Who made it before us in a folder that many may write to would read every alert.
            return Err(io::Error::other("belongs to another user"));
        }
        let mut length = found.len();
        if length > 0 {
            // What a crash cut off must not swallow the next line.
            let mut last = [0];
            file.read_exact_at(&mut last, length - 1)?;
            if last != *b"\n" {
                (&file).write_all(b"\n")?;
                length += 1;
            }
        }
        let begun = found.created().or_else(|_| found.modified());
        Ok(Self {
            identity: (found.dev(), found.ino()),
            length,
            begun: begun.unwrap_or_else(|_| SystemTime::now()),
            file,
        })
    }

    fn is_at(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|found| self.identity == (found.dev(), found.ino()))
    }
}

/// `PATH` becomes `PATH.1`, that one `PATH.2`, and the last one goes.
fn rotate(path: &Path, keep: u32) -> io::Result<()> {
    let name = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    let missing_is_fine = |outcome: io::Result<()>| match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    if keep == 0 {
        return missing_is_fine(fs::remove_file(path));
    }
    for number in (1..keep).rev() {
        missing_is_fine(fs::rename(name(number), name(number + 1)))?;
    }
    missing_is_fine(fs::rename(path, name(1)))
}

impl Target for FileTarget {
    async fn deliver(&mut self, messages: &[Message]) -> Progress {
        let lines: Vec<_> = messages
            .iter()
            .map(|message| format!("{}\n", message.text))
            .enumerate()
            .collect();
        // A disk may take its time, which is not to be the runtime's.
        let mut own = Self::new(self.settings.clone());
        std::mem::swap(self, &mut own);
        let path = own.settings.path.clone();
        let work = tokio::task::spawn_blocking(move || {
            let outcome = own.write(&lines);
            (own, outcome)
        });
        match work.await {
            Ok((own, (done, outcome))) => {
                *self = own;
                match outcome {
                    Ok(()) => Progress::all(done),
                    Err(error) => {
                        let why = format!("{}: {error}", path.display());
                        Progress::until(done, Failure::retry(why))
                    }
                }
            }
            Err(error) => Progress::until(0, Failure::retry(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
