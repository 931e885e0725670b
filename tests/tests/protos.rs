//! The protos that clients are generated from, by the linter that their users have.

use std::process::Command;

use saker_tests::{python, repository};

/// The rules are in `agent/proto/buf.yaml`: all of the category `STANDARD`, and a comment on everything.
#[test]
fn buf_finds_nothing_to_complain_of() {
    let Some(buf) = python::buf() else {
        return;
    };
    let lint = |folder: &std::path::Path| {
        Command::new(&buf)
            .args(["lint", "--error-format", "text"])
            .arg(folder)
            .output()
            .expect("buf starts")
    };
    let checked = lint(&repository().join("agent/proto"));
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}");
    // And it does look: the same file with a name that no message may have.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let own = folder.path().join("saker/v1");
    std::fs::create_dir_all(&own).expect("a folder");
    let from = repository().join("agent/proto");
    std::fs::copy(from.join("buf.yaml"), folder.path().join("buf.yaml")).expect("a copy");
    let text = std::fs::read_to_string(from.join("saker/v1/agent.proto")).expect("it is there");
    let text = text + "\nmessage not_a_name {}\n";
    std::fs::write(own.join("agent.proto"), text).expect("a file");
    let refused = lint(folder.path());
    let said = String::from_utf8_lossy(&refused.stdout);
    assert_eq!(refused.status.code(), Some(100), "{said}");
    assert!(said.contains("not_a_name"), "{said}");
}
