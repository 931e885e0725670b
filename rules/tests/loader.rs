//! Loading beyond Falco's cases: Saker's own keys, what makes rules inactive, and input made to do harm.

use std::{fmt::Write, time::Duration};

use saker_rules::{
    diagnostic::{Code, Severity},
    fields::Field,
    loader::{self, LoadOptions, LoadReport, SourceFile},
    prelude::PRELUDE,
    ruleset::Detection,
};

fn load(text: &str) -> LoadReport {
    loader::load(
        &[SourceFile::new("rules.yaml", text)],
        &LoadOptions::default(),
    )
}

fn errors(report: &LoadReport) -> Vec<Code> {
    report
        .diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .map(|diagnostic| diagnostic.code)
        .collect()
}

fn rule(condition: &str) -> String {
    format!(
        "- rule: r\n  desc: d\n  output: o\n  priority: INFO\n  condition: >\n    {condition}\n"
    )
}

#[test]
fn the_prelude_is_silent_alone_and_under_redefinition() {
    let prelude = SourceFile::library("prelude.yaml", PRELUDE);
    let alone = loader::load(std::slice::from_ref(&prelude), &LoadOptions::default());
    assert!(alone.diagnostics.is_empty(), "{}", alone.render(false));
    let user = SourceFile::new(
        "user.yaml",
        "- macro: spawned_process\n  condition: evt.type = execve\n".to_owned()
            + &rule("spawned_process and container"),
    );
    let both = loader::load(&[prelude, user], &LoadOptions::default());
    assert!(both.diagnostics.is_empty(), "{}", both.render(false));
    let printed = &both.rules[0].compiled_condition;
    assert_eq!(printed, "(evt.type = execve and container.id != host)");
}

#[test]
fn every_macro_of_the_prelude_can_be_used() {
    let prelude = SourceFile::library("prelude.yaml", PRELUDE);
    let names = loader::load(std::slice::from_ref(&prelude), &LoadOptions::default()).macros;
    assert!(names.len() > 20);
    for name in names {
        let text = rule(&format!(
            "evt.type in (execve, openat, connect, device_open) and {name}"
        ));
        let files = [prelude.clone(), SourceFile::new("user.yaml", text)];
        let report = loader::load(&files, &LoadOptions::default());
        assert!(!report.has_errors(), "{name}: {}", report.render(false));
    }
}

#[test]
fn sequences_and_durations_are_read() {
    let text = "\
- rule: steps
  desc: d
  output: o
  priority: INFO
  sequence:
    by: proc.lineage
    within: 1m30s
    steps:
      - evt.type = openat
      - evt.type = connect and fd.sport = 443
- rule: held
  desc: d
  output: o
  priority: INFO
  condition: evt.type = gpu and evt.num > 0
  for: 5m
  action: observe
";
    let report = load(text);
    assert!(!report.has_errors(), "{}", report.render(false));
    let [steps, held] = report.ruleset.rules.as_slice() else {
        panic!("two rules")
    };
    let Detection::Sequence {
        by,
        within,
        steps: conditions,
    } = &steps.detection
    else {
        panic!("{:?}", steps.detection)
    };
    assert_eq!(
        (by.field, *within, conditions.len()),
        (Field::ProcLineage, Duration::from_secs(90), 2)
    );
    assert!(steps.inactive.is_empty());
    let Detection::For { hold, .. } = &held.detection else {
        panic!("{:?}", held.detection)
    };
    assert_eq!(*hold, Duration::from_secs(300));
}

#[test]
fn what_breaks_a_sequence_is_said() {
    let check = |sequence: &str, code: Code| {
        let text = format!("- rule: r\n  desc: d\n  output: o\n  priority: INFO\n  {sequence}\n");
        let report = load(&text);
        assert_eq!(errors(&report), [code], "{}", report.render(false));
    };
    let two = "[evt.type = open, evt.type = connect]";
    check(
        &format!("sequence: {{by: proc.pid, within: 10, steps: {two}}}"),
        Code::InvalidSequence,
    );
    check(
        &format!("sequence: {{by: proc.pid, within: 0s, steps: {two}}}"),
        Code::InvalidSequence,
    );
    check(
        &format!("sequence: {{by: proc.pid, within: 9000d, steps: {two}}}"),
        Code::InvalidSequence,
    );
    check(
        &format!("sequence: {{by: proc.nope, within: 10s, steps: {two}}}"),
        Code::UnknownField,
    );
    check(
        &format!("sequence: {{by: len(proc.name), within: 10s, steps: {two}}}"),
        Code::InvalidSequence,
    );
    check(
        "sequence: {by: proc.pid, within: 10s, steps: [evt.type = open]}",
        Code::InvalidSequence,
    );
    check(
        "sequence: {by: proc.pid, within: 10s, steps: [evt.type = open, x y]}",
        Code::ConditionSyntax,
    );
    check("sequence: [1]", Code::InvalidSequence);
    check(
        "condition: evt.type = open\n  for: soon",
        Code::InvalidSequence,
    );
    check(
        "condition: evt.type = open\n  action: deny",
        Code::UnsupportedAction,
    );
    check(
        "condition: evt.type = open\n  action: shout",
        Code::UnsupportedAction,
    );
}

