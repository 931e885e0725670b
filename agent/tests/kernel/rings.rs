//! The two rings: what is shed is a noisy cgroup's own, what must not be lost is not, and both come out as one story.

use std::collections::{BTreeMap, HashMap};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use saker::decode::decode;
use saker::event::{Body, Event};
use saker::source::{Kind, OpenFilter, SensorConfig, ShareLimit};
use saker_ebpf::wire::share::SHARE_OF_ACTS;
use saker_tests::Cgroup;

use crate::{DEADLINE, Watch, kinds, owned, run, watch};

/// Goes to the cgroup `$4`, opens `$1` `$2` times without starting anything, then starts as many programs as `$3` says.
const OPENS: &str = "echo 0 > $4; i=0; while [ $i -lt $2 ]; do : < $1; i=$((i+1)); done
    i=0; while [ $i -lt $3 ]; do /bin/true; i=$((i+1)); done";

/// With it programs look for their libraries in many folders, and every one of those opens fails: noise for other tests.
const LIBRARIES: &str = "LD_LIBRARY_PATH";

fn act(cgroup: &Cgroup, file: &Path, opens: u32, starts: u32) -> Child {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", OPENS, "sh"])
        .arg(file)
        .args([opens.to_string(), starts.to_string()])
        .arg(cgroup.procs())
        .env_remove(LIBRARIES)
        .stdin(Stdio::null());
    command.spawn().expect("spawn")
}

fn opens_below(folder: &Path) -> OpenFilter {
    OpenFilter {
        prefixes: vec![folder.as_os_str().as_encoded_bytes().to_vec()],
        ..OpenFilter::default()
    }
}

