//! What must hold for all rules and all events: the engine agrees with the reference evaluator, and the kernel's filter drops nothing
//! that a rule matches.
//!
//! Conditions and events are random but made to meet: few fields, few words, many near misses. `SAKER_PROPERTY_PAIRS` sets how many
//! pairs of a condition and an event are tried; a release run takes a million in about a minute.

use std::{env, net::IpAddr};

use saker_rules::{
    FieldArgRef, FieldSource,
    bundle::Bundle,
    compile::CompileOptions,
    engine::{Engine, EngineOptions},
    expr::{
        Expr, FieldArg, FieldRef, Literal, Modifier, Op, Operand, Rhs, Test, Transform,
        TransformKind,
    },
    fields::Field,
    kernel_filter::Families,
    reference::Prepared,
    ruleset::{Detection, Priority, Rule, RuleSet},
    template::Template,
    value::Value,
};

const PAIRS_DEFAULT: usize = 60_000;
/// Conditions that are compiled together, and events that each set meets.
const RULES: usize = 24;
const EVENTS: usize = 40;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % bound.max(1) as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

const KINDS: [&str; 6] = ["execve", "open", "openat", "connect", "clone", "gpu"];
const WORDS: [&str; 18] = [
    "sh",
    "bash",
    "bas",
    "python3",
    "a",
    "",
    "passwd",
    "/etc/passwd",
    "/etc",
    "/etc/",
    "/usr/bin/python3",
    "curl http://x/y",
    "BASH",
    "/usr//lib/",
    "miner",
    "host",
    "/etc/passwd-backup.old",
    "f",
];

/// Fields of every type and shape; with what they may be asked for.
fn fields(random: &mut Random) -> FieldRef {
    let plain = |field| FieldRef {
        field,
        arg: FieldArg::None,
    };
    match random.below(24) {
        0..4 => plain(Field::ProcName),
        4..7 => plain(Field::ProcCmdline),
        7..11 => plain(Field::FdName),
        11 => plain(Field::FdDirectory),
        12 => plain(Field::FdFilename),
        13 => plain(Field::ContainerId),
        14 => FieldRef {
            field: Field::ProcAname,
            arg: FieldArg::Index(2),
        },
        15 => plain(Field::ProcAname),
        16 => FieldRef {
            field: Field::EvtArg,
            arg: FieldArg::Key("flags".into()),
        },
        17 => plain(Field::UserUid),
        18 => plain(Field::FdNum),
        19 => plain(Field::EvtIsOpenRead),
        20 => plain(Field::EvtIsOpenWrite),
        21 => plain(Field::FdSip),
        22 => plain(random_of(
            random,
            &[Field::FdIp, Field::FdNet, Field::FdTypechar, Field::FdSport],
        )),
        _ => plain(random_of(
            random,
            &[Field::ProcLineage, Field::FdTypes, Field::ProcName],
        )),
    }
}

fn random_of(random: &mut Random, fields: &[Field]) -> Field {
    random.pick(fields)
}

fn word(random: &mut Random) -> Box<[u8]> {
    let mut word = random.pick(&WORDS).as_bytes().to_vec();
    if random.chance(25) {
        word.extend_from_slice(random.pick(&WORDS).as_bytes());
    }
    if random.chance(5) {
        word.push(0xff);
    }
    word.into()
}

fn address(random: &mut Random) -> IpAddr {
    let last = random.below(4) as u8;
    random.pick(&[
        IpAddr::from([10, 0, 0, last]),
        IpAddr::from([10, last, 0, 1]),
        IpAddr::from([127, 0, 0, 1]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)]),
    ])
}

