//! The engine on rules built by hand: what it matches, what it asks for, and what its bundle survives.

use std::{cell::Cell, collections::HashMap, time::Duration};

use saker_rules::{
    FieldArgRef, FieldSource,
    bundle::{Bundle, BundleError},
    compile::CompileOptions,
    engine::{Engine, EngineOptions, RuleId, RuleMatching},
    expr::{Expr, FieldArg, FieldRef, Literal, Op, Operand, Rhs, Test},
    fields::Field,
    ruleset::{Detection, Priority, Rule, RuleSet},
    state::{Detector, DetectorOptions},
    template::Template,
    value::Value,
};

/// An event of byte strings that counts what it is asked.
#[derive(Default)]
struct Event {
    kind: Option<&'static str>,
    values: HashMap<Field, &'static str>,
    asked: Cell<u32>,
}

impl FieldSource for Event {
    fn event_type(&self) -> Option<&[u8]> {
        self.kind.map(str::as_bytes)
    }

    fn field<'a>(&'a self, field: Field, _arg: FieldArgRef<'a>) -> Option<Value<'a>> {
        self.asked.set(self.asked.get() + 1);
        if field == Field::EvtType {
            return self.event_type().map(Value::Bytes);
        }
        self.values
            .get(&field)
            .map(|text| Value::Bytes(text.as_bytes()))
    }
}

fn event(kind: &'static str, values: &[(Field, &'static str)]) -> Event {
    Event {
        kind: Some(kind),
        values: values.iter().copied().collect(),
        asked: Cell::new(0),
    }
}

fn test(field: Field, op: Op, values: &[&str]) -> Expr {
    let rhs = match op {
        Op::Exists => Rhs::None,
        _ => Rhs::Values(
            values
                .iter()
                .map(|value| Literal::Bytes(value.as_bytes().into()))
                .collect(),
        ),
    };
    let lhs = Operand::Field(FieldRef {
        field,
        arg: FieldArg::None,
    });
    Expr::Test(Test {
        lhs,
        op,
        modifier: None,
        rhs,
    })
}

fn not(expr: Expr) -> Expr {
    Expr::Not(Box::new(expr))
}

fn rule(name: &str, source: &str, condition: Expr) -> Rule {
    Rule {
        name: name.into(),
        desc: format!("{name}, described"),
        condition_text: String::new(),
        detection: Detection::Event(condition),
        output: Template::default(),
        priority: Priority::Warning,
        source: source.into(),
        tags: vec!["a".into(), "b".into()],
        enabled: true,
        profiles: Vec::new(),
        origin: ("rules.yaml".into(), 7),
        inactive: vec!["because".into()],
    }
}

fn sample() -> RuleSet {
    let spawned = || test(Field::EvtType, Op::In, &["execve", "execveat"]);
    let opened = || test(Field::EvtType, Op::In, &["open", "openat"]);
    let shell = || test(Field::ProcName, Op::In, &["sh", "bash"]);
    let path = |op, text| Expr::And(vec![opened(), test(Field::FdName, op, &[text])]);
    RuleSet {
        rules: vec![
            rule("shell", "syscall", Expr::And(vec![spawned(), shell()])),
            rule(
                "passwd",
                "syscall",
                Expr::And(vec![path(Op::Eq, "/etc/passwd"), not(shell())]),
            ),
            rule("etc", "syscall", path(Op::StartsWith, "/etc/")),
            rule(
                "any kind",
                "other",
                test(Field::ProcName, Op::Contains, &["miner"]),
            ),
            rule(
                "not a shell",
                "syscall",
                Expr::And(vec![spawned(), not(shell())]),
            ),
            rule("by end", "syscall", path(Op::EndsWith, ".so")),
            rule(
                "no kind",
                "syscall",
                not(test(Field::EvtType, Op::Exists, &[])),
            ),
        ],
    }
}

fn engine(change: impl FnOnce(&mut EngineOptions)) -> Engine {
    let mut options = EngineOptions::default();
    change(&mut options);
    Engine::new(
        Bundle::compile(&sample(), &CompileOptions::default()).unwrap(),
        options,
    )
}

fn matches(engine: &Engine, event: &Event) -> Vec<String> {
    let mut out = Vec::new();
    engine.evaluate(&mut engine.scratch(), event, &mut out);
    out.into_iter()
        .map(|id: RuleId| engine.rule(id).unwrap().name().to_owned())
        .collect()
}

#[track_caller]
fn check(event: &Event, expected: &[&str]) {
    assert_eq!(matches(&engine(|_| {}), event), expected);
}

#[test]
fn matches_what_the_conditions_say() {
    check(&event("execve", &[(Field::ProcName, "sh")]), &["shell"]);
    check(
        &event("execve", &[(Field::ProcName, "ls")]),
        &["not a shell"],
    );
    check(&event("execve", &[]), &["not a shell"]);
    check(
        &event(
            "openat",
            &[(Field::ProcName, "sh"), (Field::FdName, "/etc/passwd")],
        ),
        &["etc"],
    );
    check(
        &event(
            "openat",
            &[(Field::ProcName, "ls"), (Field::FdName, "/etc/passwd")],
        ),
        &["passwd", "etc"],
    );
    check(&event("open", &[(Field::FdName, "/lib/x.so")]), &["by end"]);
    check(&event("clone", &[(Field::FdName, "/lib/x.so")]), &[]);
    check(
        &event("clone", &[(Field::ProcName, "xminer")]),
        &["any kind"],
    );
    check(
        &event("execve", &[(Field::ProcName, "miner")]),
        &["any kind", "not a shell"],
    );
    check(&Event::default(), &["no kind"]);
}

