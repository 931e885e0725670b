//! Where Falco's cases lie.

use std::path::PathBuf;

use serde_json::Value;

/// The folder of Falco's cases; `None`, said aloud, where this machine lacks it.
pub fn falco_folder() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/falco");
    if folder.is_dir() {
        return Some(folder);
    }
    saker_tests::skip(&format!("{} is missing", folder.display()));
    None
}

/// The cases of a file.
pub fn cases(file: &str) -> Option<Vec<Value>> {
    let path = falco_folder()?.join("conformance").join(file);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut file: Value = serde_json::from_str(&text).unwrap();
    match file["cases"].take() {
        Value::Array(cases) => Some(cases),
        _ => panic!("{} has no cases", path.display()),
    }
}
