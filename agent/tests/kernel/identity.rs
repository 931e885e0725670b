//! What an exec record says of who started a program and of its file: environment, capabilities, groups, layers.

use saker::source::{Kind, SensorConfig};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::{Watch, exec_of, kinds, run, watch};

fn with_environment(names: &[&str]) -> Option<Watch> {
    watch(SensorConfig {
        environment: names.iter().map(|name| (*name).to_owned()).collect(),
        ..kinds(&[Kind::Exec])
    })
}

/// The variables that a record carries, and whether some may be missing.
fn variables(watch: &mut Watch, pid: u32) -> (Vec<String>, bool) {
    exec_of(watch, pid, |_, exec| {
        let env = exec.env.expect("the environment was asked for");
        let text = String::from_utf8_lossy(env.bytes);
        let variables = text.split_terminator('\0').map(str::to_owned);
        (variables.collect(), env.cut)
    })
}

#[test]
fn chosen_variables_are_recorded_and_no_others() {
    let Some(mut watch) = with_environment(&["LD_PRELOAD", "WANTED", "EMPTY"]) else {
        return;
    };
    let started = run(Command::new("/bin/true").env_clear().envs([
        ("A", "1"),
        ("EMPTY", ""),
        ("LD_PRELOA", "no"),
        ("LD_PRELOADX", "no"),
        ("SECRET", "hunter2"),
        ("WANTED", "a b=c"),
    ]));
    assert_eq!(
        variables(&mut watch, started),
        (vec!["EMPTY=".into(), "WANTED=a b=c".into()], false)
    );
    let started = run(Command::new("/bin/true").env_clear());
    assert_eq!(variables(&mut watch, started), (vec![], false));
}

#[test]
fn a_padded_environment_says_so() {
    let Some(mut watch) = with_environment(&["WANTED"]) else {
        return;
    };
    // A value over the bound cannot pretend that another variable starts in its middle.
    let long = format!("{}WANTED=fake", "x".repeat(1023 - 2));
    let started = run(Command::new("/bin/true")
        .env_clear()
        .envs([("A", &*long), ("WANTED", "real")]));
    assert_eq!(
        variables(&mut watch, started),
        (vec!["WANTED=real".into()], false)
    );

    let started = run(Command::new("/bin/true")
        .env_clear()
        .env("WANTED", "y".repeat(5000)));
    let (found, cut) = variables(&mut watch, started);
    assert!(
        cut && found.len() == 1 && found[0].len() == 1023,
        "{found:?}"
    );

    let many = (0..400).map(|number| (format!("A{number:03}"), "x".to_owned()));
    let started = run(Command::new("/bin/true")
        .env_clear()
        .envs(many)
        .env("WANTED", "behind"));
    assert_eq!(variables(&mut watch, started), (vec![], true));
}

#[test]
fn without_a_wish_no_environment_is_looked_at() {
    let Some(mut watch) = watch(kinds(&[Kind::Exec])) else {
        return;
    };
    let started = run(Command::new("/bin/true").env("LD_PRELOAD", ""));
    exec_of(&mut watch, started, |_, exec| assert_eq!(exec.env, None));
}

#[test]
fn groups_capabilities_and_file_are_what_proc_shows() {
    let Some(mut watch) = watch(kinds(&[Kind::Exec])) else {
        return;
    };
    let mut child = Command::new("/bin/sleep")
        .arg("1000")
        .process_group(0)
        .spawn()
        .expect("spawn");
    let pid = child.id();
    let first = fs::read_to_string("/proc/1/stat").expect("stat");
    let metadata = fs::metadata("/bin/sleep").expect("metadata");
    exec_of(&mut watch, pid, |_, exec| {
        // Not before the event: `spawn` returns in the middle of the exec, and what is killed there has not started.
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(exec.pgid, Some(pid));
        let line = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.split_whitespace().last())
                .expect(key)
        };
        assert_eq!(
            exec.ns_pgid.map(|id| id.to_string()).as_deref(),
            Some(line("NSpgid:"))
        );
        let set = |key: &str| u64::from_str_radix(line(key), 16).expect("hexadecimal");
        assert_eq!(
            exec.capabilities,
            Some([set("CapPrm:"), set("CapEff:"), set("CapInh:")])
        );
        let file = exec.exe_file.expect("it is known");
        assert_eq!(
            (file.uid, file.gid, file.mode),
            (metadata.uid(), metadata.gid(), metadata.mode())
        );
        let moment = |seconds: i64, nanoseconds: i64| {
            Some(seconds.cast_unsigned() * 1_000_000_000 + nanoseconds.cast_unsigned())
        };
        assert_eq!(
            file.ctime_ns,
            moment(metadata.ctime(), metadata.ctime_nsec())
        );
        assert_eq!(
            file.mtime_ns,
            moment(metadata.mtime(), metadata.mtime_nsec())
        );
        assert!(exec.exe_layer_known);
        let ticks: u64 = first
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok())
            .expect("a start");
        // The test may itself run in a pid namespace; its first process is the one that /proc shows.
        assert_eq!(exec.pid_ns_start_ns.map(|ns| ns / 10_000_000), Some(ticks));
    });
}

#[test]
fn an_overlays_layers_are_told_apart() {
    let Some(mut watch) = watch(kinds(&[Kind::Exec])) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    // Copies made by a process: no thread of this one then holds them open for writing.
    let script = r#"
        set -e; cd "$1"; mkdir lower upper work merged
        mount -t tmpfs none upper; mkdir upper/u upper/w
        cp /bin/true lower/image; cp /bin/true lower/changed
        mount -t overlay overlay -o lowerdir=lower,upperdir=upper/u,workdir=upper/w merged || exit 77
        cp /bin/true merged/added; touch merged/changed
        merged/image image || :; merged/added added || :; merged/changed changed || :; /bin/true outside
    "#;
    let status = Command::new("unshare")
        .args(["--mount", "/bin/sh", "-c", script, "sh"])
        .arg(folder.path())
        .status()
        .expect("unshare runs");
    if status.code() == Some(77) {
        return saker_tests::skip("no overlay can be mounted");
    }
    assert!(status.success());
    for (argument, expected) in [
        ("image", Some(false)),
        ("added", Some(true)),
        ("changed", Some(true)),
        ("outside", None),
    ] {
        watch.until(argument, |event| match &event.body {
            saker::event::Body::Exec(exec)
                if exec.argv.iter().nth(1) == Some(argument.as_bytes()) =>
            {
                assert_eq!(exec.exe_upper_layer, expected, "{argument}");
                assert!(exec.exe_layer_known);
                Some(())
            }
            _ => None,
        });
    }
}
