//! Falco's own rule file, loaded unchanged from `../shared`, on real processes: opens by path, also by a relative one.

use std::process::Command;

use saker_tests::{
    Agent, root_or_skip,
    scenario::{named, run},
    shared,
};

#[test]
fn falcos_rule_for_sensitive_files_alerts_on_a_real_read() {
    let Some(rules) = shared("falco/rules/falco_rules.yaml") else {
        return;
    };
    if !root_or_skip() {
        return;
    }
    let mut agent = Agent::start(&["--rules", rules.to_str().expect("the path is UTF-8")]);

    run(Command::new("cat").arg("/etc/shadow")).expect("it runs");
    let alert = agent.await_rule("Read sensitive file untrusted", "command=cat /etc/shadow ");
    assert_eq!(alert["output_fields"]["fd.name"], "/etc/shadow");
    assert_eq!(alert["output_fields"]["evt.type"], "openat");
    assert_eq!(alert["output_fields"]["user.uid"], 0);

    run(Command::new("cat")
        .arg("../etc/./shadow")
        .current_dir("/etc"))
    .expect("it runs");
    let alert = agent.await_rule(
        "Read sensitive file untrusted",
        "command=cat ../etc/./shadow ",
    );
    assert_eq!(alert["output_fields"]["fd.name"], "/etc/shadow");

    assert!(agent.stop().status.success());
}

#[test]
fn a_program_in_memory_is_told_by_falcos_rule() {
    let Some(rules) = shared("falco/rules/falco_rules.yaml") else {
        return;
    };
    if !root_or_skip() {
        return;
    }
    let mut agent = Agent::start(&["--rules", rules.to_str().expect("the path is UTF-8")]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = named(folder.path(), "nothing").expect("an actor");
    let code = format!(
        "import os; fd = os.memfd_create('x'); os.write(fd, open('{}', 'rb').read()); os.execve(fd, ['x', 'in-memory'], {{}})",
        program.display()
    );
    run(Command::new("python3").args(["-S", "-c", &code])).expect("it runs");
    agent.await_rule("Fileless execution via memfd_create", "in-memory");
    assert!(agent.stop().status.success());
}
