//! What the fuzz targets do with their input; here, so that an ordinary test runs the same code on a few thousand inputs.
//!
//! `cargo fuzz run condition` (or `rule_file`, `bundle`) in `rules/` runs a target; see `docs/rule-engine.md`.

use xxhash_rust::xxh3::xxh3_64;

use crate::{
    FieldArgRef, FieldSource,
    bundle::Bundle,
    compile::{CompileError, CompileOptions},
    engine::{Engine, EngineOptions},
    fields::{FIELDS, Field},
    json_event::JsonEvent,
    loader::{self, LoadOptions, SourceFile},
    reference::Prepared,
    ruleset::{Detection, Priority, Rule, RuleSet},
    state::{Detector, DetectorOptions},
    template::Template,
    value::{FieldType, Value},
};

/// An event that has a value for every field.
struct Everything;

impl FieldSource for Everything {
    fn event_type(&self) -> Option<&[u8]> {
        Some(b"openat")
    }

    fn field<'a>(&'a self, field: Field, _arg: FieldArgRef<'a>) -> Option<Value<'a>> {
        let info = FIELDS.get(field as usize)?;
        let one = match info.ty {
            _ if field == Field::EvtType => Value::Bytes(b"openat"),
            FieldType::Str => Value::Bytes(b"bash -c cat"),
            FieldType::Path => Value::Bytes(b"/etc/passwd"),
            FieldType::Bytes => Value::Bytes(b"\x7fELF\0\xff"),
            FieldType::Uint | FieldType::Port | FieldType::RelTime | FieldType::AbsTime => {
                Value::Uint(443)
            }
            FieldType::Int => Value::Int(-1),
            FieldType::Double => Value::Double(0.5),
            FieldType::Bool => Value::Bool(true),
            FieldType::Ip | FieldType::Net => Value::Ip([10, 0, 0, 1].into()),
        };
        Some(if info.list { Value::List(&[]) } else { one })
    }
}

/// Loads a condition; where it is sound, the engine and the reference must agree on it.
///
/// # Panics
/// Where they do not, or where compiling fails for other reasons than bounds.
pub fn condition(text: &str) {
    let _ = loader::check_condition_syntax(text);
    let Ok(expr) = loader::check_condition(text) else {
        return;
    };
    let reference = Prepared::new(&expr);
    let rule = Rule {
        name: "fuzz".into(),
        desc: String::new(),
        condition_text: text.into(),
        detection: Detection::Event(expr),
        output: Template::default(),
        priority: Priority::Debug,
        source: "syscall".into(),
        tags: Vec::new(),
        enabled: true,
        profiles: Vec::new(),
        origin: (String::new(), 1),
        inactive: Vec::new(),
    };
    let Some(bundle) = compiled(&RuleSet { rules: vec![rule] }) else {
        return;
    };
    let engine = Engine::new(bundle, EngineOptions::default());
    let mut scratch = engine.scratch();
    let mut found = Vec::new();
    engine.evaluate(&mut scratch, &Everything, &mut found);
    assert_eq!(
        !found.is_empty(),
        reference.evaluate(&Everything),
        "{text:?}"
    );
    found.clear();
    let nothing = JsonEvent::default();
    engine.evaluate(&mut scratch, &nothing, &mut found);
    assert_eq!(!found.is_empty(), reference.evaluate(&nothing), "{text:?}");
    let _ = engine.kernel_filter();
}

/// Loads a rules file, shows what is wrong with it, and evaluates what is sound.
///
/// # Panics
/// Where compiling sound rules fails for other reasons than bounds.
pub fn rule_file(text: &str) {
    let report = loader::load(
        &[SourceFile::new("fuzz.yaml", text)],
        &LoadOptions::default(),
    );
    let _ = (report.render(false), report.to_falco_json());
    if report.has_errors() {
        return;
    }
    let Some(bundle) = compiled(&report.ruleset) else {
        return;
    };
    let mut detector = Detector::new(
        Engine::new(bundle, EngineOptions::default()),
        DetectorOptions::default(),
    );
    let mut matches = Vec::new();
    for now_ns in [0, 1_000_000_000, u64::MAX, 5] {
        detector.observe(&Everything, now_ns, &mut matches);
    }
}

fn compiled(rules: &RuleSet) -> Option<Bundle> {
    match Bundle::compile(rules, &CompileOptions::default()) {
        Ok(bundle) => Some(bundle),
        Err(CompileError::Bundle(error)) => {
            panic!("the compiler made a bundle that does not load: {error}")
        }
        Err(_) => None,
    }
}

