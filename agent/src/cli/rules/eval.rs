//! `saker rules eval`: rules, or one condition, over recorded events.
//!
//! Time comes from the events (`evt.rawtime`); an event without one happens together with the one before it.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal as _, Write as _},
    path::PathBuf,
};

use saker_rules::{
    FieldArgRef, FieldSource as _,
    engine::{Engine, EngineOptions},
    fields::Field,
    json_event::JsonEvent,
    loader::{LoadOptions, check_condition},
    reference::Prepared,
    state::{Detector, DetectorOptions},
    value::Value,
};
use serde_json::json;

use super::load;
use crate::cli::{Failure, complain};

/// One recorded event may be this long.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// Options of `saker rules eval`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["condition", "rules"])))]
pub struct Args {
    /// Evaluate one condition.
    #[arg(long, value_name = "CONDITION")]
    condition: Option<String>,
    /// Rule files or folders of `*.yaml`; may be given many times, in order.
    #[arg(long, value_name = "PATH")]
    rules: Vec<PathBuf>,
    /// The shipped rules too, in front of these.
    #[arg(long, requires = "rules")]
    keep_shipped: bool,
    /// Recorded events, one JSON object a line, keys are field names; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    events: PathBuf,
}

/// What answers for one event: the names of the rules that match, `None` for a bare condition.
enum Evaluator {
    Condition(Prepared),
    Rules {
        detector: Box<Detector>,
        now_ns: u64,
    },
}

/// Prints one JSON line a match.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut evaluator = evaluator(args)?;
    let name = args.events.display();
    let mut input: Box<dyn BufRead> = if args.events.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(&args.events).map_err(
            |error| Failure::Input(format!("{name}: cannot read it: {error}")),
        )?))
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut line = Vec::new();
    for number in 0_u64.. {
        line.clear();
        let length = io::Read::take(&mut input, LINE_BYTES_MAX + 1)
            .read_until(b'\n', &mut line)
            .map_err(|error| Failure::Input(format!("{name}: cannot read it: {error}")))?;
        if length == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let wrong = |problem: String| Failure::Input(format!("{name}:{}: {problem}", number + 1));
        if length as u64 > LINE_BYTES_MAX {
            return Err(wrong(format!(
                "the line is longer than {LINE_BYTES_MAX} bytes"
            )));
        }
        let text =
            std::str::from_utf8(&line).map_err(|_| wrong("the line is not UTF-8 text".into()))?;
        let event = JsonEvent::parse(text).map_err(|error| wrong(super::super::chain(&error)))?;
        for rule in evaluator.matches(&event) {
            // A reader that went away ends the command quietly, as for any filter.
            if writeln!(out, "{}", json!({ "event": number, "rule": rule })).is_err() {
                return Ok(());
            }
        }
    }
    let _ = out.flush();
    Ok(())
}

fn evaluator(args: &Args) -> Result<Evaluator, Failure> {
    if let Some(condition) = &args.condition {
        let expr = check_condition(condition)
            .map_err(|diagnostics| super::check::refused(condition, &diagnostics))?;
        return Ok(Evaluator::Condition(Prepared::new(&expr)));
    }
    let report = load::selected(&args.rules, args.keep_shipped, &LoadOptions::default())?;
    if report.has_errors() {
        complain(&report.render(io::stderr().is_terminal()));
        return Err(Failure::Input(String::new()));
    }
    let engine = Engine::new(load::compiled(&report)?, EngineOptions::default());
    Ok(Evaluator::Rules {
        detector: Box::new(Detector::new(engine, DetectorOptions::default())),
        now_ns: 0,
    })
}

impl Evaluator {
    fn matches(&mut self, event: &JsonEvent) -> Vec<Option<String>> {
        match self {
            Self::Condition(condition) => condition
                .evaluate(event)
                .then_some(None)
                .into_iter()
                .collect(),
            Self::Rules { detector, now_ns } => {
                if let Some(Value::Uint(time)) = event.field(Field::EvtRawtime, FieldArgRef::None) {
                    *now_ns = time;
                }
                let mut matches = Vec::new();
                detector.observe(event, *now_ns, &mut matches);
                let name = |rule| {
                    detector
                        .engine()
                        .rule(rule)
                        .map(|rule| rule.name().to_owned())
                };
                matches.iter().map(|found| name(found.rule)).collect()
            }
        }
    }
}
