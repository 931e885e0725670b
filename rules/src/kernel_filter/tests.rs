//! Conditions and the filters that they give.

use super::*;
use crate::{
    bundle::Bundle,
    compile::CompileOptions,
    engine::{Engine, EngineOptions},
    loader::{self, LoadOptions, SourceFile},
};

fn filter(conditions: &[&str]) -> KernelFilter {
    let rules: String = conditions
        .iter()
        .enumerate()
        .map(|(number, condition)| {
            format!(
                "- rule: r{number}\n  desc: d\n  condition: >\n    {condition}\n  output: o\n  priority: INFO\n"
            )
        })
        .collect();
    let report = loader::load(&[SourceFile::new("t.yaml", rules)], &LoadOptions::default());
    assert!(!report.has_errors(), "{}", report.render(false));
    let bundle = Bundle::compile(&report.ruleset, &CompileOptions::default()).unwrap();
    Engine::new(bundle, EngineOptions::default()).kernel_filter()
}

/// What passes in any mode, when reading and when writing: `=` exact, `^` prefix, `$` suffix, `*` rule that wants everything.
#[track_caller]
fn check_open(conditions: &[&str], expected: [&str; 3]) {
    let filter = filter(conditions);
    let Some(KindFilter::Open(open)) = filter.kinds.get("openat") else {
        panic!("openat is not filtered: {filter:?}");
    };
    let shown = [&open.any, &open.read, &open.write].map(|paths| {
        let texts = |sign: char, texts: &BTreeSet<Vec<u8>>| {
            texts
                .iter()
                .map(|text| format!("{sign}{}", String::from_utf8_lossy(text)))
                .collect::<Vec<_>>()
        };
        let mut shown: Vec<String> = paths
            .everything
            .iter()
            .map(|rule| format!("*{rule}"))
            .collect();
        shown.extend(texts('=', &paths.exact));
        shown.extend(texts('^', &paths.prefixes));
        shown.extend(texts('$', &paths.suffixes));
        shown.join(" ")
    });
    assert_eq!(shown, expected, "{conditions:?}");
}

#[test]
fn opens_are_filtered_by_path_and_mode() {
    let open = |rest: &str| format!("evt.type in (open, openat) and {rest}");
    let check = |rest: &str, expected| check_open(&[&open(rest)], expected);
    check("fd.name = /etc/shadow", ["=/etc/shadow", "", ""]);
    check(
        "fd.name startswith /etc/ and proc.name = x",
        ["^/etc/", "", ""],
    );
    check("fd.name pmatch (/etc/, /usr/l*)", ["^/etc ^/usr/l", "", ""]);
    check("fd.name glob /proc/*/environ", ["^/proc/", "", ""]);
    check("fd.name glob *.pem", ["$.pem", "", ""]);
    check("fd.name regex '/home/[^/]+/x'", ["^/home/", "", ""]);
    check("fd.directory = /root/.ssh", ["^/root/.ssh", "", ""]);
    check("fd.filename in (a, b)", ["$a $b", "", ""]);
    check(
        "evt.is_open_write = true and fd.name endswith .so",
        ["", "", "$.so"],
    );
    check(
        "evt.is_open_read = true and evt.is_open_write = true and fd.name = /x",
        ["", "", "=/x"],
    );
    check(
        "(evt.is_open_read = true or fd.name = /x)",
        ["=/x", "*r0", ""],
    );
    check("not fd.name startswith /etc", ["*r0", "", ""]);
    check("fd.name contains passwd", ["*r0", "", ""]);
    check("(fd.name = /x or proc.name = y)", ["*r0", "", ""]);
    check_open(
        &[&open("fd.name = /x"), &open("proc.name = y")],
        ["*r1 =/x", "", ""],
    );
}