#[test]
fn inactive_rules_say_why() {
    let check = |condition: &str, expected: &[&str]| {
        let report = load(&rule(condition));
        assert!(!report.has_errors(), "{}", report.render(false));
        let inactive = &report.ruleset.rules[0].inactive;
        assert_eq!(inactive.len(), expected.len(), "{condition}: {inactive:?}");
        for (reason, part) in inactive.iter().zip(expected) {
            assert!(reason.contains(part), "{condition}: {reason}");
        }
    };
    check("evt.type = execve and proc.name = sh", &[]);
    check("evt.type in (execve, ptrace)", &[]);
    check(
        "evt.type = ptrace",
        &["events ptrace: this kind of event is not traced"],
    );
    check("evt.type = fork", &["new processes arrive as clone"]);
    check(
        "evt.type = execve and container.liveness_probe = x",
        &["container.liveness_probe cannot be supplied"],
    );
    // Under `or` and `not` an absent field keeps nothing from being true.
    check(
        "evt.type = execve and (container.liveness_probe = x or proc.name = sh)",
        &[],
    );
    check(
        "evt.type = execve and not container.liveness_probe = x",
        &[],
    );
    check(
        "evt.type = execve and not (container.liveness_probe = x or proc.name = y)",
        &[],
    );
    check(
        "evt.type = execve and container.liveness_probe != x",
        &["container.liveness_probe cannot be supplied"],
    );
    check(
        "evt.type = execve and fd.name = x",
        &["no traced event carries"],
    );
    check(
        "not evt.type in (execve, open) and evt.type = ptrace",
        &["events ptrace: this kind of event is not traced"],
    );
    check("evt.type = gpu and gpu.util > 90", &[]);
}

#[test]
fn warnings_are_not_raised_on_what_is_right() {
    let check = |condition: &str| {
        let report = load(&rule(condition));
        assert!(report.diagnostics.is_empty(), "{}", report.render(false));
    };
    check("evt.type = execve and proc.name = bash");
    check("evt.type = device_open");
    check("evt.type in (open, openat) and not fd.name startswith /tmp");
    check("evt.type = open and (proc.name = a or evt.num = 0)");
    check("evt.type = execve and proc.name regex \"(a|b).+c\"");
}

#[test]
fn a_place_inside_folded_quoted_and_joined_text_is_found() {
    let check = |text: &str, token: &str| {
        let report = load(text);
        let diagnostic = report
            .diagnostics
            .iter()
            .find(|diagnostic| diagnostic.severity == Severity::Error)
            .unwrap_or_else(|| panic!("{text}"));
        let span = diagnostic.primary.as_ref().unwrap().place.span;
        assert_eq!(&text[span.start..span.end], token, "{text}");
    };
    let head = "# ünïcode\n- rule: r\n  desc: d\n  output: o\n  priority: INFO\n";
    let with = |condition: &str| format!("{head}  condition: {condition}\n");
    check(&with("evt.type = open and proc.nope = 1"), "proc.nope");
    check(
        &with(">\n    evt.type = open\n    and proc.nope = 1"),
        "proc.nope",
    );
    check(
        &with(">-\n    evt.type = open\n\n\n    and (proc.nope = 1)"),
        "proc.nope",
    );
    check(
        &with("| # why\n    evt.type = open\n      and proc.nope = 1"),
        "proc.nope",
    );
    check(
        &with("'evt.type = open and proc.name = ''x'' and proc.nope = 1'"),
        "proc.nope",
    );
    check(
        &with("\"evt.type = open and proc.name = \\\"\\x41\\u00e9\\\" and\\\n     proc.nope = 1\""),
        "proc.nope",
    );
    check(
        &with("evt.type = open and\n    proc.name = ü and\n    proc.nope = 1"),
        "proc.nope",
    );
    let appended = format!(
        "{}- rule: r\n  condition: and proc.nope = 1\n  override: {{condition: append}}\n",
        with("evt.type = open")
    );
    check(&appended, "proc.nope");
    let list = format!(
        "- list: l\n  items: [a, b]\n{}",
        with("evt.type = open and proc.pid in (1, l)")
    );
    check(&list, "l");
    let exception = format!(
        "{}  exceptions:\n    - {{name: e, fields: [proc.nope], values: [[x]]}}\n",
        with("evt.type = open")
    );
    check(&exception, "proc.nope");
}

