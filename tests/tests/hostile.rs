//! What a hostile or unlucky neighbour may do to a running agent: odd paths, closed pipes, full disks, idle connections.

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use saker_tests::{Agent, program, root_or_skip, scenario::run, until};

/// A rule file with one rule on opens of one file, and what it is called.
fn rule_for_opens_of(folder: &Path, file: &Path) -> String {
    let path = folder.join("opens.yaml");
    let rule = format!(
        "- rule: Opened\n  desc: d\n  condition: evt.type in (open, openat, openat2) and fd.name = {}\n  \
         output: opened (raw=%fd.nameraw name=%fd.name pid=%proc.pid)\n  priority: WARNING\n",
        file.display()
    );
    fs::write(&path, rule).expect("the rule is written");
    path.display().to_string()
}

#[test]
fn a_detour_in_the_path_hides_nothing() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let secret = folder.path().join("secret");
    fs::write(&secret, "x").expect("the file is written");
    let mut agent = Agent::start(&["--rules", &rule_for_opens_of(folder.path(), &secret)]);
    let base = folder.path().display();
    for path in [
        format!("/{base}/secret"),
        format!("{base}/./secret"),
        format!("/proc/..{base}/../{}/secret", name(folder.path())),
    ] {
        run(Command::new("cat").arg(&path)).expect("it runs");
        agent.await_rule("Opened", &format!("raw={path} "));
    }
    // Through a folder that the program went to after it was started, and through a folder's descriptor. It stays until it was
    // asked, because only it knows.
    for code in [
        "import os, sys; os.chdir(sys.argv[1]); os.open('secret', 0); sys.stdin.read()",
        "import os, sys; os.open('secret', 0, dir_fd=os.open(sys.argv[1], 0)); sys.stdin.read()",
    ] {
        let mut child = Command::new("python3")
            .args(["-S", "-c", code, &base.to_string()])
            .stdin(Stdio::piped())
            .current_dir("/")
            .spawn()
            .expect("python3 starts");
        agent.await_alert("an open by a relative path", |alert| {
            alert["output_fields"]["proc.pid"] == child.id()
                && alert["output_fields"]["fd.nameraw"] == "secret"
        });
        drop(child.stdin.take());
        child.wait().expect("it is ours");
    }
}

/// What leads nowhere has no name of the kernel's: rules see the path as it was written, made plain. Programs that start try many, and those
/// that nobody asked for stay in the kernel.
#[test]
fn a_file_that_is_not_there_is_named_however_it_is_written() {
    if !root_or_skip() {
        return;
    }
    const ELSEWHERE: usize = 20_000;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let base = folder.path().display().to_string();
    let rules = folder.path().join("gone.yaml");
    let rule = format!(
        "- rule: Gone\n  desc: d\n  condition: evt.type in (open, openat) and fd.name startswith {base}/gone\n  \
         output: gone (raw=%fd.nameraw name=%fd.name res=%evt.res)\n  priority: WARNING\n"
    );
    fs::write(&rules, rule).expect("the rule is written");
    let mut agent = Agent::start(&["--rules", &rules.display().to_string()]);
    let own = name(folder.path());
    let far = "./".repeat(150);
    for path in [
        format!("{base}/gone-plainly"),
        format!("/{base}/gone"),
        format!("{base}/./gone"),
        format!("{base}//gone"),
        format!("/proc/..{base}/gone"),
        format!("{base}/a-folder-with-quite-a-long-name-that-is-not-there/../gone"),
        format!("{base}/{far}gone"),
        format!("../..{base}/gone"),
        format!("{own}/gone"),
    ] {
        let code = "import os, sys\ntry: os.open(sys.argv[1], 0)\nexcept OSError: sys.stdin.read()";
        let mut child = Command::new("python3")
            .args(["-S", "-c", code, &path])
            .stdin(Stdio::piped())
            .current_dir(folder.path().parent().expect("a folder has one"))
            .spawn()
            .expect("python3 starts");
        // It stays until it was seen: only it knows where a relative path begins.
        let alert = agent.await_alert("an open of what is not there", |alert| {
            alert["output_fields"]["fd.nameraw"] == path.as_str()
        });
        assert_eq!(alert["output_fields"]["evt.res"], "ENOENT", "{alert}");
        let is_named = alert["output_fields"]["fd.name"]
            .as_str()
            .is_some_and(|name| name.starts_with(&format!("{base}/gone")));
        assert!(is_named, "{alert}");
        drop(child.stdin.take());
        child.wait().expect("it is ours");
    }
    let endpoint = agent.endpoint();
    let opens = |outcome: &str| {
        let labels = format!("kind=\"open\",outcome=\"{outcome}\"");
        endpoint
            .metric("saker_kernel_events_total", &labels)
            .unwrap_or_default()
    };
    let before = (opens("filtered"), opens("submitted"));
    let code = format!(
        "import os\nfor at in range({ELSEWHERE}):\n try: os.open(f'/nowhere/lib/glibc-hwcaps/x86-64-v4/lib{{at}}.so.1', 0)\n except OSError: pass"
    );
    run(Command::new("python3").args(["-S", "-c", &code])).expect("it runs");
    until("all were counted", || {
        opens("filtered") >= before.0 + ELSEWHERE as f64
    });
    let submitted = opens("submitted") - before.1;
    assert!(
        submitted < ELSEWHERE as f64 / 2.0,
        "{submitted} of {ELSEWHERE} left the kernel"
    );
}

