//! What the agent knows of processes, from outside: secrets stay inside, and a fork bomb takes nobody's name.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use saker_tests::{Agent, cgroup::Cgroup, root_or_skip, scenario::run};

fn rule(folder: &Path, name: &str, condition: &str, output: &str) -> String {
    let path = folder.join("rule.yaml");
    let text = format!(
        "- rule: {name}\n  desc: d\n  condition: {condition}\n  output: {output}\n  priority: WARNING\n"
    );
    fs::write(&path, text).expect("the rule is written");
    path.display().to_string()
}

#[test]
fn a_rule_sees_a_secret_and_its_alert_does_not_show_it() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = rule(
        folder.path(),
        "Secret",
        "evt.type = execve and (proc.args contains hunter2 or proc.env[DB_PASSWORD] = swordfish)",
        "ran (line=%proc.cmdline args=%proc.args env=%proc.env[DB_PASSWORD] parent=%proc.pcmdline)",
    );
    let mut agent = Agent::start(&["--rules", &rules]);
    let mut command = Command::new("/bin/true");
    run(command
        .args([
            "first",
            "--password",
            "hunter2 with blanks",
            "--token=hunter2",
        ])
        .env("DB_PASSWORD", "swordfish"))
    .expect("it runs");
    let alert = agent.await_rule("Secret", "first");
    let text = alert.to_string();
    for secret in ["hunter2", "swordfish", "with blanks"] {
        assert!(!text.contains(secret), "{text}");
    }
    assert_eq!(
        alert["output_fields"]["proc.args"],
        "first --password <redacted> --token=<redacted>"
    );
    assert_eq!(
        alert["output_fields"]["proc.env[DB_PASSWORD]"],
        "<redacted>"
    );
}

#[test]
fn a_secret_is_hidden_where_it_stands_and_hides_nothing_else() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = rule(
        folder.path(),
        "Shown",
        "evt.type = execve and proc.args contains shown-or-not",
        "root ran (line=%proc.cmdline args=%proc.args evt=%evt.arg.args exeline=%proc.exeline user=%user.name \
         exe=%proc.exepath upper=%toupper(proc.args) token=%proc.env[HF_TOKEN] env=%proc.env)",
    );
    // A program by the name of one that takes passwords in its own way.
    let mysql = folder.path().join("mysql");
    run(Command::new("cp").arg("/bin/true").arg(&mysql)).expect("it is copied");
    let mut agent = Agent::start(&["--rules", &rules]);
    run(Command::new(&mysql)
        .args(["-phunter2", "shown-or-not", "--token", "root", "root"])
        .env_clear()
        .env("HF_TOKEN", "root"))
    .expect("it runs");
    let alert = agent.await_rule("Shown", "shown-or-not");
    let fields = &alert["output_fields"];
    let args = "-p<redacted> shown-or-not --token <redacted> root";
    let check = |field: &str, expected: &str| assert_eq!(fields[field], expected, "{alert}");
    check("proc.args", args);
    check("evt.arg.args", args);
    check("proc.cmdline", &format!("mysql {args}"));
    check("proc.exeline", &format!("{} {args}", mysql.display()));
    check("toupper(proc.args)", &args.to_uppercase());
    check("proc.env[HF_TOKEN]", "<redacted>");
    check("proc.env", "HF_TOKEN=<redacted>");
    // What an attacker calls a secret is still shown where it is none.
    check("user.name", "root");
    check("proc.exepath", &mysql.display().to_string());
    let text = alert["output"].as_str().expect("a text");
    assert!(
        text.contains("root ran (line=") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn a_container_that_is_gone_before_anyone_looks_is_known() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = rule(
        folder.path(),
        "Gone",
        "evt.type = execve and proc.args contains gone-by-now",
        "ran (line=%proc.cmdline container=%container.id)",
    );
    let mut agent = Agent::start(&["--rules", &rules]);
    let made: [fn() -> io::Result<Option<Cgroup>>; 2] = [
        || Cgroup::like_a_container().map(Some),
        Cgroup::like_a_container_of_v1,
    ];
    for (number, made) in made.iter().enumerate() {
        // While it does not run, a container comes, does something and goes, with its cgroup and all its processes.
        agent.signal(libc::SIGSTOP);
        let Some(cgroup) = made().expect("a cgroup") else {
            // Without hierarchies of version 1 there are no such containers.
            agent.signal(libc::SIGCONT);
            continue;
        };
        let id = cgroup.short_id().to_owned();
        let marker = format!("gone-by-now-{number}");
        let mut command = Command::new("/bin/true");
        cgroup.enter(&mut command);
        run(command.arg(&marker)).expect("it runs");
        drop(cgroup);
        agent.signal(libc::SIGCONT);
        let alert = agent.await_rule("Gone", &marker);
        assert_eq!(alert["output_fields"]["container.id"], id.as_str());
    }
}