fn test(random: &mut Random) -> Test {
    if random.chance(14) {
        // The kind of event, in every way in which a rule may ask for it.
        let op = random.pick(&[Op::Eq, Op::In, Op::In, Op::Ne, Op::StartsWith, Op::Exists]);
        let count = if op == Op::In { 1 + random.below(3) } else { 1 };
        let values = (0..count)
            .map(|_| Literal::Bytes(random.pick(&KINDS).as_bytes().into()))
            .collect();
        let rhs = if op == Op::Exists {
            Rhs::None
        } else {
            Rhs::Values(values)
        };
        return Test {
            lhs: Operand::Field(FieldRef {
                field: Field::EvtType,
                arg: FieldArg::None,
            }),
            op,
            modifier: None,
            rhs,
        };
    }
    let field = fields(random);
    use saker_rules::value::FieldType as Type;
    let ty = field.field.info().ty;
    let is_text = matches!(ty, Type::Str | Type::Path | Type::Bytes);
    let op = match ty {
        _ if is_text => random.pick(&[
            Op::Exists,
            Op::Eq,
            Op::Eq,
            Op::Ne,
            Op::Lt,
            Op::Ge,
            Op::In,
            Op::In,
            Op::Intersects,
            Op::PMatch,
            Op::Contains,
            Op::Contains,
            Op::IContains,
            Op::BContains,
            Op::StartsWith,
            Op::StartsWith,
            Op::BStartsWith,
            Op::EndsWith,
            Op::Glob,
            Op::IGlob,
            Op::Regex,
        ]),
        Type::Bool => random.pick(&[Op::Exists, Op::Eq, Op::Ne]),
        Type::Ip | Type::Net => random.pick(&[Op::Exists, Op::Eq, Op::Ne, Op::In]),
        _ => random.pick(&[
            Op::Exists,
            Op::Eq,
            Op::Ne,
            Op::Lt,
            Op::Le,
            Op::Gt,
            Op::Ge,
            Op::In,
        ]),
    };
    let modifier = if op != Op::Exists && random.chance(8) {
        Some(random.pick(&[Modifier::OneOf, Modifier::AnyOf, Modifier::AllOf]))
    } else {
        None
    };
    let count = if modifier.is_some() || matches!(op, Op::In | Op::Intersects | Op::PMatch) {
        1 + random.below(4)
    } else {
        1
    };
    let literal = |random: &mut Random| match ty {
        Type::Bool => Literal::Bool(random.chance(60)),
        Type::Ip if random.chance(50) => Literal::Ip(address(random)),
        Type::Ip | Type::Net => {
            let address = address(random);
            let len = random.pick(&[0, 7, 8, 24, 31, 32]);
            Literal::Net(address, len)
        }
        Type::Int => Literal::Int(random.pick(&[-1, 0, 1, 7, i64::MAX, i64::MIN])),
        _ if is_text => Literal::Bytes(match op {
            Op::Glob | Op::IGlob => {
                let mut pattern = word(random).into_vec();
                pattern.insert(random.below(pattern.len() + 1), random.pick(b"**?[\\"));
                pattern.into()
            }
            Op::PMatch if random.chance(20) => random
                .pick(&[&b"/"[..], b"/*/passwd", b"/usr/li*", b"etc", b"//etc//"])
                .into(),
            // As `lexer` would not let a pattern through that is none.
            Op::Regex => random
                .pick(&[
                    &b"ba.*"[..],
                    b"(sh|bash)",
                    b"/etc/.*",
                    b".*passwd",
                    b"[a-z]+3?",
                    b".*",
                    b"/etc/pass.*",
                    b"(/etc|/usr)/.*",
                    b".*bin/py.*",
                    b"^sh$",
                    br"ba\w+",
                    b"(?i)ba.*",
                    b"[^/]*(miner|host)f?",
                    b"",
                ])
                .into(),
            Op::IContains => word(random).to_ascii_lowercase().into(),
            _ => word(random),
        }),
        _ => Literal::Uint(random.pick(&[0, 1, 7, 443, 1_000, u64::MAX])),
    };
    let first = literal(random);
    let mut values = vec![first];
    for _ in 1..count {
        let next = literal(random);
        // All values of a set are of one type, as the checker makes them.
        if std::mem::discriminant(&next) == std::mem::discriminant(&values[0]) {
            values.push(next);
        }
    }
    let rhs = match op {
        Op::Exists => Rhs::None,
        Op::Eq | Op::Ne if is_text && modifier.is_none() && random.chance(5) => {
            Rhs::Operand(Operand::Field(FieldRef {
                field: Field::ProcName,
                arg: FieldArg::None,
            }))
        }
        _ => Rhs::Values(values),
    };
    let lhs = if is_text && random.chance(6) {
        let kind = random.pick(&[
            TransformKind::ToLower,
            TransformKind::ToUpper,
            TransformKind::Basename,
        ]);
        Operand::Transform(Box::new(Transform {
            kind,
            args: vec![Operand::Field(field)],
            arg: FieldArg::None,
        }))
    } else {
        Operand::Field(field)
    };
    Test {
        lhs,
        op,
        modifier,
        rhs,
    }
}