fn name(path: &Path) -> String {
    path.file_name()
        .expect("a folder has a name")
        .to_string_lossy()
        .into_owned()
}

#[test]
fn idle_connections_do_not_take_the_agents_descriptors() {
    if !root_or_skip() {
        return;
    }
    let mut agent = Agent::start(&[]);
    let address = agent.endpoint().address;
    let pid = agent.pid();
    let descriptors = || {
        fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("the agent runs")
            .count()
    };
    // Programs, rings and sockets of its own take some, more with every kind of event.
    let before = descriptors();
    let connections: Vec<_> = (0..100)
        .map_while(|_| TcpStream::connect(&address).ok())
        .collect();
    assert!(
        connections.len() == 100,
        "{} connections",
        connections.len()
    );
    run(Command::new("python3").args(["-S", "-c", "pass  # pickle.load while-connected"]))
        .expect("it runs");
    agent.await_rule("Unsafe model load on a command line", "while-connected");
    // At most 32 connections are served; the rest is for what the agent itself opened meanwhile.
    let grown = descriptors().saturating_sub(before);
    assert!(grown < 50, "{grown} descriptors more");
}

/// An agent whose outputs are the caller's choice.
fn start(folder: &Path, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Child {
    let config = folder.join("quiet.yaml");
    fs::write(
        &config,
        "http: {listen: '127.0.0.1:0'}\nalerts: {window_s: 0}\n",
    )
    .expect("the configuration is written");
    let mut command = Command::new(program("saker"));
    command
        .args(["run", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr);
    command.process_group(0);
    command.spawn().expect("the agent starts")
}

/// Waits until the agent's programs are in the kernel: its sensor thread is there.
fn await_sensor(child: &Child) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let tasks = format!("/proc/{}/task", child.id());
    let is_sensor = |entry: fs::DirEntry| {
        fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == "sensor")
    };
    while !fs::read_dir(&tasks).is_ok_and(|tasks| tasks.flatten().any(is_sensor)) {
        assert!(
            Instant::now() < deadline,
            "the sensor thread does not start"
        );
        std::thread::yield_now();
    }
}

fn stop(child: Child) -> std::process::Output {
    let pid = i32::try_from(child.id()).expect("a pid is a positive i32");
    // SAFETY: kill takes two numbers; the child was not waited for, so the pid is still its own.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    child.wait_with_output().expect("the child is ours")
}

#[test]
fn alerts_that_nobody_reads_are_counted() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut child = start(folder.path(), Stdio::piped(), Stdio::piped());
    drop(child.stdout.take());
    await_sensor(&child);
    for round in 0..3 {
        run(Command::new("python3").args([
            "-S",
            "-c",
            &format!("pass  # pickle.load unread-{round}"),
        ]))
        .expect("it runs");
    }
    let output = stop(child);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    let summary = log
        .lines()
        .find(|line| line.contains("stopped:"))
        .unwrap_or_else(|| panic!("no summary:\n{log}"));
    let number = |name: &str| -> u64 {
        let rest = summary
            .split(&format!(" {name}="))
            .nth(1)
            .unwrap_or_else(|| panic!("no {name} in {summary}"));
        rest.split(' ')
            .next()
            .and_then(|digits| digits.parse().ok())
            .expect("a number")
    };
    assert!(number("alerts") >= 3, "{summary}");
    assert_eq!(number("alerts"), number("alerts_dropped"), "{summary}");
}

#[test]
fn a_log_that_cannot_be_written_does_not_end_detection() {
    if !root_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let full = fs::File::options()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full is there");
    let child = start(folder.path(), Stdio::piped(), full);
    await_sensor(&child);
    run(Command::new("python3").args(["-S", "-c", "pass  # pickle.load unlogged"]))
        .expect("it runs");
    let output = stop(child);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("unlogged"));
}

#[test]
fn devices_and_pipes_are_no_input_and_no_output() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = |args: &[&str]| {
        let output = Command::new(program("saker"))
            .args(args)
            .output()
            .expect("the agent starts");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let mut rules = fs::File::create(folder.path().join("rules.yaml")).expect("a file");
    write!(rules, "- macro: m\n  condition: evt.type = execve\n").expect("it is written");
    let rules = folder.path().join("rules.yaml").display().to_string();
    for args in [
        &["run", "--config", "/dev/zero"][..],
        &["run", "--rules", "/dev/zero"],
        &["rules", "check", "/dev/zero"],
        &["rules", "compile", "-o", "/dev/null", &rules],
    ] {
        let (code, message) = text(args);
        assert_eq!(code, Some(1), "{args:?}: {message}");
        assert!(message.contains("regular file"), "{args:?}: {message}");
    }
    assert!(
        !fs::metadata("/dev/null")
            .expect("it is still there")
            .is_file()
    );
}
