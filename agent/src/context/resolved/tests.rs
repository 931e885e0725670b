//! What is kept, for whom, for how long, and how much of it.

use super::*;

const NOW: u64 = 1_000 * SECOND_NS;

fn answer(name: &str, cnames: &[&str], addresses: &[&str], ttl_s: u32) -> Answer {
    Answer {
        name: Some(name.into()),
        cnames: cnames.iter().map(|name| (*name).into()).collect(),
        addresses: addresses
            .iter()
            .map(|address| address.parse().expect("an address"))
            .collect(),
        ttl_s,
        ..Answer::default()
    }
}

fn container(number: usize) -> Owner {
    Owner::Container(format!("{number:064x}").into())
}

fn names(resolved: &Resolved, owner: &Owner, address: &str, now_ns: u64) -> String {
    let address = address.parse().expect("an address");
    let names: Vec<&str> = resolved.names(owner, address, now_ns).collect();
    names.join(" ")
}

#[test]
fn a_container_knows_what_it_was_told_and_no_other_does() {
    let mut resolved = Resolved::default();
    let (a, b) = (container(1), container(2));
    resolved.learn(
        &a,
        &answer(
            "x.example",
            &["cdn.example"],
            &["192.0.2.1", "2001:db8::1"],
            60,
        ),
        NOW,
    );
    resolved.learn(
        &a,
        &answer("y.example", &["cdn.example"], &["192.0.2.1"], 60),
        NOW,
    );
    resolved.learn(
        &Owner::Host,
        &answer("host.example", &[], &["192.0.2.1"], 60),
        NOW,
    );
    resolved.learn(
        &Owner::Unknown,
        &answer("nobody.example", &[], &["192.0.2.1"], 60),
        NOW,
    );
    let check = |owner: &Owner, address: &str, expected: &str| {
        assert_eq!(
            names(&resolved, owner, address, NOW),
            expected,
            "{owner:?} {address}"
        );
    };
    check(&a, "192.0.2.1", "x.example cdn.example y.example");
    check(&a, "2001:db8::1", "x.example cdn.example");
    check(&a, "192.0.2.2", "");
    check(&b, "192.0.2.1", "");
    check(&Owner::Host, "192.0.2.1", "host.example");
    check(&Owner::Unknown, "192.0.2.1", "");
}

#[test]
fn names_are_kept_for_their_time() {
    let mut resolved = Resolved::default();
    let owner = Owner::Host;
    let after = |seconds: u64| NOW + seconds * SECOND_NS;
    for (name, ttl_s) in [("short", 1), ("hour", 3600), ("long", u32::MAX)] {
        resolved.learn(&owner, &answer(name, &[], &["192.0.2.1"], ttl_s), NOW);
    }
    let check = |resolved: &Resolved, seconds: u64, expected: &str| {
        assert_eq!(
            names(resolved, &owner, "192.0.2.1", after(seconds)),
            expected,
            "{seconds}"
        );
    };
    check(&resolved, 599, "short hour long");
    check(&resolved, 601, "hour long");
    check(&resolved, 3601, "long");
    check(&resolved, 86_401, "");
    // Told again, it is kept again.
    resolved.learn(&owner, &answer("short", &[], &["192.0.2.1"], 1), after(500));
    check(&resolved, 1000, "short hour long");
    resolved.sweep(after(3601));
    assert_eq!(resolved.sizes().0, 1);
    resolved.sweep(after(90_000));
    assert_eq!(resolved.sizes(), (0, 0, 0));
    assert!(resolved.containers.is_empty());
}

#[test]
fn bounds_hold_and_are_counted() {
    // Of one address.
    let mut resolved = Resolved::default();
    let owner = container(1);
    for number in 0..100 {
        resolved.learn(
            &owner,
            &answer(&format!("n{number}"), &[], &["192.0.2.1"], 700 + number),
            NOW,
        );
    }
    let (entries, _, evicted) = resolved.sizes();
    assert_eq!((entries, evicted), (NAMES_MAX, 100 - NAMES_MAX as u64));
    // What would have been kept longest is what is kept.
    assert!(names(&resolved, &owner, "192.0.2.1", NOW).contains("n99"));

    // Of one container, and of all: the one that has most pays, the others keep what they have.
    let quiet = container(2);
    resolved.learn(
        &quiet,
        &answer("quiet.example", &[], &["192.0.2.9"], 60),
        NOW,
    );
    let address = |number: u32| std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string();
    for number in 0..20_000 {
        let at = address(number);
        resolved.learn(&owner, &answer("noisy.example", &[], &[&at], 60), NOW);
    }
    assert!(resolved.sizes().0 <= ADDRESSES_MAX + NAMES_MAX + 1);
    assert_eq!(
        names(&resolved, &owner, &address(19_999), NOW),
        "noisy.example"
    );
    assert_eq!(names(&resolved, &owner, &address(0), NOW), "");
    for noisy in 3..40 {
        let owner = container(noisy);
        for number in 0..4_000 {
            let at = address(number);
            resolved.learn(&owner, &answer("noisy.example", &[], &[&at], 60), NOW);
        }
    }
    let (entries, bytes, evicted) = resolved.sizes();
    assert!(
        entries <= ENTRIES_MAX && bytes <= BYTES_MAX,
        "{entries} {bytes}"
    );
    assert!(evicted > 37 * 4_000 - ENTRIES_MAX as u64);
    assert_eq!(names(&resolved, &quiet, "192.0.2.9", NOW), "quiet.example");
    // The books agree with what is there.
    resolved.sweep(NOW);
    assert_eq!(resolved.sizes(), (entries, bytes, evicted));
}
