//! The counts close, and the ring is drained in the caller's time.

use saker::event::{Body, Event};
use saker::source::{Kind, Sensor, SensorConfig};
use std::collections::BTreeSet;
use std::fs::File;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use crate::device::renamed_node;
use crate::{kinds, owned, run, watch};

#[test]
fn ten_thousand_short_processes_are_ten_thousand_events() {
    const PROCESSES: usize = 10_000;
    let Some(mut watch) = watch(SensorConfig {
        ring_bytes: 4 << 20,
        ..kinds(&[Kind::Exec, Kind::Fork, Kind::Exit])
    }) else {
        return;
    };
    let spawner = std::thread::spawn(|| {
        for number in 0..PROCESSES {
            run(Command::new("/bin/true").arg(number.to_string()));
        }
    });
    let mut execs = vec![0u32; PROCESSES];
    let mut delivered = std::collections::BTreeMap::<Kind, u64>::new();
    let mut take = |event: &Event<'_>| {
        *delivered
            .entry(event.kind().expect("from the kernel"))
            .or_default() += 1;
        if let Body::Exec(exec) = &event.body
            && event.ppid == std::process::id()
            && let [program, number] = owned(exec).as_slice()
            && program == b"/bin/true"
        {
            let number: usize = String::from_utf8_lossy(number).parse().expect("a number");
            execs[number] += 1;
        }
    };
    while !spawner.is_finished() {
        watch.sensor.poll(Duration::from_millis(50)).expect("poll");
        watch.sensor.drain(4096, &mut |record| {
            take(&saker::decode::decode(record).expect("decodes"));
        });
    }
    spawner.join().expect("join");
    watch.finish(&mut take);
    let counters = watch.sensor.counters().expect("counters");
    for (kind, counts) in counters.iter() {
        eprintln!(
            "{}: delivered {}, {counts:?}",
            kind.name(),
            delivered.get(&kind).unwrap_or(&0)
        );
        assert_eq!(
            counts.seen,
            counts.filtered + counts.submitted + counts.lost(),
            "{kind:?}"
        );
        assert_eq!(
            counts.submitted,
            delivered.get(&kind).copied().unwrap_or(0),
            "{kind:?}"
        );
    }
    assert_eq!(counters.lost(), 0);
    let wrong: Vec<usize> = (0..PROCESSES)
        .filter(|number| execs[*number] != 1)
        .collect();
    assert_eq!(
        wrong, [0usize; 0],
        "numbers whose exec did not come exactly once"
    );
}

#[test]
fn a_full_ring_loses_by_count() {
    let Some(mut watch) = watch(SensorConfig {
        ring_bytes: 16384,
        kernel_log: Some(aya_log::Level::Warn),
        ..kinds(&[Kind::Exec, Kind::Fork, Kind::Exit])
    }) else {
        return;
    };
    for _ in 0..100 {
        run(&mut Command::new("/bin/true"));
    }
    let mut delivered = 0u64;
    watch.finish(&mut |_| delivered += 1);
    let counters = watch.sensor.counters().expect("counters");
    let sum = |count: fn(&saker::source::sensor::KindCounters) -> u64| -> u64 {
        counters.iter().map(|(_, counts)| count(counts)).sum()
    };
    assert_eq!(sum(|counts| counts.submitted), delivered);
    assert!(sum(|counts| counts.lost_ring_full) > 0);
    assert_eq!(
        sum(|counts| counts.seen),
        sum(|counts| counts.filtered + counts.submitted) + counters.lost()
    );
}

#[test]
fn nothing_comes_after_detaching() {
    let Some(mut watch) = watch(kinds(&[Kind::Exec])) else {
        return;
    };
    watch.finish(&mut |_| {});
    let before = watch.sensor.counters().expect("counters");
    let _ = run(&mut Command::new("/bin/true"));
    assert_eq!(watch.sensor.drain(100, &mut |_| ()), 0);
    assert_eq!(watch.sensor.counters().expect("counters"), before);
}

#[test]
fn a_drain_stops_at_its_cap() {
    let Some(mut watch) = watch(kinds(&[Kind::Exec])) else {
        return;
    };
    for _ in 0..200 {
        run(&mut Command::new("/bin/true"));
    }
    watch.sensor.detach().expect("detach");
    let mut handed = 0;
    assert_eq!(watch.sensor.drain(150, &mut |_| handed += 1), 150);
    assert_eq!(handed, 150);
    assert!(watch.sensor.drain(10_000, &mut |_| handed += 1) >= 50);
    assert_eq!(watch.sensor.drain(1, &mut |_| ()), 0);
}

#[test]
fn a_waker_ends_a_wait() {
    let Some(mut watch) = watch(kinds(&[])) else {
        return;
    };
    let waker = watch.sensor.waker();
    let thread = std::thread::spawn(move || waker.wake());
    assert!(!watch.sensor.poll(Duration::from_secs(600)).expect("poll"));
    thread.join().expect("join");
}

#[test]
fn the_agent_does_not_see_its_own_connections_and_devices() {
    // By this sensor's configuration, so past the harness, which turns it off.
    let config = SensorConfig {
        own_tgid: std::process::id(),
        ..kinds(&[Kind::DeviceOpen, Kind::Connect, Kind::Exec])
    };
    let mut sensor = match Sensor::load(&config) {
        Ok(sensor) => sensor,
        Err(error) => return saker_tests::skip(&error.to_string()),
    };
    let folder = tempfile::tempdir().expect("a folder");
    let node = renamed_node(folder.path());
    let _ = File::open(&node);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    socket.connect(("127.0.0.1", 9)).expect("connect");
    let child = run(Command::new("/bin/cat").arg(&node));
    sensor.detach().expect("detach");
    let (mut own, mut childs) = (0, BTreeSet::new());
    while sensor.drain(1000, &mut |record| {
        let event = saker::decode::decode(record).expect("decodes");
        own += u32::from(event.tgid == std::process::id());
        if event.tgid == child {
            childs.extend(event.kind());
        }
    }) > 0
    {}
    assert_eq!(own, 0);
    assert_eq!(childs, BTreeSet::from([Kind::Exec, Kind::DeviceOpen]));
}
