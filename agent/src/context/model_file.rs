//! Which model file a process is reading, as far as it can be told from what it has open.
//!
//! An unpickler does not know where its bytes come from. Where opens are traced, the model-like file that its thread opened last
//! is remembered. Else the process's descriptors are looked at: while it resolves a global, the file is mostly still open. An
//! inference either way, by what a file is named.

use std::{collections::VecDeque, fs, os::unix::ffi::OsStringExt, path::Path};

use rustc_hash::FxHashMap;

/// A thread of a process, by its process's start too: numbers are used again.
pub type ThreadKey = (u32, u64, u32);

/// Threads whose last model file is remembered.
const THREADS_MAX: usize = 4096;

/// The model files that threads opened last.
#[derive(Debug, Default)]
pub struct LastOpened {
    files: FxHashMap<ThreadKey, Box<[u8]>>,
    /// Threads in the order of their first model; the first is forgotten first.
    order: VecDeque<ThreadKey>,
}

impl LastOpened {
    /// A thread opened a file.
    pub fn opened(&mut self, thread: ThreadKey, path: &[u8]) {
        if !is_model(path) {
            return;
        }
        if self.files.insert(thread, path.into()).is_none() {
            self.order.push_back(thread);
            if self.order.len() > THREADS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.files.remove(&oldest);
            }
        }
    }

    /// The model file that a thread opened last.
    pub fn of(&self, thread: ThreadKey) -> Option<&[u8]> {
        self.files.get(&thread).map(|path| &**path)
    }
}

/// What model files' names end in.
pub const EXTENSIONS: [&str; 24] = [
    ".bin",
    ".ckpt",
    ".dill",
    ".ggml",
    ".gguf",
    ".h5",
    ".hdf5",
    ".joblib",
    ".keras",
    ".mar",
    ".model",
    ".npy",
    ".npz",
    ".nemo",
    ".onnx",
    ".pb",
    ".pickle",
    ".pkl",
    ".pt",
    ".pt2",
    ".pth",
    ".safetensors",
    ".sav",
    ".tflite",
];

/// Descriptors that are looked at. A process that reads a model and has more is rare, and time is short.
const DESCRIPTORS_MAX: usize = 256;

/// Whether a path looks like a model's. What Python reads at every start to extend its search path does not.
pub fn is_model(path: &[u8]) -> bool {
    let is_search_path = path.ends_with(b".pth")
        && [&b"/site-packages/"[..], b"/dist-packages/"]
            .iter()
            .any(|folder| memchr::memmem::find(path, folder).is_some());
    !is_search_path
        && EXTENSIONS
            .iter()
            .any(|extension| path.ends_with(extension.as_bytes()))
}

/// The model file that a process opened last, of those that it still has open.
pub fn of_process(proc: &Path, pid: u32) -> Option<Box<[u8]>> {
    let folder = proc.join(pid.to_string()).join("fd");
    // The newest descriptor is mostly the one with the highest number.
    let mut numbers: Vec<u32> = fs::read_dir(&folder)
        .ok()?
        .take(DESCRIPTORS_MAX)
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable_by(|one, other| other.cmp(one));
    numbers.into_iter().find_map(|number| {
        let path = fs::read_link(folder.join(number.to_string())).ok()?;
        let path = path.into_os_string().into_vec();
        (path.starts_with(b"/") && is_model(&path)).then(|| path.into_boxed_slice())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn threads_remember_their_last_model_and_are_bounded() {
        let mut last = LastOpened::default();
        last.opened((1, 10, 1), b"/m/a.pt");
        last.opened((1, 10, 1), b"/etc/passwd");
        last.opened((1, 10, 1), b"/v/lib/python3.11/site-packages/x.pth");
        assert_eq!(last.of((1, 10, 1)), Some(&b"/m/a.pt"[..]));
        assert_eq!(last.of((1, 11, 1)), None, "the number was used again");
        last.opened((1, 10, 1), b"/m/b.pkl");
        assert_eq!(last.of((1, 10, 1)), Some(&b"/m/b.pkl"[..]));
        for number in 0..u32::try_from(THREADS_MAX).expect("small") {
            last.opened((2, 20, number), b"/m/c.pt");
        }
        assert_eq!(last.of((1, 10, 1)), None, "the oldest is forgotten");
        assert_eq!(last.files.len(), THREADS_MAX);
        assert_eq!(last.order.len(), THREADS_MAX);
    }

    #[test]
    fn the_newest_open_model_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let proc = Path::new("/proc");
        let path = |name: &str| folder.path().join(name);
        let open = |name: &str| {
            fs::write(path(name), b"").expect("write");
            File::open(path(name)).expect("open")
        };
        let _text = open("notes.txt");
        let first = open("first.pkl");
        let second = open("second.pt");
        let found = || {
            of_process(proc, std::process::id())
                .map(|path| String::from_utf8_lossy(&path).into_owned())
                .filter(|found| found.starts_with(folder.path().to_str().expect("text")))
        };
        let expected = |name: &str| Some(path(name).to_str().expect("text").to_owned());
        assert_eq!(found(), expected("second.pt"));
        drop(second);
        assert_eq!(found(), expected("first.pkl"));
        drop(first);
        assert_eq!(found(), None);
        assert_eq!(of_process(proc, 0), None);
    }
}
