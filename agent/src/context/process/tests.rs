//! The table: identity, ancestry, bounds.

use super::*;

fn seed(tgid: u32, ppid: u32, start_ns: u64) -> Seed {
    let image = Arc::new(Image::new(&Start {
        name: format!("p{tgid}").as_bytes(),
        exe_path: b"/bin/p",
        argv: b"p\0-x",
        ..Start::default()
    }));
    Seed {
        tgid,
        ppid,
        start_ns,
        image,
        ..Seed::default()
    }
}

#[test]
fn a_reused_pid_is_another_process() {
    let mut table = ProcessTable::new(100, 1 << 20);
    let first = table.add(seed(7, 1, 1_000), 0);
    let second = table.add(seed(7, 1, 2_000), 10);
    assert_ne!(first, second);
    assert_eq!(
        table.find(7, 1_000),
        Some(first),
        "the first is remembered as exited"
    );
    assert_eq!(table.find(7, 2_000), Some(second));
    assert_eq!(table.live(7), Some(second));
}

#[test]
fn a_start_time_from_proc_matches_the_kernels() {
    let mut table = ProcessTable::new(100, 1 << 20);
    let scanned = table.add(
        Seed {
            start_rounded: true,
            ..seed(7, 1, 120_000_000)
        },
        0,
    );
    assert_eq!(table.find(7, 123_456_789), Some(scanned));
    assert_eq!(table.find(7, 133_456_789), None);
}

#[test]
fn ancestry_survives_the_parents_exit() {
    let mut table = ProcessTable::new(100, 1 << 20);
    table.add(seed(1, 0, 1), 0);
    let shell = table.add(seed(10, 1, 2), 0);
    let child = table.add(seed(11, 10, 3), 0);
    table.end(shell, 5);
    let child = table.get(child).expect("the child lives");
    let names: Vec<_> = table.ancestors(child).map(|process| process.tgid).collect();
    assert_eq!(names, [10, 1]);
}

#[test]
fn a_cycle_of_parents_ends() {
    let mut table = ProcessTable::new(100, 1 << 20);
    table.add(seed(10, 11, 1), 0);
    let b = table.add(seed(11, 10, 2), 0);
    table.link_parents();
    let b = table.get(b).expect("it lives");
    assert_eq!(table.ancestors(b).count(), ANCESTORS_MAX);
}

#[test]
fn the_bound_holds_for_exited_and_for_live_ones() {
    let mut table = ProcessTable::new(10, 1 << 20);
    for tgid in 1..=50 {
        let slot = table.add(seed(tgid, 0, u64::from(tgid)), 0);
        if tgid % 2 == 0 {
            table.end(slot, 1);
        }
    }
    let (live, exited, evicted) = table.sizes();
    assert!(live + exited <= 10, "{live} live and {exited} exited");
    assert_eq!(evicted, 50 - (live + exited) as u64);
    assert!(table.live(1).is_some(), "who was there first stays");
}

#[test]
fn a_flood_of_short_processes_does_not_cut_a_lineage() {
    let mut table = ProcessTable::new(100, 1 << 20);
    table.add(seed(1, 0, 1), 0);
    let shell = table.add(seed(2, 1, 2), 0);
    let daemon = table.add(seed(3, 2, 3), 0);
    table.end(shell, 5);
    for tgid in 10..10_000 {
        let slot = table.add(seed(tgid, 1, u64::from(tgid)), 6);
        table.end(slot, 7);
    }
    let daemon = table.get(daemon).expect("it lives");
    let names: Vec<_> = table
        .ancestors(daemon)
        .map(|process| process.tgid)
        .collect();
    assert_eq!(names, [2, 1]);
    let (live, exited, _) = table.sizes();
    assert!(live + exited <= 100, "{live} live and {exited} exited");
}

#[test]
fn ended_parents_of_the_living_are_bounded_too() {
    let mut table = ProcessTable::new(100, 1 << 20);
    table.add(seed(1, 0, 1), 0);
    // Each starts the next one and ends.
    for tgid in 2..1_000 {
        let slot = table.add(seed(tgid, tgid - 1, u64::from(tgid)), 0);
        table.add(seed(tgid + 10_000, tgid, u64::from(tgid)), 0);
        table.end(slot, 1);
    }
    let (live, exited, _) = table.sizes();
    assert!(live + exited <= 100, "{live} live and {exited} exited");
}

#[test]
fn exited_processes_are_forgotten_after_a_while() {
    let mut table = ProcessTable::new(100, 1 << 20);
    let slot = table.add(seed(7, 1, 1_000), 0);
    table.end(slot, 5);
    table.add(seed(8, 1, 2_000), 5 + KEEP_EXITED_NS + 1);
    assert_eq!(table.find(7, 1_000), None);
    assert_eq!(table.sizes(), (1, 0, 0), "time is no eviction");
}

#[test]
fn bytes_are_bounded_and_forked_children_share() {
    let mut table = ProcessTable::new(10_000, 100_000);
    let parent = table.add(seed(1, 0, 1), 0);
    table.set_image(parent, long_image(), 0);
    let image = Arc::clone(&table.get(parent).expect("it lives").image);
    for tgid in 2..1000 {
        let child = Seed {
            image: Arc::clone(&image),
            image_shared: true,
            ..seed(tgid, 1, u64::from(tgid))
        };
        let child = table.add(child, 0);
        table.end(child, 1);
    }
    assert!(
        table.bytes < 10_000,
        "{} bytes for one shared image",
        table.bytes
    );
    for tgid in 1000..2000 {
        let process = table.add(seed(tgid, 1, u64::from(tgid)), 0);
        table.set_image(process, long_image(), 0);
        table.end(process, 1);
    }
    assert!(table.bytes <= 100_000 + 8192, "{} bytes", table.bytes);
    assert!(table.get(parent).is_some(), "the living stay");
    assert!(table.sizes().2 > 0, "what went is counted");
}

