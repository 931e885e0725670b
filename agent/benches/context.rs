//! What the context costs at the size of a large node: 100,000 processes in 2,000 containers. Reports memory, by the
//! tables' own count and by the process's resident set, and the time of the look-ups that an event makes.

use std::{
    hint::black_box,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use saker::context::{
    process::{Image, ProcessTable, Seed, Start},
    runtime::{
        Directory,
        directory::Answer,
        metadata::{self, Container, Pod},
    },
};

const PROCESSES: u32 = 100_000;
const CONTAINERS: u32 = 2_000;
const ROUNDS: u32 = 5;

fn main() {
    let start_bytes = resident();
    let mut table = ProcessTable::new(131_072, 64 << 20);
    let begun = Instant::now();
    for tgid in 1..=PROCESSES {
        table.add(process(tgid), u64::from(tgid));
    }
    report("add a process", begun, PROCESSES);
    let process_bytes = resident().saturating_sub(start_bytes);

    let (mut directory, mut ends) = Directory::new(16_384, 256 << 20);
    ends.present.store(true, Ordering::Release);
    for number in 0..CONTAINERS {
        let id = container_id(number);
        let _ = directory.look(&id, 1);
        let asked = ends.requests.try_recv().expect("it is asked for");
        let container = Some(Arc::new(container(number)));
        let answer = Answer {
            id: asked.id,
            container,
        };
        ends.answers.try_send(answer).expect("there is room");
        directory.next_answer(1).expect("the answer is there");
    }
    let container_bytes = resident().saturating_sub(start_bytes + process_bytes);

    // A large odd stride visits all of them in an order that no cache expects.
    let order =
        || (0..PROCESSES).map(|at| 1 + (u64::from(at) * 48_271 % u64::from(PROCESSES)) as u32);
    let mut best = [f64::MAX; 3];
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for tgid in order() {
            black_box(table.find(tgid, start_ns(tgid))).expect("it is there");
        }
        best[0] = best[0].min(each_ns(begun, PROCESSES));
        let begun = Instant::now();
        for tgid in order() {
            let slot = table.find(tgid, start_ns(tgid)).expect("it is there");
            let process = table.get(slot).expect("it is there");
            black_box(table.ancestors(process).count());
        }
        best[1] = best[1].min(each_ns(begun, PROCESSES));
        let ids: Vec<String> = (0..CONTAINERS).map(container_id).collect();
        let begun = Instant::now();
        for id in &ids {
            black_box(directory.look(id, 2));
        }
        best[2] = best[2].min(each_ns(begun, CONTAINERS));
    }
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let (live, exited, evicted) = table.sizes();
    assert_eq!((live, exited, evicted), (PROCESSES as usize, 0, 0));
    let (known, counted, _) = directory.sizes();
    assert_eq!(known, CONTAINERS as usize);
    println!("find a process            {:9.0} ns", best[0]);
    println!("find it and its ancestors {:9.0} ns", best[1]);
    println!("find a container          {:9.0} ns", best[2]);
    println!(
        "{PROCESSES} processes: {:.1} MiB resident, {:.1} MiB by the table's count",
        mib(process_bytes),
        mib(table.bytes())
    );
    println!(
        "{CONTAINERS} containers: {:.1} MiB resident, {:.1} MiB by the directory's count",
        mib(container_bytes),
        mib(counted)
    );
}

fn start_ns(tgid: u32) -> u64 {
    u64::from(tgid) * 1_000_003
}

/// A tree of the usual depth, each process with a program of its own.
fn process(tgid: u32) -> Seed {
    let argv = format!(
        "python3\0-m\0train\0--rank={tgid}\0--config=/srv/configs/experiment-{tgid}.yaml\0"
    );
    let image = Image::new(&Start {
        name: b"python3",
        exe_path: b"/usr/local/bin/python3.11",
        argv: argv.as_bytes(),
        cwd: b"/srv/app",
        env: b"LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64\0",
        env_truncated: Some(false),
        ..Start::default()
    });
    Seed {
        tgid,
        ppid: tgid / 4,
        start_ns: start_ns(tgid),
        image: Arc::new(image),
        cgroup_id: u64::from(tgid % CONTAINERS),
        ..Seed::default()
    }
}

fn container_id(number: u32) -> String {
    format!("{number:064x}")
}

fn container(number: u32) -> Container {
    let labels = |count: u32| {
        (0..count)
            .map(|at| {
                (
                    metadata::text(&format!("app.kubernetes.io/label-{at}")),
                    metadata::text("value-of-a-label"),
                )
            })
            .collect::<Vec<_>>()
    };
    Container {
        id: container_id(number).into(),
        kind: "containerd",
        name: metadata::text("trainer"),
        image: metadata::Image::parse("registry.internal/ml-trainer:2024.1"),
        labels: labels(6),
        pod: Some(Pod {
            name: metadata::text(&format!("trainer-{number}")),
            namespace: metadata::text("ml"),
            labels: labels(8),
            annotations: labels(8),
            ..Pod::default()
        }),
        ..Container::default()
    }
}

fn each_ns(begun: Instant, count: u32) -> f64 {
    begun.elapsed().as_nanos() as f64 / f64::from(count)
}

fn report(what: &str, begun: Instant, count: u32) {
    println!("{what:25} {:9.0} ns", each_ns(begun, count));
}

/// Resident memory of this process, from `/proc/self/statm` in pages of 4 KiB.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages: usize = text
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("a number of pages");
    pages * 4096
}