/// Drains, a few at a time, until all children have ended, and then to the last record.
fn follow(watch: &mut Watch, mut children: Vec<Child>, f: &mut dyn FnMut(&Event<'_>)) {
    while !children.is_empty() {
        watch.sensor.poll(Duration::from_millis(50)).expect("poll");
        watch.sensor.drain(7, &mut |record| {
            f(&decode(record).expect("the kernel's records decode"));
        });
        children.retain_mut(|child| child.try_wait().expect("wait").is_none());
    }
    watch.finish(f);
}

#[test]
fn a_noisy_cgroup_loses_its_own_events_and_nobody_elses() {
    const NOISE: u32 = 1000;
    const STARTS: u32 = 10;
    const QUIET: u32 = 60;
    let folder = tempfile::tempdir().expect("a folder");
    let (noisy, quiet) = (folder.path().join("noisy"), folder.path().join("quiet"));
    for file in [&noisy, &quiet] {
        std::fs::write(file, "").expect("write");
    }
    let Some(mut watch) = watch(SensorConfig {
        opens: opens_below(folder.path()),
        share: ShareLimit {
            events_per_s: 20,
            burst: 100,
        },
        ..kinds(&[Kind::Exec, Kind::Fork, Kind::Exit, Kind::Open])
    }) else {
        return;
    };
    let cgroups = [(); 2].map(|()| Cgroup::like_a_container().expect("a cgroup"));
    let children = vec![
        act(&cgroups[0], &noisy, NOISE, STARTS),
        act(&cgroups[1], &quiet, QUIET, 0),
    ];
    let noisy_shell = children[0].id();
    let mut delivered = BTreeMap::<Kind, u64>::new();
    let (mut noise, mut heard, mut starts, mut noisy_id) = (0u32, 0u32, 0u32, 0);
    follow(&mut watch, children, &mut |event| {
        *delivered
            .entry(event.kind().expect("from the kernel"))
            .or_default() += 1;
        match &event.body {
            Body::Open(open) if open.path.bytes.ends_with(b"/noisy") => noise += 1,
            Body::Open(open) if open.path.bytes.ends_with(b"/quiet") => heard += 1,
            Body::Exec(exec) if event.ppid == noisy_shell => {
                assert_eq!(owned(exec), [b"/bin/true"]);
                noisy_id = event.cgroup_id;
                starts += 1;
            }
            _ => {}
        }
    });
    assert!((50..NOISE).contains(&noise), "{noise}");
    let counters = watch.sensor.counters().expect("counters");
    // A kernel that interrupts programs leaves some runs out, and says so.
    let missed = |kind: Kind| counters.kind(kind).missed_runs;
    let check = |what: &str, came: u64, of: u32, missed: u64| {
        let lacking = u64::from(of) - came;
        assert!(
            lacking <= missed,
            "{what}: {lacking} of {of} lack: {counters:?}"
        );
    };
    let left_out = counters.kind(Kind::Open).lost_over_share;
    check(
        "opens of the quiet one",
        heard.into(),
        QUIET,
        missed(Kind::Open),
    );
    check(
        "starts of the noisy one",
        starts.into(),
        STARTS,
        missed(Kind::Exec),
    );
    check(
        "opens of the noisy one",
        u64::from(noise) + left_out,
        NOISE,
        missed(Kind::Open),
    );
    for (kind, counts) in counters.iter() {
        assert_eq!(
            counts.seen,
            counts.filtered + counts.submitted + counts.lost(),
            "{kind:?}"
        );
        let delivered = delivered.get(&kind).copied().unwrap_or(0);
        assert_eq!(counts.submitted, delivered, "{kind:?}");
        let over_share = if kind == Kind::Open { left_out } else { 0 };
        assert_eq!(counts.lost(), over_share + counts.missed_runs, "{kind:?}");
    }
    let shares = watch.sensor.shares().left_out().expect("shares");
    let [(key, count)] = shares.as_slice() else {
        panic!("{shares:?}");
    };
    assert_eq!(
        (key.cgroup_id, key.part, *count),
        (noisy_id, SHARE_OF_ACTS, left_out)
    );
}

#[test]
fn without_a_limit_nothing_is_left_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(mut watch) = watch(SensorConfig {
        opens: opens_below(folder.path()),
        share: ShareLimit {
            events_per_s: 0,
            burst: 0,
        },
        ..kinds(&[Kind::Open])
    }) else {
        return;
    };
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("write");
    let cgroup = Cgroup::like_a_container().expect("a cgroup");
    let child = act(&cgroup, &file, 1000, 0);
    let pid = child.id();
    let mut opens = 0u64;
    follow(&mut watch, vec![child], &mut |event| {
        opens += u64::from(event.tgid == pid);
    });
    let counters = watch.sensor.counters().expect("counters");
    let lost = counters.kind(Kind::Open);
    assert_eq!(lost.lost(), lost.missed_runs);
    assert!(1000 - opens <= lost.missed_runs, "{opens} {lost:?}");
}

#[test]
fn what_a_process_did_comes_in_the_order_in_which_it_did_it() {
    const EACH: u32 = 20;
    let folder = tempfile::tempdir().expect("a folder");
    let Some(mut watch) = watch(SensorConfig {
        opens: opens_below(folder.path()),
        ..kinds(&[Kind::Exec, Kind::Fork, Kind::Exit, Kind::Open])
    }) else {
        return;
    };
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("write");
    // Before and after its start, and once more before its end.
    let script = "i=0; while [ $i -lt $2 ]; do (: < $1; exec cat $1 $1) & wait; i=$((i+1)); done";
    let children: Vec<Child> = (0..2)
        .map(|_| {
            Command::new("/bin/sh")
                .args(["-c", script, "sh"])
                .arg(&file)
                .arg(EACH.to_string())
                .env_remove(LIBRARIES)
                .stdin(Stdio::null())
                .spawn()
                .expect("spawn")
        })
        .collect();
    let parents: Vec<u32> = children.iter().map(Child::id).collect();
    let mut stories = HashMap::<u32, (u64, String)>::new();
    let mut add = |process: u32, at: u64, what: &str| {
        let (last, story) = stories.entry(process).or_default();
        assert!(*last <= at, "{story} and then, earlier, {what}");
        *last = at;
        story.push_str(what);
    };
    follow(&mut watch, children, &mut |event| {
        let what = match &event.body {
            Body::Fork(fork) if parents.contains(&event.tgid) => {
                return add(fork.child_tgid, event.ts_ns, "fork ");
            }
            Body::Exec(_) => "start ",
            Body::Open(_) => "open ",
            Body::Exit(_) => "end ",
            _ => return,
        };
        if parents.contains(&event.ppid) {
            add(event.tgid, event.ts_ns, what);
        }
    });
    let counters = watch.sensor.counters().expect("counters");
    let whole = "fork open start open open end";
    let mut lacking = 2 * EACH as usize * whole.split(' ').count();
    for (_, story) in stories.values() {
        let mut rest = whole.split(' ');
        for word in story.split_whitespace() {
            assert!(rest.any(|expected| expected == word), "{story}");
            lacking -= 1;
        }
    }
    assert!(
        lacking as u64 <= counters.lost(),
        "{lacking} lack: {stories:?} {counters:?}"
    );
}