fn long_image() -> Image {
    Image::new(&Start {
        name: b"p",
        exe_path: b"/p",
        argv: &[b'x'; 4096],
        ..Start::default()
    })
}

#[test]
fn an_exited_parent_stays_while_it_has_children() {
    let mut table = ProcessTable::new(100, 1 << 20);
    table.add(seed(1, 0, 1), 0);
    let shell = table.add(seed(10, 1, 2), 0);
    let child = table.add(seed(11, 10, 3), 0);
    table.end(shell, 5);
    let names = |table: &ProcessTable| -> Vec<u32> {
        let child = table.get(child).expect("the child lives");
        table.ancestors(child).map(|process| process.tgid).collect()
    };
    let late = 10 * KEEP_EXITED_NS;
    table.add(seed(12, 1, 4), late);
    assert_eq!(names(&table), [10, 1], "kept past its time");

    // The kernel gave the child to init meanwhile. Once there is no room, that is what is left to tell.
    table.set_parent_pid(child, 1);
    for tgid in 1000..1200 {
        let other = table.add(seed(tgid, 1, u64::from(tgid)), late);
        table.end(other, late);
    }
    assert_eq!(names(&table), [10, 1], "others have no children");
    for tgid in 2000..2090 {
        let other = table.add(seed(tgid, 1, u64::from(tgid)), late);
        table.add(seed(tgid + 1000, tgid, u64::from(tgid)), late);
        table.end(other, late);
    }
    assert_eq!(names(&table), [1]);

    // With its last child gone it goes in its turn.
    let mut table = ProcessTable::new(100, 1 << 20);
    let shell = table.add(seed(10, 1, 2), 0);
    let child = table.add(seed(11, 10, 3), 0);
    table.end(shell, 5);
    table.end(child, 6);
    table.add(seed(12, 1, 4), late);
    table.add(seed(13, 1, 5), 3 * late);
    assert_eq!(table.sizes(), (2, 0, 0));
}

#[test]
fn a_pid_that_was_used_again_is_nobodys_parent() {
    let mut table = ProcessTable::new(100, 1 << 20);
    let orphan = table.add(seed(11, 10, 1_000_000_000), 0);
    table.add(seed(10, 1, 5_000_000_000), 0);
    table.link_parents();
    let orphan = table.get(orphan).expect("it lives");
    assert!(table.parent(orphan).is_none());
}

#[test]
fn events_from_before_the_scan_do_not_end_who_runs_now() {
    // The scan saw the second process with this pid; the ring still holds the life of the first.
    let mut table = ProcessTable::new(100, 1 << 20);
    let scanned = Seed {
        start_rounded: true,
        ..seed(7, 1, 9 * TICK_NS)
    };
    let second = table.add(scanned, 100 * TICK_NS);
    let first = table.add(seed(7, 1, 2 * TICK_NS + 1), 3 * TICK_NS);
    assert_eq!(table.live(7), Some(second));
    assert_eq!(table.find(7, 2 * TICK_NS + 1), Some(first));
    table.end(first, 4 * TICK_NS);
    // Its own fork is in the ring too, with the exact time.
    assert_eq!(table.add(seed(7, 1, 9 * TICK_NS + 5), 9 * TICK_NS), second);
    assert_eq!(table.live(7), Some(second));
    assert_eq!(table.sizes(), (1, 1, 0));
}

#[test]
fn programs_that_a_process_ran_before_are_remembered() {
    let mut table = ProcessTable::new(100, 1 << 20);
    let slot = table.add(seed(7, 1, 1_000), 0);
    for path in ["/a", "/b", "/c", "/d", "/e", "/f"] {
        let exe_path = path.as_bytes();
        let start = Start {
            exe_path,
            ..Start::default()
        };
        table.set_image(slot, Image::new(&start), 0);
    }
    let process = table.get(slot).expect("it lives");
    let history: Vec<_> = process
        .history
        .iter()
        .map(|path| String::from_utf8_lossy(path))
        .collect();
    assert_eq!(history, ["/e", "/d", "/c", "/b"]);
    let bytes = table.bytes;
    table.end(slot, 1);
    table.add(seed(8, 1, 2_000), 2 * KEEP_EXITED_NS);
    assert!(table.bytes < bytes);
}

#[test]
fn leaders_are_found_also_when_they_have_ended() {
    let mut table = ProcessTable::new(100, 1 << 20);
    let leader = table.add(seed(20, 1, 1), 0);
    table.add(seed(21, 20, 2), 0);
    assert_eq!(table.leader(20).map(|leader| leader.tgid), Some(20));
    table.end(leader, 5);
    assert_eq!(table.leader(20).map(|leader| leader.tgid), Some(20));
    assert!(table.leader(22).is_none());
}

#[test]
fn a_flood_of_living_processes_leaves_those_that_were_there() {
    let mut table = ProcessTable::new(1_000, 1 << 30);
    for tgid in 1..=500 {
        table.add(seed(tgid, 1, u64::from(tgid)), 0);
    }
    for tgid in 1_000..100_000 {
        table.add(seed(tgid, 500, u64::from(tgid)), 0);
    }
    let (live, exited, evicted) = table.sizes();
    assert_eq!((live, exited), (1_000, 0));
    assert_eq!(evicted, 500 + 99_000 - 1_000);
    assert!((1..=500).all(|tgid| table.live(tgid).is_some()));
    assert!(table.live(99_999).is_some(), "the newest is there too");
    assert!(table.births.len() <= 4_000, "{}", table.births.len());
}
