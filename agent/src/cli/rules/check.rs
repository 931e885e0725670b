//! `saker rules check`: every diagnostic in one go.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal as _,
};

use saker_ebpf::extension::EXTENSION_BYTES;
use saker_rules::{
    bundle::Bundle,
    compile::CompileOptions,
    diagnostic::{Diagnostic, Severity},
    engine::{Engine, EngineOptions},
    loader::{
        LoadOptions, LoadReport, SourceFile, check_condition_syntax, check_condition_with_warnings,
    },
    ruleset::RuleSet,
};

use super::{Selection, load};
use crate::{
    cli::{Failure, chain, complain, print},
    detect::ends_beyond_the_kernel,
};

/// Options of `saker rules check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Report as JSON in the shape of Falco's `falco_load_results`.
    #[arg(long)]
    json: bool,
    /// With `--condition`: grammar only; names of fields and macros are not looked up.
    #[arg(long, requires = "condition")]
    syntax: bool,
    /// Check one condition instead of files.
    #[arg(long, value_name = "CONDITION", conflicts_with = "paths")]
    condition: Option<String>,
}

/// Checks files, or one condition.
pub fn run(args: &Args) -> Result<(), Failure> {
    if let Some(condition) = &args.condition {
        return one(condition, args.syntax);
    }
    let mut report = load::selected(
        &args.selection.paths,
        args.selection.keep_shipped,
        &LoadOptions::default(),
    )?;
    if !report.has_errors() {
        // Which rules keep the kernel side from dropping events is known only once all are compiled together.
        let engine = Engine::new(load::compiled(&report)?, EngineOptions::default());
        let filter = engine.kernel_filter();
        report.warn_expensive(&filter.blockers());
        if !ends_beyond_the_kernel(&filter).is_empty() {
            let by_rule = ends_by_rule(&report)?;
            report.warn_long_ends(&by_rule, EXTENSION_BYTES);
        }
    }
    if args.json {
        print(&(report.to_falco_json().to_string() + "\n"))?;
    } else {
        complain(&report.render(std::io::stderr().is_terminal()));
        let errors = report
            .diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.severity == Severity::Error)
            .count();
        let warnings = report.diagnostics.len() - errors;
        print(&format!(
            "{} rules, {errors} errors, {warnings} warnings\n",
            report.ruleset.rules.len()
        ))?;
    }
    if report.has_errors() {
        Err(Failure::Input(String::new()))
    } else {
        Ok(())
    }
}

/// Ends of paths that the kernel cannot compare, by the rule that has them: each is compiled alone, for what they come to together does not tell.
fn ends_by_rule(report: &LoadReport) -> Result<BTreeMap<String, BTreeSet<Vec<u8>>>, Failure> {
    let mut found = BTreeMap::new();
    for rule in report.ruleset.rules.iter().filter(|rule| rule.enabled) {
        let alone = RuleSet {
            rules: vec![rule.clone()],
        };
        let bundle = Bundle::compile(&alone, &CompileOptions::default())
            .map_err(|error| Failure::Input(chain(&error)))?;
        let engine = Engine::new(bundle, EngineOptions::default());
        let ends = ends_beyond_the_kernel(&engine.kernel_filter());
        if !ends.is_empty() {
            found.insert(rule.name.clone(), ends);
        }
    }
    Ok(found)
}

fn one(condition: &str, syntax: bool) -> Result<(), Failure> {
    if syntax {
        check_condition_syntax(condition)
            .map_err(|diagnostic| refused(condition, &[*diagnostic]))?;
        return print("ok\n");
    }
    let (checked, diagnostics) = check_condition_with_warnings(condition);
    if checked.is_none() {
        return Err(refused(condition, &diagnostics));
    }
    complain(&rendered(condition, &diagnostics));
    print("ok\n")
}

/// The failure that a wrong condition is, everything that is wrong with it rendered on stderr.
pub fn refused(condition: &str, diagnostics: &[Diagnostic]) -> Failure {
    complain(&rendered(condition, diagnostics));
    Failure::Input(String::new())
}

fn rendered(condition: &str, diagnostics: &[Diagnostic]) -> String {
    let files = [SourceFile::new("condition", condition)];
    diagnostics
        .iter()
        .map(|diagnostic| diagnostic.render(&files, std::io::stderr().is_terminal()))
        .collect()
}