#[test]
fn first_keeps_one_rule_of_each_source() {
    let first = engine(|options| options.rule_matching = RuleMatching::First);
    let event = event(
        "openat",
        &[(Field::ProcName, "miner"), (Field::FdName, "/etc/passwd")],
    );
    assert_eq!(matches(&first, &event), ["passwd", "any kind"]);
}

#[test]
fn other_sources_can_be_left_out() {
    let chosen = engine(|options| options.sources = Some(vec!["other".into()]));
    assert_eq!(
        matches(&chosen, &event("execve", &[(Field::ProcName, "miner")])),
        ["any kind"]
    );
}

#[test]
fn asks_for_a_field_once_and_only_where_needed() {
    let engine = engine(|_| {});
    let event = event(
        "openat",
        &[(Field::ProcName, "ls"), (Field::FdName, "/etc/passwd")],
    );
    assert_eq!(matches(&engine, &event).len(), 2);
    assert_eq!(event.asked.get(), 2, "the name and the path");
    assert!(
        engine.wants("openat") && engine.wants("mmap"),
        "a rule without a kind wants every kind"
    );
    let used = |kind| {
        engine
            .fields_used(kind)
            .into_iter()
            .map(|field| field.field)
            .collect::<Vec<_>>()
    };
    assert_eq!(used("mmap"), [Field::ProcName]);
    assert!(used("open").contains(&Field::FdName) && !used("execve").contains(&Field::FdName));
}

#[test]
fn a_bundle_tells_everything_that_the_rules_said() {
    let engine = engine(|_| {});
    let rule = engine.rule(RuleId(2)).unwrap();
    assert_eq!(
        (rule.name(), rule.desc(), rule.source()),
        ("etc", "etc, described", "syscall")
    );
    assert_eq!(rule.tags().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(rule.inactive().collect::<Vec<_>>(), ["because"]);
    assert_eq!(
        (rule.origin(), rule.priority()),
        (("rules.yaml", 7), Priority::Warning)
    );
    assert_eq!(engine.rules().len(), 7);
    assert!(engine.rule(RuleId(7)).is_none());
}

#[test]
fn a_bundle_survives_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.bundle");
    let written = Bundle::compile(&sample(), &CompileOptions::default()).unwrap();
    written.write_to(&path).unwrap();
    let read = Bundle::open(&path).unwrap();
    assert_eq!(read.as_bytes(), written.as_bytes());
    assert_eq!(read.source_digest(), written.source_digest());
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
    assert!(matches!(
        Bundle::open(folder.path().join("missing")),
        Err(BundleError::Read { .. })
    ));
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(Bundle::open(&path), Err(BundleError::NotABundle)));
}

