//! Where Falco's cases lie, and every way to evaluate a condition that must agree on them.

use std::path::PathBuf;

use saker_rules::{
    bundle::Bundle,
    compile::CompileOptions,
    engine::{Engine, EngineOptions},
    expr::Expr,
    json_event::JsonEvent,
    reference,
    ruleset::{Detection, Priority, Rule, RuleSet},
    template::Template,
};
use serde_json::Value;

/// A way to evaluate a condition.
pub type Evaluate = fn(&Expr, &JsonEvent) -> bool;

/// Every way there is.
pub const EVALUATORS: &[(&str, Evaluate)] =
    &[("reference", |expr, event| reference::evaluate(expr, event)), ("engine", run_engine)];

fn run_engine(expr: &Expr, event: &JsonEvent) -> bool {
    let rule = Rule {
        name: "rule".to_owned(),
        desc: String::new(),
        condition_text: String::new(),
        detection: Detection::Event(expr.clone()),
        output: Template::default(),
        priority: Priority::Debug,
        source: "syscall".to_owned(),
        tags: Vec::new(),
        enabled: true,
        origin: (String::new(), 0),
        inactive: Vec::new(),
    };
    let bundle = Bundle::compile(&RuleSet { rules: vec![rule] }, &CompileOptions::default()).unwrap();
    let engine = Engine::new(bundle, EngineOptions::default());
    let mut found = Vec::new();
    engine.evaluate(&mut engine.scratch(), event, &mut found);
    !found.is_empty()
}

/// The folder of Falco's cases; `None`, said aloud, where this machine lacks it.
pub fn falco_folder() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/falco");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("SKIPPED: {} is missing", folder.display());
    None
}

/// The cases of a file.
pub fn cases(file: &str) -> Option<Vec<Value>> {
    let path = falco_folder()?.join("conformance").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut file: Value = serde_json::from_str(&text).unwrap();
    match file["cases"].take() {
        Value::Array(cases) => Some(cases),
        _ => panic!("{} has no cases", path.display()),
    }
}
