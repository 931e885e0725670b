//! Rotation, modes, and what others do to the file.

use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use super::*;
use crate::{alert::Alert, log::Record};

fn target(path: &Path, more: &str) -> FileTarget {
    let yaml = format!("{{name: f, path: {}, {more}}}", path.display());
    let settings: Settings = serde_saphyr::from_str(&yaml).expect("it is right");
    settings.check().expect("it is right");
    FileTarget::new(settings)
}

fn messages(texts: &[&str]) -> Vec<Message> {
    let message = |text: &&str| Message {
        cursor: 1,
        record: Arc::new(Record::new(&Alert::for_tests("r"))),
        text: (*text).to_owned(),
    };
    texts.iter().map(message).collect()
}

async fn write(target: &mut FileTarget, texts: &[&str]) -> Progress {
    target.deliver(&messages(texts)).await
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("the file is there")
}

#[tokio::test]
async fn lines_go_to_a_file_that_only_its_owner_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("alerts.jsonl");
    let mut target = target(&path, "");
    let done = write(&mut target, &["a", "b"]).await;
    assert_eq!((done.done, done.failure), (2, None));
    assert_eq!(read(&path), "a\nb\n");
    let mode = fs::metadata(&path).expect("it is there").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_file_that_is_long_enough_is_put_aside() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("alerts");
    let mut target = target(&path, "bytes_max: 4096, keep: 2");
    let line = "x".repeat(1500);
    for _ in 0..9 {
        write(&mut target, &[&line]).await;
    }
    let lengths =
        ["alerts", "alerts.1", "alerts.2"].map(|name| read(&folder.path().join(name)).len());
    assert_eq!(lengths, [1501, 3002, 3002]);
    assert!(!folder.path().join("alerts.3").exists());
    let huge = "y".repeat(9000);
    write(&mut target, &[&huge]).await;
    assert_eq!(read(&path).len(), 9001, "one alert is never cut");
}

#[tokio::test]
async fn a_file_that_was_moved_is_made_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("alerts");
    let mut target = target(&path, "");
    write(&mut target, &["a"]).await;
    fs::rename(&path, folder.path().join("elsewhere")).expect("it is ours");
    write(&mut target, &["b"]).await;
    assert_eq!(read(&path), "b\n");
    fs::remove_file(&path).expect("it is ours");
    write(&mut target, &["c"]).await;
    assert_eq!(read(&path), "c\n");
}

#[tokio::test]
async fn what_cannot_be_written_is_tried_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("none/alerts");
    let mut target = target(&path, "");
    let failed = write(&mut target, &["a"]).await;
    let names_it = |why: &str| why.contains("none/alerts");
    assert!(
        matches!(&failed.failure, Some(Failure::Retry { why, .. }) if names_it(why)),
        "{failed:?}"
    );
    fs::create_dir(folder.path().join("none")).expect("it is ours");
    assert_eq!(write(&mut target, &["a"]).await.done, 1);

    // A link may lead anywhere, and a pipe may keep whoever opens it.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/etc/passwd", &link).expect("it is ours");
    let mut linked = self::target(&link, "");
    check_refused(&mut linked, "symbolic link").await;
    let pipe = folder.path().join("pipe");
    let name = std::ffi::CString::new(pipe.to_str().expect("text")).expect("no NUL");
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    check_refused(&mut self::target(&pipe, ""), "not a regular file").await;
}

async fn check_refused(target: &mut FileTarget, expected: &str) {
    let progress = write(target, &["a"]).await;
    assert_eq!(progress.done, 0);
    let said = format!("{:?}", progress.failure);
    assert!(said.contains(expected), "{said}");
}

#[tokio::test]
async fn a_file_that_somebody_else_has_made_gets_nothing() {
    if !saker_tests::root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("alerts");
    fs::write(&path, "").expect("it is made");
    std::os::unix::fs::chown(&path, Some(65_534), None).expect("it is given away");
    let mut target = target(&path, "");
    check_refused(&mut target, "another user").await;
    assert_eq!(read(&path), "");
    fs::remove_file(&path).expect("the folder is ours");
    assert_eq!(write(&mut target, &["a"]).await.done, 1);
}

#[tokio::test]
async fn an_end_in_the_midst_of_a_rotation_costs_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("alerts");
    let at = |number: u32| folder.path().join(format!("alerts.{number}"));
    let line = "x".repeat(3000);
    // Each state that the renames of a rotation go through, from the last to the first.
    for missing in [None, Some(2), Some(1), Some(0)] {
        let file = |number: u32| {
            if number == 0 {
                path.clone()
            } else {
                at(number)
            }
        };
        for number in 0..3 {
            fs::write(file(number), format!("{number}\n")).expect("it is ours");
        }
        if let Some(missing) = missing {
            fs::remove_file(file(missing)).expect("it was made");
        }
        let mut target = target(&path, "bytes_max: 4096, keep: 3");
        for _ in 0..2 {
            assert_eq!(write(&mut target, &[&line]).await.done, 1);
        }
        let kept: String = (0..4)
            .map(|number| fs::read_to_string(file(number)).unwrap_or_default())
            .collect();
        for number in (0..3).filter(|number| Some(*number) != missing) {
            assert!(
                kept.contains(&format!("{number}\n")),
                "{missing:?}: {number} is gone"
            );
        }
        assert_eq!(kept.matches(&line).count(), 2);
        for number in 0..4 {
            let _ = fs::remove_file(file(number));
        }
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let with = |key: &str| format!("{{name: f, path: /var/log/a.jsonl, {key}}}");
    let (long, many) = (with("age_max_h: 18446744073709551615"), with("keep: 1001"));
    let cases = [
        ("{name: f, path: a.jsonl}", "absolute"),
        (
            long.as_str(),
            "age_max_h: 18446744073709551615 is more than 87600",
        ),
        (many.as_str(), "keep: 1001"),
    ];
    crate::sink::assert_refused(Settings::check, &cases);
}

#[test]
fn a_file_takes_the_names_that_it_is_renamed_to() {
    let check = |path: &str, expected: bool| {
        let text = "{name: f, path: /var/log/a.jsonl, keep: 3}";
        let settings: Settings = serde_saphyr::from_str(text).expect("settings");
        assert_eq!(settings.takes(Path::new(path)), expected, "{path}");
    };
    check("/var/log/a.jsonl", true);
    check("/var/log/./a.jsonl", true);
    check("/var/log/a.jsonl.1", true);
    check("/var/log/a.jsonl.3", true);
    check("/var/log/a.jsonl.4", false);
    check("/var/log/a.jsonl.x", false);
    check("/var/log/a.jsonl1", false);
    check("/var/log/b.jsonl", false);
    check("/var/a.jsonl", false);
}