#[test]
fn a_half_full_ring_of_what_must_not_be_lost_is_emptied_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(mut watch) = watch(SensorConfig {
        ring_bytes: 256 << 10,
        opens: opens_below(folder.path()),
        ..kinds(&[Kind::Exec, Kind::Open])
    }) else {
        return;
    };
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("write");
    for _ in 0..10 {
        drop(std::fs::File::open(&file).expect("open"));
    }
    let long = "x".repeat(4096);
    for _ in 0..40 {
        run(Command::new("/bin/true").arg(&long));
    }
    let mut order = Vec::new();
    watch.finish(&mut |event| match &event.body {
        Body::Exec(_) => order.push(('s', event.ts_ns)),
        Body::Open(_) => order.push(('o', event.ts_ns)),
        _ => {}
    });
    let first = order.iter().position(|(what, _)| *what == 'o');
    let first = first.expect("the opens came");
    let opened_ns = order[first].1;
    // Other tests start programs too, some of them before.
    let early = |(_, at): &&(char, u64)| *at > opened_ns;
    let overtook = order[..first].iter().filter(early).count();
    assert_eq!(
        watch.sensor.rings().overtaken(),
        overtook as u64,
        "{order:?}"
    );
    assert!(overtook > 0, "{order:?}");
    // From there on by age.
    let rest = &order[first..];
    assert!(
        rest.iter()
            .rev()
            .skip_while(|(what, _)| *what == 's')
            .all(|(what, _)| *what == 'o'),
        "{order:?}"
    );
}

#[test]
fn what_comes_while_the_agent_falls_asleep_wakes_it() {
    const ROUNDS: u32 = 2000;
    let Some(mut watch) = watch(kinds(&[Kind::Connect])) else {
        return;
    };
    let receiver = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let to = receiver.local_addr().expect("address");
    let (begin, begun) = mpsc::channel();
    let connecting = std::thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        for round in begun {
            // Now a little earlier, now a little later than the agent.
            for _ in 0..round % 64 * 32 {
                std::hint::spin_loop();
            }
            socket.connect(to).expect("connect");
        }
    });
    let mut connects = 0;
    for round in 0..ROUNDS {
        // Awake: what comes now wakes nobody.
        watch.sensor.gather(Duration::ZERO).expect("wait");
        begin.send(round).expect("the thread runs");
        while connects <= round {
            // Falls asleep, unless it is there already.
            assert!(
                watch.sensor.poll(DEADLINE).expect("poll"),
                "round {round}: nobody woke the agent"
            );
            watch.sensor.drain(1000, &mut |record| {
                let event = decode(record).expect("the kernel's records decode");
                let is_ours = event.tgid == std::process::id();
                connects += match event.body {
                    Body::Connect(connect) if is_ours && connect.port == to.port() => 1,
                    _ => 0,
                };
            });
        }
    }
    drop(begin);
    connecting.join().expect("join");
}