fn expr(random: &mut Random, depth: usize, pool: &[Expr]) -> Expr {
    // Parts that several conditions share.
    if !pool.is_empty() && random.chance(15) {
        return random.pick(pool);
    }
    let parts = |random: &mut Random| {
        (0..2 + random.below(3))
            .map(|_| expr(random, depth - 1, pool))
            .collect()
    };
    match if depth == 0 { 0 } else { random.below(10) } {
        0..3 => Expr::Test(test(random)),
        3..6 => Expr::And(parts(random)),
        6..8 => Expr::Or(parts(random)),
        _ => Expr::Not(Box::new(expr(random, depth - 1, pool))),
    }
}

/// Values by field; several for what stands for several.
struct Event {
    kind: Option<&'static str>,
    values: Vec<(FieldRef, Value<'static>)>,
}

impl FieldSource for Event {
    fn event_type(&self) -> Option<&[u8]> {
        self.kind.map(str::as_bytes)
    }

    fn field<'a>(&'a self, field: Field, arg: FieldArgRef<'a>) -> Option<Value<'a>> {
        if field == Field::EvtType {
            return self.event_type().map(Value::Bytes);
        }
        self.values
            .iter()
            .find(|(own, _)| own.field == field && FieldArgRef::from(&own.arg) == arg)
            .map(|(_, value)| *value)
    }
}

fn leak<T: 'static>(values: Vec<T>) -> &'static [T] {
    values.leak()
}

fn value(random: &mut Random, field: &FieldRef) -> Value<'static> {
    use saker_rules::value::FieldType as Type;
    let several = field.field.info().list
        || matches!(field.field, Field::FdIp | Field::FdNet) && random.chance(80)
        || field.field == Field::ProcAname && field.arg == FieldArg::None;
    let one = |random: &mut Random| match field.field.info().ty {
        Type::Bool => Value::Bool(random.chance(50)),
        Type::Ip | Type::Net => Value::Ip(address(random)),
        Type::Int => Value::Int(random.pick(&[-1, 0, 1, 7, i64::MAX, i64::MIN])),
        Type::Str | Type::Path | Type::Bytes => {
            let mut text = word(random).into_vec();
            if random.chance(30) {
                text.extend_from_slice(&word(random));
            }
            if random.chance(20) {
                text.splice(0..0, word(random).into_vec());
            }
            Value::Bytes(leak(text))
        }
        _ => Value::Uint(random.pick(&[0, 1, 7, 443, 1_000, u64::MAX])),
    };
    // A source may be wrong about a type; the engine must not be.
    if random.chance(2) {
        return random.pick(&[
            Value::Uint(7),
            Value::Bytes(b"sh"),
            Value::Int(-1),
            Value::Bool(true),
            Value::List(&[]),
        ]);
    }
    if several {
        let count = random.below(4);
        return Value::List(leak((0..count).map(|_| one(random)).collect()));
    }
    one(random)
}

