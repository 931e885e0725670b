//! Every way to evaluate a condition; all must agree.

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

/// A way to evaluate a condition.
pub type Evaluate = fn(&Expr, &JsonEvent) -> bool;

/// Every way there is.
pub const EVALUATORS: &[(&str, Evaluate)] = &[
    ("reference", |expr, event| reference::evaluate(expr, event)),
    ("engine", run_engine),
];

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
        profiles: Vec::new(),
        origin: (String::new(), 0),
        inactive: Vec::new(),
    };
    let bundle =
        Bundle::compile(&RuleSet { rules: vec![rule] }, &CompileOptions::default()).unwrap();
    let engine = Engine::new(bundle, EngineOptions::default());
    let mut found = Vec::new();
    engine.evaluate(&mut engine.scratch(), event, &mut found);
    !found.is_empty()
}
