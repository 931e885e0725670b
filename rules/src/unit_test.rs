//! Unit tests of rules: events in, expected alerts out, written in YAML beside the rules.
//!
//! ```yaml
//! - test: a shell in a container
//!   rules: [shells.yaml]              # relative to this file; the prelude is always there
//!   with: {container.id: 3ad7b26ded6d} # fields that all events have, unless they say otherwise
//!   events:
//!     - {evt.type: execve, proc.name: sh}
//!     - {evt.type: execve, proc.name: ls, after: 10s}
//!   expect:
//!     - {event: 0, rule: Shell in a container}
//! ```
//!
//! Keys of events are field names, their values text, numbers or lists, `null` for a field that cannot be extracted. `after` is the time since the event
//! before (`ns`, `us`, `ms`, `s`, `m`, `h`; a millisecond where it is missing). `expect` names every alert, in any order; `[]` says that there is
//! none. All enabled rules of the files are evaluated, and none hides another; an alert that is not expected fails the test too. `only: [rule, …]`
//! leaves out alerts of other rules. A file is a list of tests; several documents are read one after another.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    rc::Rc,
};

use crate::{
    bundle::Bundle,
    compile::{CompileError, CompileOptions},
    diagnostic::line_column,
    engine::{Engine, EngineOptions},
    json_event::{JsonEvent, JsonEventError},
    loader::{
        self, LoadOptions, SourceFile,
        yaml::{Kind, Node},
    },
    prelude::PRELUDE,
    state::{Detector, DetectorOptions},
};

/// Test files larger than this are refused.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Why a test file cannot be run. A test that fails is no error but an [`Outcome`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnitTestError {
    /// The file, or a rules file that it names, could not be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not YAML, or not a list of tests.
    #[error("{file}:{line}: {what}")]
    Malformed {
        /// The file.
        file: String,
        /// The line, from 1.
        line: u32,
        /// What is wrong.
        what: String,
    },
    /// An event has an unknown field, or a value that the field cannot have.
    #[error("{file}:{line}: the event cannot be read")]
    Event {
        /// The file.
        file: String,
        /// The line, from 1.
        line: u32,
        /// Why.
        source: JsonEventError,
    },
    /// The rules have errors.
    #[error("the rules of test {test:?} do not load\n{diagnostics}")]
    Rules {
        /// The test.
        test: String,
        /// What is wrong with them, for people.
        diagnostics: String,
    },
    /// The rules do not compile.
    #[error("the rules of test {test:?} do not compile")]
    Compile {
        /// The test.
        test: String,
        /// Why.
        source: CompileError,
    },
}

/// A test.
#[derive(Debug)]
pub struct UnitTest {
    /// Its name.
    pub name: String,
    /// Its line in the file, from 1.
    pub line: u32,
    /// The rules files, as the test names them.
    pub rules: Vec<String>,
    events: Vec<(u64, JsonEvent)>,
    expect: BTreeSet<Alert>,
    only: Option<BTreeSet<String>>,
}

impl UnitTest {
    /// The alerts that it expects, in order of events.
    pub fn expected(&self) -> impl Iterator<Item = &Alert> {
        self.expect.iter()
    }

    /// The kind (`evt.type`) of each of its events, where it has one.
    pub fn kinds(&self) -> impl Iterator<Item = Option<String>> {
        self.events.iter().map(|(_, event)| event.kind())
    }
}

/// An alert: which event raises which rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alert {
    /// Number of the event in the test, from 0.
    pub event: usize,
    /// The rule's name.
    pub rule: String,
}

/// What came of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The test.
    pub test: String,
    /// Its line in the file, from 1.
    pub line: u32,
    /// Expected and not raised.
    pub missing: Vec<Alert>,
    /// Raised and not expected.
    pub unexpected: Vec<Alert>,
}

impl Outcome {
    /// Whether everything came as expected.
    pub fn is_passed(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty()
    }
}