/// Makes a root folder with the machine's programs and an account file of its own, and runs a program there, again and again until its
/// input ends: who is gone within a few milliseconds can be gone before his account file is read.
const INSIDE: &str = r#"
set -e
mount -t tmpfs none "$1"
mkdir "$1/usr" "$1/etc" "$1/dev"
: > "$1/dev/null"
mount --bind /usr "$1/usr"
ln -s usr/bin usr/lib usr/lib64 "$1"
echo "$2:x:0:0::/:/bin/sh" > "$1/etc/passwd"
exec chroot "$1" /bin/sh -c "(while :; do /bin/true $3; done) & cat; kill \$!"
"#;

#[test]
fn users_have_the_names_of_their_own_container_and_not_of_the_one_before() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = rule(
        folder.path(),
        "Who",
        "evt.type = execve and proc.name = true and proc.args startswith who-is-",
        "ran (line=%proc.cmdline user=%user.name)",
    );
    let root = folder.path().join("root");
    fs::create_dir(&root).expect("a folder");
    let mut agent = Agent::start(&["--rules", &rules]);
    // One after another: the kernel gives the next namespace the number of the last, and the programs that prepare it run in it
    // with the host's files before them.
    for name in ["ann", "bob", "eve", "dan"] {
        let marker = format!("who-is-{name}");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", INSIDE, "sh"])
            .arg(&root)
            .args([name, &marker])
            .stdin(Stdio::piped());
        let mut container = command.spawn().expect("it runs");
        let alert = agent.await_alert(&marker, |alert| {
            let fields = &alert["output_fields"];
            let line = fields["proc.cmdline"].as_str().unwrap_or_default();
            // Not known yet is no harm; another container's is.
            alert["rule"] == "Who" && line.contains(&marker) && !fields["user.name"].is_null()
        });
        drop(container.stdin.take());
        assert!(container.wait().expect("it ends").success(), "{marker}");
        assert_eq!(alert["output_fields"]["user.name"], name);
    }
}

#[test]
fn a_fork_bomb_takes_nobodys_identity() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = rule(
        folder.path(),
        "Opened",
        "evt.type in (open, openat) and fd.name startswith /tmp/saker-bomb-",
        "opened (file=%fd.name cmdline=%proc.cmdline container=%container.id parent=%proc.pname)",
    );
    let (Ok(victim), Ok(bomb)) = (Cgroup::like_a_container(), Cgroup::like_a_container()) else {
        return saker_tests::skip("no cgroup can be made");
    };
    let mut agent = Agent::start(&["--rules", &rules]);
    // Started before the bomb, acts after it: what is known of it must have outlasted the bomb.
    let mut before = Command::new("/bin/sh");
    before
        .args([
            "-c",
            "read go; cat /tmp/saker-bomb-none; : victim-of-the-bomb",
        ])
        .stdin(Stdio::piped())
        .stderr(Stdio::null());
    victim.enter(&mut before);
    let mut before = before.spawn().expect("it starts");
    let pid = agent.pid();
    let memory = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .expect("a size")
    };
    let memory_before = memory();

    // Twenty thousand short lives, at most 64 at once: the pids controller's bound where there is one, and the script's own.
    let script = "i=0; while [ $i -lt 312 ]; do j=0; while [ $j -lt 64 ]; do : & j=$((j+1)); done; wait; i=$((i+1)); done";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    bomb.enter(&mut command);
    run(&mut command).expect("the bomb ends");
    let memory_after = memory();

    drop(before.stdin.take());
    before.wait().expect("it is ours");
    let alert = agent.await_rule("Opened", "file=/tmp/saker-bomb-none");
    let fields = &alert["output_fields"];
    assert_eq!(
        fields["proc.cmdline"], "cat /tmp/saker-bomb-none",
        "{alert}"
    );
    assert_eq!(fields["proc.pname"], "sh", "{alert}");
    assert_eq!(fields["container.id"], victim.short_id(), "{alert}");
    // The table's bound is 131,072 entries; twenty thousand that ended take a few megabytes of it.
    assert!(
        memory_after < memory_before + 64 * 1024,
        "{memory_before} kB before, {memory_after} kB after"
    );
    let stopped = agent.stop();
    let summary = stopped
        .log
        .iter()
        .find(|line| line.contains("stopped:"))
        .expect("a summary");
    let number = |name: &str| -> u64 {
        let rest = summary.split(&format!(" {name}=")).nth(1).expect(name);
        rest.split(' ')
            .next()
            .and_then(|digits| digits.parse().ok())
            .expect("a number")
    };
    assert_eq!(
        number("seen"),
        number("delivered") + number("filtered") + number("lost"),
        "{summary}"
    );
    assert!(number("seen") >= 2 * 312 * 64, "{summary}");
}