#[test]
fn harmful_input_is_refused_and_survived() {
    let check = |text: &str, code: Code| {
        let report = load(text);
        assert!(errors(&report).contains(&code), "{:?}", errors(&report));
    };
    // Aliases that double at every step share their nodes; what is not a rules file is refused.
    let mut laughs = String::from("- &a0 [x, x]\n");
    for step in 1..60 {
        let _ = writeln!(laughs, "- &a{step} [*a{}, *a{}]", step - 1, step - 1);
    }
    check(&laughs, Code::YamlStructure);
    let mut deep = "[".repeat(5000);
    deep.push_str(&"]".repeat(5000));
    let report = load(&deep);
    assert!(report.has_errors());
    // Macros that double at every step.
    let mut macros = String::from("- macro: m0\n  condition: evt.type = open\n");
    for step in 1..40 {
        let last = step - 1;
        let _ = writeln!(
            macros,
            "- macro: m{step}\n  condition: (m{last} or proc.name = a) and (m{last} or proc.name = b)"
        );
    }
    check(&format!("{macros}{}", rule("m39")), Code::TooLarge);
    // A long chain of macros.
    let mut chain = String::from("- macro: c0\n  condition: evt.type = open\n");
    for step in 1..5000 {
        let _ = writeln!(chain, "- macro: c{step}\n  condition: not c{}", step - 1);
    }
    check(&format!("{chain}{}", rule("c4999")), Code::TooLarge);
    // Lists that double at every step.
    let mut lists = String::from("- list: l0\n  items: [a, b]\n");
    for step in 1..40 {
        let last = step - 1;
        let _ = writeln!(lists, "- list: l{step}\n  items: [l{last}, l{last}]");
    }
    check(&lists, Code::TooLarge);
    check(&rule(&"(".repeat(100_000)), Code::ConditionSyntax);
    check(&rule(&"not ".repeat(100_000)), Code::ConditionSyntax);
    let loops =
        "- macro: a\n  condition: b\n- macro: b\n  condition: a\n- macro: a\n  condition: b\n";
    check(&format!("{loops}{}", rule("a")), Code::UndefinedMacro);
}

#[test]
fn bytes_of_any_kind_load_or_are_refused() {
    // No panic is the assertion: prefixes of a file with everything in it cut every construct in two.
    let text = std::fs::read_to_string(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("testdata/diagnostics/condition_errors.yaml"),
    )
    .unwrap();
    for end in (0..text.len())
        .filter(|end| text.is_char_boundary(*end))
        .step_by(3)
    {
        let report = load(&text[..end]);
        let _ = report.render(false);
        let _ = report.to_falco_json();
    }
}

#[test]
fn a_rule_that_comes_later_changes_the_one_before_across_files() {
    let first = SourceFile::new("a.yaml", rule("evt.type = open"));
    let second = SourceFile::new(
        "b.yaml",
        "- rule: r\n  tags: [b, a]\n  condition: and proc.name = x\n  override: {tags: append, condition: append}\n",
    );
    let report = loader::load(&[first, second], &LoadOptions::default());
    assert!(!report.has_errors(), "{}", report.render(false));
    let rule = &report.ruleset.rules[0];
    assert_eq!(rule.tags, ["a", "b"]);
    assert_eq!(rule.origin, ("b.yaml".to_owned(), 1));
    assert_eq!(
        report.rules[0].compiled_condition,
        "(evt.type = open and proc.name = x)"
    );
}

#[test]
fn a_change_to_a_rule_keeps_its_source() {
    let check = |source: &str, change: &str, expected: &[Code]| {
        let text = format!(
            "{}  source: k8s_audit\n- rule: r\n  condition: and a.b = c\n{source}{change}",
            rule("ka.verb = GET")
        );
        let report = load(&text);
        assert_eq!(errors(&report), expected, "{}", report.render(false));
    };
    let append = "  append: true\n";
    let replace = "  override: {condition: replace}\n";
    for change in [append, replace] {
        check("  source: syscall\n", change, &[Code::SourceChanged]);
        check("  source: k8s_audit\n", change, &[]);
        check("  source: \"\"\n", change, &[]);
        check("  source:\n", change, &[]);
        check("", change, &[]);
    }
}

#[test]
fn the_prelude_shows_in_falcos_shape_only_if_it_is_wrong() {
    let user = SourceFile::new("user.yaml", rule("evt.type = open"));
    let names = |library: &str| -> Vec<String> {
        let files = [SourceFile::library("lib.yaml", library), user.clone()];
        let json = loader::load(&files, &LoadOptions::default()).to_falco_json();
        let results = json["falco_load_results"].as_array().unwrap();
        let names = results
            .iter()
            .map(|result| result["name"].as_str().unwrap());
        names.map(str::to_owned).collect()
    };
    assert_eq!(names(PRELUDE), ["user.yaml"]);
    assert_eq!(names("- rule: r\n"), ["lib.yaml", "user.yaml"]);
}

