//! Against the interpreters of this machine, and against files that are none.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use super::*;

/// Debian's interpreter, which has `_pickle` built in; `None` after recording a skip.
fn debian() -> Option<PathBuf> {
    let path = fs::canonicalize("/usr/bin/python3").ok();
    if path.is_none() {
        saker_tests::skip("no /usr/bin/python3");
    }
    path
}

/// The instruction at a file offset is a call, as another disassembler reads it.
#[track_caller]
fn check_call(path: &std::path::Path, file_offset: u64) {
    let file = File::open(path).unwrap();
    let image = Image::open(&file).unwrap();
    let segment = image
        .segments
        .iter()
        .find(|s| s.executable() && (s.offset..s.offset + s.bytes).contains(&file_offset))
        .expect("in an executable segment");
    let address = segment.address + (file_offset - segment.offset);
    let Ok(output) = Command::new("objdump")
        .args(["-d", "--no-show-raw-insn"])
        .arg(format!("--start-address={address:#x}"))
        .arg(format!("--stop-address={:#x}", address + 8))
        .arg(path)
        .output()
    else {
        saker_tests::skip("no objdump");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with(&format!("{address:x}:")))
        .unwrap_or_else(|| panic!("nothing at {address:#x} in {text}"));
    assert!(
        line.contains("call") && line.contains("PySys_Audit"),
        "{line}"
    );
}

#[test]
fn debians_interpreter_has_its_calls() {
    let Some(path) = debian() else { return };
    let sites = analyze(&File::open(&path).unwrap()).unwrap();
    assert!(sites.is_python && sites.audit_entry.is_some() && sites.build_id.is_some());
    let version = Version::of_program(&path.display().to_string());
    assert_eq!(sites.version, version);
    assert!(!sites.find_class.is_empty());
    let audits = audits(&File::open(&path).unwrap()).unwrap();
    assert!(!audits.calls.is_empty() && !sites.is_cut && !audits.is_cut);
    for site in sites
        .find_class
        .iter()
        .chain(audits.calls.iter().map(|s| &s.1))
    {
        let Site::Call { file_offset } = site else {
            panic!("{site:?} in {sites:?}");
        };
        check_call(&path, *file_offset);
    }
}

/// Where a symbol stands, as another program reads it; `None` where the file has no such symbol any more.
fn symbol(path: &std::path::Path, name: &str) -> Option<u64> {
    let output = Command::new("nm").arg(path).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text
        .lines()
        .find(|line| line.split_whitespace().nth(2) == Some(name))?;
    u64::from_str_radix(line.split_whitespace().next()?, 16).ok()
}

#[test]
fn every_interpreter_shows_the_function_behind_sys_audit() {
    let mut found = 0;
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let versions = fs::read_dir(home.join(".pyenv/versions"));
    let libraries = versions.into_iter().flatten().flatten().flat_map(|entry| {
        let inside = fs::read_dir(entry.path().join("lib"));
        inside.into_iter().flatten().flatten().map(|e| e.path())
    });
    let libraries = libraries.filter(|path| {
        Version::of_library(&path.display().to_string()).is_some_and(|it| it.minor >= 8)
    });
    for path in libraries.chain(debian()) {
        let file = File::open(&path).unwrap();
        let at = audits(&file)
            .unwrap()
            .python
            .unwrap_or_else(|| panic!("none in {}", path.display()));
        if let Some(address) = symbol(&path, "sys_audit") {
            let image = Image::open(&file).unwrap();
            assert_eq!(image.file_offset(address), Some(at), "{}", path.display());
        }
        found += 1;
    }
    if found == 0 {
        saker_tests::skip("no interpreters");
    }
}

#[test]
fn every_installed_extension_has_its_call() {
    let Some(home) = std::env::var_os("HOME") else {
        return;
    };
    let Ok(versions) = fs::read_dir(PathBuf::from(home).join(".pyenv/versions")) else {
        saker_tests::skip("no pyenv interpreters");
        return;
    };
    let mut seen = 0;
    for version in versions.flatten() {
        for folder in fs::read_dir(version.path().join("lib")).unwrap().flatten() {
            let dynload = folder.path().join("lib-dynload");
            let Some(version) = Version::of_program(&folder.file_name().to_string_lossy()) else {
                continue;
            };
            for file in fs::read_dir(dynload).into_iter().flatten().flatten() {
                let name = file.file_name().to_string_lossy().into_owned();
                if !name.starts_with("_pickle.") {
                    continue;
                }
                seen += 1;
                let sites = analyze(&File::open(file.path()).unwrap()).unwrap();
                // Since 3.8 an extension does not need libpython: only its name says its version.
                assert_eq!(sites.version.unwrap_or(version), version, "{name}");
                assert_eq!(Version::of_extension(&name), Some(version), "{name}");
                if version.minor < 8 {
                    assert!(sites.find_class.is_empty());
                    continue;
                }
                let [Site::Call { file_offset }] = sites.find_class[..] else {
                    panic!("{name}: {:?}", sites.find_class);
                };
                check_call(&file.path(), file_offset);
            }
        }
    }
    if seen == 0 {
        saker_tests::skip("no pyenv interpreters");
    }
}

#[test]
fn what_is_no_program_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(
        analyze(&File::open(folder.path()).unwrap()),
        Err(ElfError::NotRegular)
    ));
    assert!(matches!(
        analyze(&File::open("/dev/null").unwrap()),
        Err(ElfError::NotRegular)
    ));
    let huge = folder.path().join("huge");
    let file = File::create_new(&huge).unwrap();
    assert!(matches!(
        analyze(&File::open(&huge).unwrap()),
        Err(ElfError::NotElf)
    ));
    file.set_len(FILE_BYTES_MAX + 1).unwrap();
    assert!(matches!(
        analyze(&File::open(&huge).unwrap()),
        Err(ElfError::TooLarge(_))
    ));
    let sites = analyze(&File::open("/bin/ls").unwrap()).unwrap();
    assert!(!sites.is_python && sites.find_class.is_empty() && sites.version.is_none());
}

#[test]
fn damaged_files_end_in_an_answer() {
    let original = fs::read("/bin/true").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged");
    let run = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let file = File::open(&path).unwrap();
        let _ = audits(&file);
        analyze(&file)
    };
    assert!(run(&original).is_ok());
    for length in 0..1024 {
        let result = run(&original[..length]);
        assert!(length >= 64 || result.is_err(), "{length}");
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..10_000 {
        let mut bytes = original.clone();
        for _ in 0..4 {
            // Most damage where the headers are.
            let span = if next(4) == 0 { bytes.len() } else { 1024 };
            let at = next(span);
            bytes[at] = next(256) as u8;
        }
        let _ = run(&bytes);
    }
}