#[test]
fn connections_are_filtered_by_family() {
    let check = |condition: &str, ipv4, ipv6, other| {
        let filter = filter(&[condition]);
        let expected = KindFilter::Connect(Families { ipv4, ipv6, other });
        assert_eq!(filter.kinds.get("connect"), Some(&expected), "{condition}");
    };
    check("evt.type = connect", true, true, true);
    check("evt.type = connect and fd.typechar = 4", true, false, false);
    check(
        "evt.type = connect and fd.typechar in (4, 6)",
        true,
        true,
        false,
    );
    check("evt.type = connect and fd.sport = 80", true, true, false);
    check("evt.type = connect and not fd.sport = 80", true, true, true);
    check(
        "evt.type = connect and fd.name startswith /run",
        true,
        true,
        true,
    );
}

#[test]
fn kinds_that_no_rule_can_match_are_not_wanted() {
    let named = filter(&["evt.type in (execve, execveat) and proc.name = x"]);
    assert!(named.wants("execve") && !named.wants("openat") && named.any_kind.is_empty());
    assert!(!named.passes_open("openat", b"/x", true, true));
    let unnamed = filter(&["proc.name = x", "evt.type = openat and fd.name = /y"]);
    assert_eq!(unnamed.any_kind, ["r0"]);
    assert!(unnamed.wants("mmap") && unnamed.passes_open("openat", b"/z", false, false));
    assert_eq!(
        unnamed.blockers()["r0"].first().map(String::as_str),
        Some("creat")
    );
}

#[test]
fn paths_that_are_not_plain_always_pass() {
    let filter = filter(&["evt.type = openat and fd.name = /etc/shadow"]);
    let check = |path: &str, expected| {
        assert_eq!(
            filter.passes_open("openat", path.as_bytes(), true, false),
            expected,
            "{path}"
        );
    };
    check("/etc/shadow", true);
    check("/etc/passwd", false);
    check("etc/passwd", true);
    check("//etc/passwd", true);
}

#[test]
fn a_filter_survives_the_bundle_and_no_cut_decodes() {
    let filter = filter(&[
        "evt.type = openat and fd.name = /x",
        "evt.type = connect",
        "evt.type = execve",
    ]);
    let bytes = encode(&filter);
    assert_eq!(decode(&bytes).as_ref(), Some(&filter));
    for end in 0..bytes.len() {
        assert_eq!(decode(&bytes[..end]), None, "cut at {end}");
    }
}

#[test]
fn opens_of_devices_that_the_device_event_tells_of_are_not_asked_for() {
    let open = "evt.type in (open, openat) and evt.is_open_read = true and fd.num >= 0";
    let device = "evt.type = device_open and evt.is_open_read = true";
    let check = |conditions: &[&str], expected: bool| {
        let filter = filter(conditions);
        assert!(filter.wants("device_open"), "{conditions:?}");
        assert_eq!(filter.wants("openat"), expected, "{conditions:?}");
    };
    let either = |open: &str, device: &str, rest: &str| format!("({open} or {device}) and {rest}");
    let nvidia = "fd.name startswith /dev/nvidia and not proc.name = x";
    check(&[&either(open, device, nvidia)], false);
    check(
        &[&either(
            open,
            "evt.type = device_open",
            "fd.name in (/dev/kfd, /dev/nvidia0)",
        )],
        false,
    );
    // Other files.
    check(&[&either(open, device, "fd.name startswith /dev/")], true);
    check(
        &[&either(open, device, "fd.name in (/dev/kfd, /etc/x)")],
        true,
    );
    check(&[&either(open, device, "proc.name = x")], true);
    // Attempts on what is not there, of which the device event does not tell.
    check(
        &[&either(
            "evt.type in (open, openat)",
            "evt.type = device_open",
            nvidia,
        )],
        true,
    );
    check(
        &[&either(
            &open.replace(">= 0", "= -1"),
            "evt.type = device_open",
            nvidia,
        )],
        true,
    );
    // A device event is asked for more than an open is.
    check(
        &[&either(open, &format!("{device} and user.uid = 0"), nvidia)],
        true,
    );
    check(
        &[&either(&open.replace("_read", "_write"), device, nvidia)],
        true,
    );
    // Another rule.
    check(
        &[
            &either(open, device, nvidia),
            &format!("{open} and {nvidia}"),
        ],
        true,
    );
    check_open(
        &[
            &either(open, device, nvidia),
            &format!("{open} and fd.name startswith /etc/"),
        ],
        ["", "^/etc/", ""],
    );
}