fn event(random: &mut Random) -> Event {
    let kind = if random.chance(3) {
        None
    } else {
        Some(random.pick(&[&KINDS[..], &["mmap", "opening"]].concat()))
    };
    let mut values: Vec<(FieldRef, Value<'static>)> = Vec::new();
    for _ in 0..30 {
        let field = fields(random);
        if random.chance(85) && !values.iter().any(|(own, _)| *own == field) {
            let value = value(random, &field);
            values.push((field, value));
        }
    }
    Event { kind, values }
}

fn rule(index: usize, condition: Expr) -> Rule {
    Rule {
        name: format!("rule {index}"),
        desc: String::new(),
        condition_text: String::new(),
        detection: Detection::Event(condition),
        output: Template::default(),
        priority: Priority::Debug,
        source: "syscall".into(),
        tags: Vec::new(),
        enabled: true,
        profiles: Vec::new(),
        origin: (String::new(), 1),
        inactive: Vec::new(),
    }
}

fn rules(random: &mut Random) -> RuleSet {
    let pool: Vec<Expr> = (0..4).map(|_| expr(random, 2, &[])).collect();
    RuleSet {
        rules: (0..RULES)
            .map(|index| rule(index, expr(random, 3, &pool)))
            .collect(),
    }
}

fn condition(rule: &Rule) -> &Expr {
    let Detection::Event(condition) = &rule.detection else {
        unreachable!("all rules here are of this kind")
    };
    condition
}

fn rounds() -> usize {
    let pairs = env::var("SAKER_PROPERTY_PAIRS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(PAIRS_DEFAULT);
    pairs.div_ceil(RULES * EVENTS)
}

#[test]
fn the_engine_agrees_with_the_reference() {
    let mut matched = 0;
    for seed in 1..=rounds() as u64 {
        let random = &mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let rules = rules(random);
        let prepared: Vec<_> = rules
            .rules
            .iter()
            .map(|rule| Prepared::new(condition(rule)))
            .collect();
        let bundle = Bundle::compile(&rules, &CompileOptions::default()).unwrap();
        let engine = Engine::new(bundle, EngineOptions::default());
        let mut scratch = engine.scratch();
        let mut found = Vec::new();
        for _ in 0..EVENTS {
            let event = event(random);
            found.clear();
            engine.evaluate(&mut scratch, &event, &mut found);
            let found: Vec<usize> = found.iter().map(|id| id.0 as usize).collect();
            let expected: Vec<usize> = (0..RULES)
                .filter(|&index| prepared[index].evaluate(&event))
                .collect();
            matched += expected.len();
            if found != expected {
                let wrong = (0..RULES)
                    .find(|index| found.contains(index) != expected.contains(index))
                    .unwrap();
                panic!(
                    "seed {seed}: the engine says {}, the reference {}, of {:#?}\non {:?} {:#?}",
                    found.contains(&wrong),
                    expected.contains(&wrong),
                    condition(&rules.rules[wrong]),
                    event.kind,
                    event.values
                );
            }
        }
    }
    assert!(
        matched > rounds() * EVENTS,
        "too few matches for the test to mean anything: {matched}"
    );
}

/// An open or a connection as a kernel tells it: fields that follow from each other do.
fn kernel_event(random: &mut Random) -> (Event, Vec<u8>, bool, bool, Families) {
    let plain = |field| FieldRef {
        field,
        arg: FieldArg::None,
    };
    let mut event = event(random);
    let derived = [
        Field::FdName,
        Field::FdDirectory,
        Field::FdFilename,
        Field::EvtIsOpenRead,
        Field::EvtIsOpenWrite,
        Field::FdSip,
        Field::FdIp,
        Field::FdNet,
        Field::FdSport,
        Field::FdTypechar,
    ];
    event
        .values
        .retain(|(own, _)| !derived.contains(&own.field));
    let mut families = Families::default();
    let (mut path, mut is_read, mut is_write) = (Vec::new(), false, false);
    if random.chance(70) {
        event.kind = Some(random.pick(&["open", "openat"]));
        path = word(random).into_vec();
        (is_read, is_write) = (random.chance(60), random.chance(50));
        let slash = path.iter().rposition(|&byte| byte == b'/');
        let name: &'static [u8] = leak(path.clone());
        event
            .values
            .push((plain(Field::FdName), Value::Bytes(name)));
        if let Some(slash) = slash {
            event.values.push((
                plain(Field::FdDirectory),
                Value::Bytes(&name[..slash.max(1)]),
            ));
            event
                .values
                .push((plain(Field::FdFilename), Value::Bytes(&name[slash + 1..])));
        }
        event
            .values
            .push((plain(Field::FdTypechar), Value::Bytes(b"f")));
        event
            .values
            .push((plain(Field::EvtIsOpenRead), Value::Bool(is_read)));
        event
            .values
            .push((plain(Field::EvtIsOpenWrite), Value::Bool(is_write)));
    } else {
        event.kind = Some("connect");
        let address = address(random);
        match random.below(3) {
            0 => families.other = true,
            _ if address.is_ipv4() => families.ipv4 = true,
            _ => families.ipv6 = true,
        }
        let typechar: &[u8] = if families.other {
            b"u"
        } else if families.ipv4 {
            b"4"
        } else {
            b"6"
        };
        event
            .values
            .push((plain(Field::FdTypechar), Value::Bytes(typechar)));
        if !families.other {
            let ends: &'static [Value<'static>] =
                leak(vec![Value::Ip(address), Value::Ip(address)]);
            event.values.push((plain(Field::FdSip), Value::Ip(address)));
            event.values.push((plain(Field::FdIp), Value::List(ends)));
            event.values.push((plain(Field::FdNet), Value::List(ends)));
            event.values.push((plain(Field::FdSport), Value::Uint(443)));
        }
    }
    (event, path, is_read, is_write, families)
}

#[test]
fn the_kernel_filter_drops_nothing_that_a_rule_matches() {
    let mut dropped = 0;
    for seed in 1..=rounds() as u64 {
        let random = &mut Random(seed.wrapping_mul(0xd6e8_feb8_6659_fd93));
        // Few rules, or there is nothing that none of them wants.
        let mut rules = rules(random);
        rules.rules.truncate(1 + random.below(3));
        let engine = Engine::new(
            Bundle::compile(&rules, &CompileOptions::default()).unwrap(),
            EngineOptions::default(),
        );
        let filter = engine.kernel_filter();
        let mut scratch = engine.scratch();
        let mut found = Vec::new();
        for _ in 0..EVENTS {
            let (event, path, is_read, is_write, families) = kernel_event(random);
            let kind = event.kind.unwrap();
            let passes = match kind {
                "connect" => filter.passes_connect(kind, families),
                _ => filter.passes_open(kind, &path, is_read, is_write),
            };
            found.clear();
            engine.evaluate(&mut scratch, &event, &mut found);
            dropped += usize::from(!passes);
            assert!(
                passes || found.is_empty(),
                "seed {seed}: dropped {kind} of {:?}, which matches {:#?}\nfilter {filter:#?}",
                String::from_utf8_lossy(&path),
                found
                    .iter()
                    .map(|id| condition(&rules.rules[id.0 as usize]))
                    .collect::<Vec<_>>()
            );
        }
    }
    assert!(
        dropped > rounds(),
        "the filter drops too little for the test to mean anything: {dropped}"
    );
}

#[test]
fn damaged_bundles_are_refused() {
    let random = &mut Random(5);
    let whole = Bundle::compile(&rules(random), &CompileOptions::default())
        .unwrap()
        .as_bytes()
        .to_vec();
    for end in 0..whole.len() {
        // Every place in the header and directory, then every few bytes.
        if end < 600 || end % 37 == 0 {
            assert!(Bundle::from_bytes(&whole[..end]).is_err(), "cut at {end}");
        }
    }
    for _ in 0..2_000 {
        let mut damaged = whole.clone();
        let at = random.below(damaged.len());
        damaged[at] ^= 1 << random.below(8);
        assert!(Bundle::from_bytes(&damaged).is_err(), "bit flipped at {at}");
    }
}

/// Damage that comes with a right checksum: loading may accept it, and then evaluation must neither panic nor hang.
#[test]
fn malformed_bundles_do_no_harm() {
    let random = &mut Random(6);
    let mut accepted = 0;
    for round in 0..(rounds() * 20).min(40_000) {
        let mut bytes = if round % 500 == 0 || round == 0 {
            Bundle::compile(&rules(random), &CompileOptions::default())
                .unwrap()
                .as_bytes()
                .to_vec()
        } else {
            LAST.with_borrow(Clone::clone)
        };
        LAST.set(bytes.clone());
        for _ in 0..1 + random.below(4) {
            let at = 72 + random.below(bytes.len() - 72);
            let at = at & !3;
            let number = random.pick(&[
                0,
                1,
                2,
                u32::MAX,
                u32::MAX - 1,
                0x7fff_ffff,
                random.0 as u32 & 0xff,
                random.0 as u32 & 0xffff,
            ]);
            if let Some(word) = bytes.get_mut(at..at + 4) {
                word.copy_from_slice(&number.to_le_bytes());
            }
        }
        let checksum = xxhash_rust::xxh3::xxh3_64(&bytes[32..]);
        bytes[24..32].copy_from_slice(&checksum.to_le_bytes());
        let Ok(bundle) = Bundle::from_bytes(&bytes) else {
            continue;
        };
        accepted += 1;
        let engine = Engine::new(bundle, EngineOptions::default());
        let mut scratch = engine.scratch();
        let mut found = Vec::new();
        for _ in 0..3 {
            engine.evaluate(&mut scratch, &event(random), &mut found);
        }
        for rule in engine.rules() {
            let _ = (
                rule.name(),
                rule.tags().count(),
                rule.output(),
                rule.sequence_by(),
            );
        }
        let _ = engine.kernel_filter();
    }
    assert!(accepted > 0, "all were refused: the test reaches nothing");
}

thread_local! {
    static LAST: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}