/// Counts allocations of the thread that asks.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on unchanged to the system's allocator; counting touches only a constant-initialised thread-local.
unsafe impl std::alloc::GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { std::alloc::System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: std::alloc::Layout) {
        // SAFETY: as above.
        unsafe { std::alloc::System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: std::alloc::Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as above.
        unsafe { std::alloc::System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn events_that_match_nothing_allocate_nothing() {
    let engine = engine(|_| {});
    let mut detector = Detector::new(engine, DetectorOptions::default());
    let (mut matches, mut scratch, mut found) =
        (Vec::new(), detector.engine().scratch(), Vec::new());
    let events = [
        event("clone", &[(Field::ProcName, "sh"), (Field::FdName, "/x")]),
        event(
            "openat",
            &[
                (Field::ProcName, "ls"),
                (Field::FdName, "/usr/lib/x86_64-linux-gnu/libc.so.6"),
            ],
        ),
        event("open", &[(Field::FdName, "/proc/self/status")]),
        event("connect", &[(Field::ProcName, "curl")]),
    ];
    // The round before counting fills what is kept.
    let mut round = || {
        for event in &events {
            matches.clear();
            found.clear();
            detector.observe(event, 1, &mut matches);
            detector.engine().evaluate(&mut scratch, event, &mut found);
        }
    };
    round();
    let before = ALLOCATIONS.get();
    round();
    assert_eq!(ALLOCATIONS.get() - before, 0);
}

/// A detector with one rule.
fn detector(detection: Detection, change: impl FnOnce(&mut DetectorOptions)) -> Detector {
    let rules = RuleSet {
        rules: vec![Rule {
            detection,
            ..rule("r", "syscall", test(Field::ProcName, Op::Eq, &["x"]))
        }],
    };
    let mut options = DetectorOptions::default();
    change(&mut options);
    let bundle = Bundle::compile(&rules, &CompileOptions::default()).unwrap();
    Detector::new(Engine::new(bundle, EngineOptions::default()), options)
}

/// Feeds events (nanoseconds, name, container) and says at which of them the rule matched.
fn matched_at(detector: &mut Detector, events: &[(u64, &'static str, &'static str)]) -> Vec<u64> {
    let mut at = Vec::new();
    for &(now_ns, name, container) in events {
        let mut matches = Vec::new();
        detector.observe(
            &event(
                "execve",
                &[(Field::ProcName, name), (Field::ContainerId, container)],
            ),
            now_ns,
            &mut matches,
        );
        at.extend(matches.iter().map(|_| now_ns));
    }
    at
}

fn named(name: &str) -> Expr {
    test(Field::ProcName, Op::Eq, &[name])
}

fn sequence(steps: &[&str]) -> Detection {
    Detection::Sequence {
        by: FieldRef {
            field: Field::ContainerId,
            arg: FieldArg::None,
        },
        within: Duration::from_nanos(10),
        steps: steps.iter().map(|name| named(name)).collect(),
    }
}

#[test]
fn sequences_match_in_order_within_their_time_and_key() {
    let check = |steps: &[&str], events: &[(u64, &'static str, &'static str)], expected: &[u64]| {
        assert_eq!(
            matched_at(&mut detector(sequence(steps), |_| {}), events),
            expected,
            "{steps:?} {events:?}"
        );
    };
    check(&["a", "b"], &[(1, "a", "x"), (11, "b", "x")], &[11]);
    check(&["a", "b"], &[(1, "a", "x"), (12, "b", "x")], &[]);
    check(&["a", "b"], &[(1, "a", "x"), (2, "b", "y")], &[]);
    check(&["a", "b"], &[(1, "b", "x"), (2, "a", "x")], &[]);
    check(
        &["a", "b"],
        &[(1, "a", "x"), (2, "b", "x"), (3, "b", "x")],
        &[2],
    );
    // A later first step extends the time.
    check(
        &["a", "b"],
        &[(1, "a", "x"), (8, "a", "x"), (17, "b", "x")],
        &[17],
    );
    // One event is one step, also where it meets several.
    check(&["a", "a"], &[(1, "a", "x")], &[]);
    check(&["a", "a"], &[(1, "a", "x"), (2, "a", "x")], &[2]);
    check(
        &["a", "b", "c"],
        &[(1, "a", "x"), (2, "c", "x"), (3, "b", "x"), (4, "c", "x")],
        &[4],
    );
    // Time that runs backwards makes no span negative.
    check(&["a", "b"], &[(9, "a", "x"), (3, "b", "x")], &[3]);
}

#[test]
fn sequences_are_bounded() {
    let mut detector = detector(sequence(&["a", "b"]), |options| options.instances_max = 2);
    let events = [
        (1, "a", "x"),
        (2, "a", "y"),
        (3, "a", "z"),
        (4, "b", "x"),
        (5, "b", "y"),
        (6, "b", "z"),
    ];
    assert_eq!(
        matched_at(&mut detector, &events),
        [5, 6],
        "the oldest made room"
    );
    let stats = detector.stats();
    assert_eq!(
        (stats.opened, stats.dropped, stats.completed, stats.open),
        (3, 1, 2, 0)
    );
    for at in 0..10_000 {
        matched_at(&mut detector, &[(at, "a", "x")]);
    }
    assert_eq!(detector.stats().open, 1);
}

#[test]
fn durations_match_once_they_have_held() {
    let hold = || Detection::For {
        condition: named("busy"),
        hold: Duration::from_nanos(10),
    };
    let check = |events: &[(u64, &'static str, &'static str)], expected: &[u64]| {
        let mut detector = detector(hold(), |options| options.gap_ns_max = 8);
        assert_eq!(matched_at(&mut detector, events), expected, "{events:?}");
    };
    check(
        &[(1, "busy", "x"), (6, "busy", "x"), (10, "busy", "x")],
        &[],
    );
    check(
        &[(1, "busy", "x"), (6, "busy", "x"), (11, "busy", "x")],
        &[11],
    );
    // Once, until it stops holding.
    check(
        &[
            (1, "busy", "x"),
            (6, "busy", "x"),
            (11, "busy", "x"),
            (16, "busy", "x"),
        ],
        &[11],
    );
    // Interrupted by an event that does not meet it, of the same owner only.
    check(
        &[
            (1, "busy", "x"),
            (5, "idle", "x"),
            (6, "busy", "x"),
            (11, "busy", "x"),
        ],
        &[],
    );
    check(
        &[
            (1, "busy", "x"),
            (5, "idle", "y"),
            (6, "busy", "x"),
            (11, "busy", "x"),
        ],
        &[11],
    );
    // Interrupted by silence.
    check(
        &[(1, "busy", "x"), (10, "busy", "x"), (12, "busy", "x")],
        &[],
    );
    let mut bounded = detector(hold(), |options| options.instances_max = 1);
    matched_at(&mut bounded, &[(1, "busy", "x"), (2, "busy", "y")]);
    assert_eq!((bounded.stats().open, bounded.stats().dropped), (1, 1));
}