/// Loads bytes as a bundle, as they are and with a right length and checksum, and evaluates what loads.
pub fn bundle(bytes: &[u8]) {
    let _ = Bundle::from_bytes(bytes);
    let mut bytes = bytes.to_vec();
    if bytes.len() < 32 {
        return;
    }
    let len = bytes.len() as u64;
    bytes[16..24].copy_from_slice(&len.to_le_bytes());
    let checksum = xxh3_64(&bytes[32..]);
    bytes[24..32].copy_from_slice(&checksum.to_le_bytes());
    let Ok(bundle) = Bundle::from_bytes(&bytes) else {
        return;
    };
    let engine = Engine::new(bundle, EngineOptions::default());
    let mut scratch = engine.scratch();
    let mut found = Vec::new();
    engine.evaluate(&mut scratch, &Everything, &mut found);
    engine.evaluate(&mut scratch, &JsonEvent::default(), &mut found);
    for rule in engine.rules() {
        let _ = (
            rule.name(),
            rule.tags().count(),
            rule.inactive().count(),
            rule.output(),
            rule.sequence_by(),
        );
    }
    let _ = engine.kernel_filter();
    let mut detector = Detector::new(engine, DetectorOptions::default());
    detector.observe(&Everything, 1, &mut Vec::new());
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as usize % bound.max(1)
        }
    }

    const PIECES: [&str; 40] = [
        "evt.type",
        "proc.name",
        "fd.name",
        "proc.aname[2]",
        "evt.arg.flags",
        "fd.sip",
        "fd.net",
        "proc.pid",
        "=",
        "!=",
        "in",
        "contains",
        "startswith",
        "pmatch",
        "glob",
        "regex",
        "exists",
        "and",
        "or",
        "not",
        "(",
        ")",
        ",",
        "\"a b\"",
        "'x'",
        "/etc/*",
        "10.0.0.0/8",
        "443",
        "-1",
        "true",
        "openat",
        "oneof",
        "anyof",
        "tolower(proc.name)",
        "basename(fd.name)",
        "\\",
        "\"",
        "len(fd.name)",
        ">=",
        "[a-z]+",
    ];

    #[test]
    fn conditions_of_random_pieces() {
        let mut random = Random(3);
        for _ in 0..4_000 {
            let count = 1 + random.below(9);
            let text: Vec<_> = (0..count)
                .map(|_| PIECES[random.below(PIECES.len())])
                .collect();
            condition(&text.join(" "));
        }
    }

    #[test]
    fn conditions_of_random_tests() {
        let mut random = Random(9);
        for _ in 0..2_000 {
            let mut text = String::new();
            for at in 0..1 + random.below(4) {
                if at > 0 {
                    text += [" and ", " or ", " and not "][random.below(3)];
                }
                let tests = [
                    "evt.type=openat",
                    "fd.name startswith /etc",
                    "fd.name glob /etc/*",
                    "proc.name in (a, 'bash -c cat')",
                    "fd.sip in (10.0.0.0/8)",
                    "proc.name regex 'ba.*'",
                    "not fd.name pmatch (/etc)",
                    "fd.num < 0",
                    "tolower(proc.name) contains BASH",
                    "evt.type != open",
                    "proc.pid in (443, 1)",
                ];
                text += tests[random.below(tests.len())];
            }
            condition(&text);
        }
    }

    const FILE: &str = "\
- list: shells
  items: [sh, bash]
- macro: opened
  condition: evt.type in (open, openat)
- rule: one
  desc: d
  condition: opened and proc.name in (shells)
  output: \"%proc.name %fd.name\"
  priority: WARNING
  tags: [a]
  exceptions:
    - name: e
      fields: [proc.name, fd.name]
      comps: [=, startswith]
      values: [[sh, /x]]
- rule: two
  desc: d
  condition: evt.type = gpu and container.id != host
  for: 5m
  output: o
  priority: NOTICE
";

    #[test]
    fn rule_files_with_random_damage() {
        let mut random = Random(5);
        rule_file(FILE);
        for _ in 0..1_500 {
            let mut bytes = FILE.as_bytes().to_vec();
            for _ in 0..1 + random.below(4) {
                let at = random.below(bytes.len());
                if bytes.is_empty() {
                    break;
                }
                match random.below(3) {
                    0 => bytes[at] = b" :-[]{}'\"%&*!|>#\n,0a"[random.below(20)],
                    1 => drop(bytes.drain(at..(at + random.below(20)).min(bytes.len()))),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            rule_file(&String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn bundles_with_random_damage() {
        let mut random = Random(7);
        let report = loader::load(
            &[SourceFile::new("fuzz.yaml", FILE)],
            &LoadOptions::default(),
        );
        let whole = compiled(&report.ruleset).unwrap().as_bytes().to_vec();
        for end in (0..whole.len()).step_by(7) {
            bundle(&whole[..end]);
        }
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.below(3) {
                let at = random.below(bytes.len());
                bytes[at] = [0, 1, 0xff, 0x7f, random.0 as u8][random.below(5)];
            }
            bundle(&bytes);
        }
    }
}