/// Runs every test of a file.
pub fn run_file(path: impl AsRef<Path>) -> Result<Vec<Outcome>, UnitTestError> {
    let path = path.as_ref();
    let tests = parse(&path.display().to_string(), &read(path)?)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    // Tests of one file mostly share their rules.
    let mut bundles: BTreeMap<Vec<String>, Bundle> = BTreeMap::new();
    let mut outcomes = Vec::new();
    for test in &tests {
        let bundle = match bundles.get(&test.rules) {
            Some(bundle) => bundle.clone(),
            None => {
                let mut files = vec![SourceFile::library("prelude.yaml", PRELUDE)];
                for name in &test.rules {
                    files.push(SourceFile::new(name, read(&folder.join(name))?));
                }
                let bundle = compile(&test.name, &files)?;
                bundles.insert(test.rules.clone(), bundle.clone());
                bundle
            }
        };
        outcomes.push(run(test, bundle));
    }
    Ok(outcomes)
}

fn read(path: &Path) -> Result<String, UnitTestError> {
    let failed = |source| UnitTestError::Read {
        path: path.to_owned(),
        source,
    };
    let len = fs::metadata(path).map_err(failed)?.len();
    if len > FILE_BYTES_MAX {
        return Err(failed(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {FILE_BYTES_MAX} bytes"),
        )));
    }
    fs::read_to_string(path).map_err(failed)
}

fn compile(test: &str, files: &[SourceFile]) -> Result<Bundle, UnitTestError> {
    let report = loader::load(files, &LoadOptions::default());
    if report.has_errors() {
        return Err(UnitTestError::Rules {
            test: test.to_owned(),
            diagnostics: report.render(false),
        });
    }
    Bundle::compile(&report.ruleset, &CompileOptions::default()).map_err(|source| {
        UnitTestError::Compile {
            test: test.to_owned(),
            source,
        }
    })
}

/// Runs a test against compiled rules.
pub fn run(test: &UnitTest, bundle: Bundle) -> Outcome {
    let mut detector = Detector::new(
        Engine::new(bundle, EngineOptions::default()),
        DetectorOptions::default(),
    );
    let mut raised = BTreeSet::new();
    let mut matches = Vec::new();
    for (index, (at_ns, event)) in test.events.iter().enumerate() {
        matches.clear();
        detector.observe(event, *at_ns, &mut matches);
        for found in &matches {
            let Some(rule) = detector.engine().rule(found.rule) else {
                continue;
            };
            if test
                .only
                .as_ref()
                .is_none_or(|only| only.contains(rule.name()))
            {
                raised.insert(Alert {
                    event: index,
                    rule: rule.name().to_owned(),
                });
            }
        }
    }
    Outcome {
        test: test.name.clone(),
        line: test.line,
        missing: test.expect.difference(&raised).cloned().collect(),
        unexpected: raised.difference(&test.expect).cloned().collect(),
    }
}

/// Reads the tests of a file; `name` stands for it in errors.
pub fn parse(name: &str, text: &str) -> Result<Vec<UnitTest>, UnitTestError> {
    let reader = TestReader { name, text };
    let documents = loader::yaml::parse(text, 0).map_err(|diagnostic| {
        let offset = diagnostic
            .primary
            .as_ref()
            .map_or(0, |label| label.place.span.start);
        reader.malformed(offset, diagnostic.message.clone())
    })?;
    let mut tests = Vec::new();
    for document in &documents {
        match &document.kind {
            Kind::Null => {}
            Kind::Sequence(items) => {
                for item in items {
                    tests.push(reader.test(item)?);
                }
            }
            _ => return Err(reader.wrong(document, "expected a list of tests")),
        }
    }
    Ok(tests)
}

struct TestReader<'t> {
    name: &'t str,
    text: &'t str,
}

