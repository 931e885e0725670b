//! Which model file a process is reading, as far as it can be told from what it has open.
//!
//! An unpickler does not know where its bytes come from. While it resolves a global, the file is mostly still open, so the
//! process's descriptors are looked at: an inference, and marked as one. What a file is named is all that is known of it.

use std::{fs, os::unix::ffi::OsStringExt, path::Path};

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

/// Whether a path looks like a model's.
pub fn is_model(path: &[u8]) -> bool {
    EXTENSIONS
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