#[test]
fn a_macro_that_only_the_library_uses_is_unused() {
    let library = SourceFile::library(
        "lib.yaml",
        "- macro: inner\n  condition: evt.type = open\n- macro: outer\n  condition: inner\n",
    );
    let user = SourceFile::new(
        "user.yaml",
        "- macro: inner\n  condition: evt.type = close\n",
    );
    let report = loader::load(&[library, user], &LoadOptions::default());
    let codes: Vec<_> = report.diagnostics.iter().map(|found| found.code).collect();
    assert_eq!(codes, [Code::UnusedMacro]);
}

#[test]
fn macros_that_cannot_be_seen_are_explained() {
    let check = |text: &str, help: &str| {
        let report = load(text);
        assert_eq!(errors(&report), [Code::UndefinedMacro]);
        let rendered = report.render(false);
        assert!(rendered.contains(help), "{rendered}");
    };
    let uses = rule("a");
    check(
        &format!("- macro: a\n  condition: a and evt.type = open\n{uses}"),
        "a macro cannot use itself",
    );
    check(
        &format!("- macro: a\n  condition: b\n- macro: b\n  condition: a\n{uses}"),
        "defined further on",
    );
    check(
        &format!("- macro: a\n  condition: bb\n- macro: bbb\n  condition: evt.type = open\n{uses}"),
        "did you mean `bbb`?",
    );
}

#[test]
fn rules_that_cost_the_kernels_filter_are_named_beside_falcos_warnings() {
    let mut report =
        load(&(rule("evt.type = open") + &rule("evt.type = close").replace("rule: r", "rule: s")));
    let blockers = [("r".to_owned(), ["open".to_owned()].into())].into();
    report.warn_expensive(&blockers);
    let rendered = report.render(false);
    assert!(
        rendered.contains("warning[SK0119]") && rendered.contains("rules.yaml:1:9"),
        "{rendered}"
    );
    let result = &report.to_falco_json()["falco_load_results"][0];
    assert_eq!(result["warnings"].as_array().unwrap().len(), 0);
    assert_eq!(
        result["expensive"][0]["context"]["locations"][0]["item_name"],
        "r"
    );
    assert!(!report.has_errors());
}

#[test]
fn what_conditions_take_together_is_bounded() {
    let many = |text: &str, rules: usize| {
        let mut all = text.to_owned();
        for index in 0..rules {
            all += &rule("evt.type = open and m").replace("rule: r", &format!("rule: r{index}"));
        }
        all
    };
    // A large list that many rules name.
    let items: Vec<_> = (0..50_000).map(|index| format!("item{index}")).collect();
    let list = format!("- list: l\n  items: [{}]\n", items.join(", "));
    let text = many(
        &format!("{list}- macro: m\n  condition: proc.name in (l)\n"),
        400,
    );
    assert_eq!(errors(&load(&text)), [Code::TooLarge]);
    // A large macro that one condition names often: it is not copied before it is refused.
    let tests = vec!["fd.name != x"; 100_000].join(" and ");
    let uses = vec!["m"; 100_000].join(" or ");
    let text = format!("- macro: m\n  condition: {tests}\n{}", rule(&uses));
    assert_eq!(errors(&load(&text)), [Code::TooLarge]);
}

#[test]
fn many_diagnostics_stay_few_and_never_hide_an_error() {
    // Warnings, and one error behind all of them.
    let mut text = String::new();
    for index in 0..1_500 {
        writeln!(text, "- list: l{index}\n  items: []").unwrap();
    }
    text += &rule("evt.type = open and proc.nme = x");
    let report = load(&text);
    assert_eq!(errors(&report), [Code::UnknownField]);
    assert_eq!(report.diagnostics.len(), 1_000);
    // Errors without end, in rules and in one condition.
    let wrong = rule("evt.type = open and proc.nme = x");
    assert_eq!(load(&wrong.repeat(3_000)).diagnostics.len(), 1);
    let many: String = (0..3_000)
        .map(|index| wrong.replace("rule: r", &format!("rule: r{index}")))
        .collect();
    assert_eq!(load(&many).diagnostics.len(), 1_000);
    let long = rule(&vec!["proc.nme = x"; 3_000].join(" or "));
    let report = load(&long);
    assert_eq!(report.diagnostics.len(), 100);
    assert!(report.render(false).contains("rules.yaml:6:5"));
}