impl TestReader<'_> {
    fn malformed(&self, offset: usize, what: String) -> UnitTestError {
        UnitTestError::Malformed {
            file: self.name.to_owned(),
            line: line_column(self.text, offset).0,
            what,
        }
    }

    fn wrong(&self, node: &Node, what: &str) -> UnitTestError {
        self.malformed(node.span.start, what.to_owned())
    }

    fn line(&self, node: &Node) -> u32 {
        line_column(self.text, node.span.start).0
    }

    fn test(&self, node: &Node) -> Result<UnitTest, UnitTestError> {
        let Kind::Mapping(entries) = &node.kind else {
            return Err(self.wrong(node, "expected a test"));
        };
        for (key, _) in entries {
            if !matches!(
                key.scalar(),
                Some("test" | "rules" | "with" | "events" | "expect" | "only")
            ) {
                return Err(self.wrong(
                    key,
                    "a test has the keys test, rules, with, events, expect and only",
                ));
            }
        }
        let need = |key: &str| {
            node.get(key)
                .ok_or_else(|| self.wrong(node, &format!("the test has no {key}")))
        };
        let name = need("test")?;
        let mut shared = BTreeMap::new();
        if let Some(with) = node.get("with") {
            self.fields(with, &mut shared)?;
        }
        let mut events = Vec::new();
        let mut now_ns = 0_u64;
        for event in self.items(need("events")?)? {
            let mut fields = shared.clone();
            self.fields(event, &mut fields)?;
            let after = fields.remove("after");
            if !events.is_empty() || after.is_some() {
                let span = after.as_ref().map_or(Some(1_000_000), span_ns);
                let span =
                    span.ok_or_else(|| self.wrong(event, "after is a time such as 10s or 5m"))?;
                now_ns = now_ns.saturating_add(span);
            }
            let line = serde_json::Value::Object(fields.into_iter().collect()).to_string();
            let parsed = JsonEvent::parse(&line).map_err(|source| UnitTestError::Event {
                file: self.name.to_owned(),
                line: self.line(event),
                source,
            })?;
            events.push((now_ns, parsed));
        }
        let mut expect = BTreeSet::new();
        for alert in self.items(need("expect")?)? {
            let event = alert
                .get("event")
                .and_then(|event| event.scalar()?.parse().ok());
            let rule = alert.get("rule").and_then(|rule| rule.scalar());
            let (Some(event), Some(rule)) = (event, rule) else {
                return Err(self.wrong(alert, "expected {event: number, rule: name}"));
            };
            if event >= events.len() {
                return Err(self.wrong(
                    alert,
                    &format!("the test has {} events, counted from 0", events.len()),
                ));
            }
            expect.insert(Alert {
                event,
                rule: rule.to_owned(),
            });
        }
        Ok(UnitTest {
            name: self.scalar(name)?,
            line: self.line(node),
            rules: self.scalars(need("rules")?)?,
            events,
            expect,
            only: node
                .get("only")
                .map(|only| self.scalars(only))
                .transpose()?
                .map(BTreeSet::from_iter),
        })
    }

    fn items<'n>(&self, node: &'n Node) -> Result<&'n [Rc<Node>], UnitTestError> {
        match &node.kind {
            Kind::Sequence(items) => Ok(items),
            _ => Err(self.wrong(node, "expected a list")),
        }
    }

    fn scalar(&self, node: &Node) -> Result<String, UnitTestError> {
        node.scalar()
            .map(str::to_owned)
            .ok_or_else(|| self.wrong(node, "expected text"))
    }

    fn scalars(&self, node: &Node) -> Result<Vec<String>, UnitTestError> {
        match node.scalar() {
            Some(text) => Ok(vec![text.to_owned()]),
            None => self
                .items(node)?
                .iter()
                .map(|item| self.scalar(item))
                .collect(),
        }
    }

    /// Adds an event's fields, as JSON that [`JsonEvent`] reads: it takes the text of any value.
    fn fields(
        &self,
        node: &Node,
        fields: &mut BTreeMap<String, serde_json::Value>,
    ) -> Result<(), UnitTestError> {
        let Kind::Mapping(entries) = &node.kind else {
            return Err(self.wrong(node, "expected field: value"));
        };
        for (key, value) in entries {
            let json = match &value.kind {
                Kind::Null => serde_json::Value::Null,
                Kind::Scalar(text, _) => text.clone().into(),
                Kind::Sequence(_) => self.scalars(value)?.into(),
                Kind::Mapping(_) => {
                    return Err(self.wrong(value, "a field's value is text, a number or a list"));
                }
            };
            fields.insert(self.scalar(key)?, json);
        }
        Ok(())
    }
}

/// Nanoseconds of a time such as `10s`.
fn span_ns(value: &serde_json::Value) -> Option<u64> {
    let text = value.as_str()?;
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let unit = match &text[digits..] {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "\
- rule: Shell
  desc: d
  condition: evt.type = execve and proc.name in (sh, bash)
  output: o
  priority: NOTICE
- rule: Shell then curl
  desc: d
  sequence:
    by: proc.pid
    within: 10s
    steps:
      - evt.type = execve and proc.name = sh
      - evt.type = execve and proc.name = curl
  output: o
  priority: NOTICE
";

    fn outcomes(tests: &str) -> Result<Vec<Outcome>, UnitTestError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("rules.yaml"), RULES).unwrap();
        let path = folder.path().join("tests.yaml");
        fs::write(&path, tests).unwrap();
        run_file(&path)
    }

    #[track_caller]
    fn check(test: &str, missing: &[(usize, &str)], unexpected: &[(usize, &str)]) {
        let outcome = outcomes(&format!("- test: t\n  rules: [rules.yaml]\n{test}"))
            .unwrap()
            .remove(0);
        let pairs = |alerts: Vec<Alert>| {
            alerts
                .into_iter()
                .map(|alert| (alert.event, alert.rule))
                .collect::<Vec<_>>()
        };
        let owned = |alerts: &[(usize, &str)]| {
            alerts
                .iter()
                .map(|&(event, rule)| (event, rule.to_owned()))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (outcome.line, outcome.is_passed()),
            (1, missing.is_empty() && unexpected.is_empty())
        );
        assert_eq!(pairs(outcome.missing), owned(missing));
        assert_eq!(pairs(outcome.unexpected), owned(unexpected));
    }

    #[test]
    fn tells_what_is_missing_and_what_was_not_expected() {
        check(
            "  events: [{evt.type: execve, proc.name: sh}]\n  expect: [{event: 0, rule: Shell}]\n",
            &[],
            &[],
        );
        check(
            "  events: [{evt.type: execve, proc.name: ls}]\n  expect: [{event: 0, rule: Shell}]\n",
            &[(0, "Shell")],
            &[],
        );
        check(
            "  events: [{evt.type: execve, proc.name: sh}]\n  expect: []\n",
            &[],
            &[(0, "Shell")],
        );
        check(
            "  events: [{evt.type: execve, proc.name: sh}]\n  only: [Other]\n  expect: []\n",
            &[],
            &[],
        );
        check(
            "  with: {evt.type: execve}\n  events: [{proc.name: sh}]\n  expect: [{event: 0, rule: Shell}]\n",
            &[],
            &[],
        );
    }

    #[test]
    fn time_passes_between_events() {
        let test = |after| {
            format!(
                "  with: {{evt.type: execve, proc.pid: 7}}\n  events: [{{proc.name: sh}}, {{proc.name: curl, after: {after}}}]\n  \
                 expect: [{{event: 0, rule: Shell}}, {{event: 1, rule: Shell then curl}}]\n"
            )
        };
        check(&test("10s"), &[], &[]);
        check(&test("10001ms"), &[(1, "Shell then curl")], &[]);
    }

    #[track_caller]
    fn refused(tests: &str, expected: &str) {
        let error = outcomes(tests).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn says_what_is_wrong_with_a_test() {
        let base = "- test: t\n  rules: [rules.yaml]\n";
        refused("{}", "tests.yaml:1: expected a list of tests");
        refused("- 1\n", "expected a test");
        refused(
            "- test: t\n  rule: x\n",
            "tests.yaml:2: a test has the keys",
        );
        refused(&format!("{base}  expect: []\n"), "the test has no events");
        refused(
            &format!("{base}  events: [{{nope: 1}}]\n  expect: []\n"),
            "tests.yaml:3: the event cannot be read",
        );
        refused(
            &format!("{base}  events: []\n  expect: [{{event: 0, rule: x}}]\n"),
            "the test has 0 events",
        );
        refused(
            &format!("{base}  events: [{{evt.type: open, after: soon}}]\n  expect: []\n"),
            "after is a time",
        );
        refused(
            "- test: t\n  rules: [missing.yaml]\n  events: []\n  expect: []\n",
            "missing.yaml",
        );
        refused("- test: [\n", "tests.yaml:");
    }
}
