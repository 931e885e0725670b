//! Falco's own cases: what its parser, compiler, operators, transformers and rule loader accept and mean.
//!
//! The cases lie outside the repository; a machine without them reports a skip. What is decided differently
//! is listed in `EXEMPT`, and explained in `docs/falco-compatibility.md`.

mod falco;
mod support;

use falco::{cases, falco_folder};
use saker_rules::{
    ast,
    diagnostic::Severity,
    json_event::JsonEvent,
    loader::{self, ExtraOutput, LoadOptions, LoadReport, SourceFile},
    parser,
};
use serde_json::{Value, json};
use support::{EVALUATORS, Evaluate};

/// Cases that are not to agree, by test and text, and why.
const EXEMPT: &[(&str, &str, &str)] = &[
    (
        "sinsp_with_test_input.filter_cache_corner_cases",
        "sample.",
        "a plugin's field",
    ),
    (
        "sinsp_with_test_input.filter_cache_unary_check_plugin_ptr_instability",
        "sample.",
        "a plugin's field",
    ),
    (
        "sinsp_with_test_input.plugin_syscall_extract",
        "sample.",
        "a plugin's field",
    ),
];

fn is_exempt(case: &Value) -> bool {
    let (test, filter) = (
        case["test"].as_str().unwrap(),
        case["filter"].as_str().unwrap_or(""),
    );
    EXEMPT
        .iter()
        .any(|(of, text, _)| *of == test && filter.contains(text))
}

#[test]
fn every_exemption_exempts_a_case() {
    let Some(all) = cases("eval_cases.json") else {
        return;
    };
    for (test, text, _) in EXEMPT {
        let used = all
            .iter()
            .any(|case| case["test"] == *test && case["filter"].as_str().unwrap().contains(text));
        assert!(used, "no case of {test} contains {text}");
    }
}

#[test]
fn the_grammar_accepts_and_rejects_what_falcos_does() {
    let Some(all) = cases("parser_cases.json") else {
        return;
    };
    let mut wrong = Vec::new();
    for case in &all {
        let filter = match case["filter"].as_str() {
            Some(filter) => filter.to_owned(),
            None => {
                let repeat = &case["filter_repeat"];
                repeat[0]
                    .as_str()
                    .unwrap()
                    .repeat(repeat[1].as_u64().unwrap() as usize)
            }
        };
        let mut forms = vec![filter.clone()];
        if case["also_with_ws"] == true {
            forms.push(format!("   {filter}   "));
            forms.push(format!("\t\n {filter} \n\t"));
            forms.push(filter.replace(' ', "\n\t "));
        }
        // A blank inside quotes is not a blank between tokens.
        if filter.contains(['"', '\'']) {
            forms.truncate(3);
        }
        for form in forms {
            let parsed = parser::parse(&form);
            if parsed.is_ok() != (case["expect"] == "accept") {
                wrong.push(format!("{form:?}: {:?}", parsed.map(|_| ())));
            } else if let (Some(message), Err(error)) = (case["error"].as_str(), &parsed)
                && !error.message.contains(message)
            {
                wrong.push(format!("{filter:.40?}: {error} instead of {message}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} disagree:\n{}",
        wrong.len(),
        all.len(),
        wrong.join("\n")
    );
}

#[test]
fn printing_a_condition_and_parsing_it_again_changes_nothing() {
    let Some(all) = cases("parser_cases.json") else {
        return;
    };
    let mut printed_conditions = 0;
    for case in all.iter().filter(|case| case["expect"] == "accept") {
        let filter = case["filter"].as_str().unwrap();
        let printed = parser::parse(filter).unwrap().to_string();
        // Falco's form leaves these bare in a value, where the grammar does not read them back.
        if has_quoted(filter, &['(', ')', '=', ',']) {
            continue;
        }
        printed_conditions += 1;
        let again = parser::parse(&printed).unwrap_or_else(|error| panic!("{printed}: {error}"));
        // Two negations are read as none.
        assert_eq!(again.to_string(), printed.replace("not not ", ""));
    }
    assert!(printed_conditions > 100, "{printed_conditions}");
}

/// Whether one of these characters stands inside quotes.
fn has_quoted(filter: &str, wanted: &[char]) -> bool {
    let mut quote = None;
    filter.chars().any(|c| {
        match quote {
            None if matches!(c, '"' | '\'') => quote = Some(c),
            Some(open) if open == c => quote = None,
            _ => {}
        }
        quote.is_some() && wanted.contains(&c)
    })
}

#[test]
fn escapes_are_falcos() {
    let Some(all) = cases("escaping_cases.json") else {
        return;
    };
    for case in &all {
        // The cases write bytes as Latin-1.
        let latin1 = |text: &str| -> Vec<u8> { text.chars().map(|c| c as u8).collect() };
        let value_of = |quoted: &str| -> Option<Vec<u8>> {
            match parser::parse(&format!("a.b = {quoted}")).ok()? {
                ast::Expr::Test(test) => match test.rhs {
                    ast::Rhs::Value(value) => Some(value.bytes),
                    _ => None,
                },
                _ => None,
            }
        };
        let input = case["input"].as_str().unwrap();
        let expect = case["expect"].as_str();
        match case["op"].as_str().unwrap() {
            "escape" => assert_eq!(Some(ast::escape(input.as_bytes()).as_str()), expect),
            "unescape" if expect == Some("reject") => assert_eq!(value_of(input), None, "{input}"),
            "unescape" => assert_eq!(value_of(input), expect.map(latin1), "{input}"),
            "roundtrip" => {
                let bytes = latin1(input);
                let escaped = ast::escape(&bytes);
                assert_eq!(value_of(&escaped), Some(bytes), "{escaped}");
            }
            other => panic!("unknown operation {other}"),
        }
    }
}

/// Falco's mock fields, as fields of the table with fitting types and values.
fn unmock(filter: &str) -> String {
    filter
        .replace("c.true=1", "evt.count=1")
        .replace("c.false=1", "evt.buflen=1")
        .replace("c.true", "proc.name")
        .replace("c.buffer", "evt.buffer")
        .replace("c.singlequote", "proc.exe")
        .replace("c.doublequote", "proc.pexe")
}

#[test]
fn the_compiler_accepts_rejects_and_warns_as_falcos_does() {
    let Some(all) = cases("compiler_cases.json") else {
        return;
    };
    let event = JsonEvent::parse(
        &json!({
            "evt.count": 1,
            "evt.buflen": 0,
            "proc.exe": "hello 'quoted'",
            "proc.pexe": "hello \"quoted\"",
        })
        .to_string(),
    )
    .unwrap();
    let mut wrong = Vec::new();
    for case in &all {
        let filter = unmock(case["filter"].as_str().unwrap());
        let (expr, diagnostics) = loader::check_condition_with_warnings(&filter);
        match case["op"].as_str().unwrap() {
            "run" => {
                let expr = expr.unwrap_or_else(|| panic!("{filter}: {diagnostics:?}"));
                for (name, evaluate) in EVALUATORS {
                    if json!(evaluate(&expr, &event)) != case["expect"] {
                        wrong.push(format!("{name}: {filter}"));
                    }
                }
            }
            _ => {
                if expr.is_some() != (case["expect"] == "accept") {
                    wrong.push(format!("{filter}: {diagnostics:?}"));
                }
                let warnings = diagnostics
                    .iter()
                    .filter(|diagnostic| diagnostic.severity == Severity::Warning)
                    .count();
                if case["warnings"]
                    .as_u64()
                    .is_some_and(|wanted| case["expect"] == "accept" && wanted as usize != warnings)
                {
                    wrong.push(format!("{filter}: {warnings} warnings"));
                }
                if let Some(message) = case["error"].as_str()
                    && !diagnostics
                        .iter()
                        .any(|diagnostic| diagnostic.message.contains(message))
                {
                    wrong.push(format!("{filter}: {diagnostics:?} instead of {message}"));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} disagree:\n{}",
        wrong.len(),
        all.len(),
        wrong.join("\n")
    );
}

/// The event of a test that builds one in code. Falco's test inputs differ from case to case where one
/// text is true and false in turn, which `part` tells apart.
fn built_event(case: &Value) -> Value {
    let filter = case["filter"].as_str().unwrap();
    let test = case["test"].as_str().unwrap().rsplit('.').next().unwrap();
    match test {
        "signed_int_compare" if filter.contains("evt.cpu") => json!({"evt.cpu": 1}),
        "signed_int_compare" => json!({"evt.cpu": 1, "evt.rawarg.res": -22, "fd.num": -22}),
        "basename_transformer" => {
            let path = if filter.contains("file_to_run") {
                "/tmp/file_to_run"
            } else {
                "/tmp/.."
            };
            json!({"fd.name": path})
        }
        "len_transformer" if filter.contains("= 1") => json!({"fd.types": ["file"]}),
        "len_transformer" => json!({"fd.types": ["file", "ipv4"]}),
        "fd_fields_invalid_utf8_match" => json!({
            "fd.name": "/p\u{1}/q\u{1}", "fd.directory": "/p\u{1}", "fs.path.name": "/p\u{1}/q\u{1}",
            "evt.arg.name": "/p\u{1}/q\u{1}",
        }),
        "proc_fields_invalid_utf8_match" => {
            json!({"proc.name": "ab\u{1}", "proc.exe": "/bin/ab\u{1}"})
        }
        "fspath_fields_invalid_utf8_match" => {
            json!({"fs.path.source": "/tmp/a\u{1}", "fs.path.target": "/tmp/b\u{1}"})
        }
        "evt_abspath_invalid_utf8_match" => json!({"evt.abspath": "/tmp/a\u{1}"}),
        "proc_cwd_invalid_utf8_match" => json!({"proc.cwd": "/tmp/\u{1}/"}),
        "PROC_FILTER_aname" => json!({"proc.pname": "bash", "proc.aname[2]": "init"}),
        "EVT_FILTER_rawarg_madness" => json!({
            "evt.rawarg.flags": 1, "evt.rawarg.size": 1, "evt.rawarg.uid": 0, "evt.rawarg.pgid": 0,
            "evt.rawarg.gid": 0,
        }),
        _ => json!({
            "evt.type": "getcwd", "syscall.type": "getcwd", "evt.source": "syscall",
            "evt.args": "res=1 path=/", "fd.name": "/tmp/file_to_run", "fd.directory": "/tmp",
        }),
    }
}

#[test]
fn conditions_mean_what_they_mean_in_falco() {
    let Some(all) = cases("eval_cases.json") else {
        return;
    };
    let mut wrong = Vec::new();
    for case in all.iter().filter(|case| !is_exempt(case)) {
        let filter = case["filter"].as_str().unwrap();
        let checked = loader::check_condition(filter);
        if case["expect"] == "reject" || checked.is_err() {
            if (case["expect"] == "reject") != checked.is_err() {
                wrong.push(format!("{filter}: {checked:?}"));
            }
            continue;
        }
        let fields = match &case["event_fields"] {
            Value::Null => built_event(case),
            fields => fields.clone(),
        };
        // U+0001 stands for the byte 0xFF, which serde_json cannot write.
        let line = fields.to_string().replace("\\u0001", "\\udcff");
        let event = JsonEvent::parse(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        for (name, evaluate) in EVALUATORS {
            if json!(evaluate(checked.as_ref().unwrap(), &event)) != case["expect"] {
                wrong.push(format!("{name}: {filter} on {line}, {}", case["test"]));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} disagree:\n{}",
        wrong.len(),
        all.len(),
        wrong.join("\n")
    );
}

#[test]
fn filters_match_the_recorded_events_that_they_match_in_falco() {
    let Some(folder) = falco_folder() else { return };
    let text = std::fs::read_to_string(folder.join("conformance/oracle_sample.json")).unwrap();
    let sample: Value = serde_json::from_str(&text).unwrap();
    let events: Vec<_> = sample["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| JsonEvent::parse(&event.to_string()).unwrap())
        .collect();
    let mut wrong = Vec::new();
    for case in sample["cases"].as_array().unwrap() {
        let filter = case["filter"].as_str().unwrap();
        let expr = match loader::check_condition(filter) {
            Ok(expr) => expr,
            Err(diagnostics) => {
                wrong.push(format!("{filter}: {diagnostics:?}"));
                continue;
            }
        };
        for (name, evaluate) in EVALUATORS {
            let matched: Vec<_> = (0..events.len())
                .filter(|&index| evaluate(&expr, &events[index]))
                .collect();
            if json!(matched) != case["match"] {
                wrong.push(format!(
                    "{name}: {filter}: {matched:?} instead of {}",
                    case["match"]
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} disagree:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn rules_files_load_as_falco_loads_them() {
    let Some(all) = cases("rule_loader_cases.json") else {
        return;
    };
    let mut wrong = Vec::new();
    for case in &all {
        let mut options = LoadOptions::default();
        for call in case["engine_setup"].as_array().into_iter().flatten() {
            assert_eq!(call[0], "add_extra_output_format");
            options.extra_outputs.push(ExtraOutput {
                format: call[1].as_str().unwrap().to_owned(),
                source: call[2].as_str().unwrap().to_owned(),
                tags: Vec::new(),
                rule: call[4].as_str().unwrap().to_owned(),
            });
        }
        let file = SourceFile::new("rules.yaml", case["rules_yaml"].as_str().unwrap());
        let report = loader::load(&[file], &options);
        let mut complain = |what: String| {
            wrong.push(format!(
                "{}: {what}\n{}",
                case["test"],
                report.render(false)
            ));
        };
        if report.has_errors() == (case["load_ok"] == true) {
            complain(format!("loaded: {}", !report.has_errors()));
            continue;
        }
        let messages = |severity: Severity| -> Vec<&str> {
            report
                .diagnostics
                .iter()
                .filter(|diagnostic| diagnostic.severity == severity)
                .map(|diagnostic| diagnostic.message.as_str())
                .collect()
        };
        let texts = |key: &str| -> Vec<&str> {
            case[key]
                .as_array()
                .unwrap()
                .iter()
                .map(|text| text.as_str().unwrap())
                .collect()
        };
        for wanted in texts("errors_contain") {
            if !messages(Severity::Error)
                .iter()
                .any(|message| message.contains(wanted))
            {
                complain(format!("no error {wanted:?}"));
            }
        }
        for wanted in texts("warnings_contain") {
            if !messages(Severity::Warning)
                .iter()
                .any(|message| message.contains(wanted))
            {
                complain(format!("no warning {wanted:?}"));
            }
        }
        for unwanted in texts("warnings_absent") {
            if messages(Severity::Warning)
                .iter()
                .any(|message| message.contains(unwanted))
            {
                complain(format!("warning {unwanted:?}"));
            }
        }
        if let Some(has_warnings) = case["has_warnings"].as_bool()
            && has_warnings == messages(Severity::Warning).is_empty()
        {
            complain(format!("has warnings: {}", !has_warnings));
        }
        for assert in case["asserts"].as_array().unwrap() {
            if let Some(difference) = check_assertion(&report, assert) {
                complain(difference);
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} disagree:\n{}",
        wrong.len(),
        all.len(),
        wrong.join("\n")
    );
}

/// How a report differs from what a case asserts of it.
fn check_assertion(report: &LoadReport, assert: &Value) -> Option<String> {
    let differs = |found: Value, wanted: &Value| {
        (found != *wanted).then(|| format!("{assert}: found {found}"))
    };
    let rule = |name: &Value| report.rules.iter().find(|rule| *name == rule.name);
    if let Some(pair) = assert["compiled_rule_condition"].as_array() {
        return differs(
            json!(rule(&pair[0]).map(|rule| &rule.compiled_condition)),
            &pair[1],
        );
    }
    if let Some(pair) = assert["compiled_rule_output"].as_array() {
        return differs(
            json!(rule(&pair[0]).map(|rule| &rule.compiled_output)),
            &pair[1],
        );
    }
    if !assert["enabled_rule_count"].is_null() {
        let enabled = report
            .ruleset
            .rules
            .iter()
            .filter(|rule| rule.enabled)
            .count();
        return differs(json!(enabled), &assert["enabled_rule_count"]);
    }
    let path: Vec<_> = assert["describe"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key.as_str().unwrap())
        .collect();
    let description = json!({
        "rules": report.ruleset.rules.iter().zip(&report.rules).map(|(rule, text)| json!({"info": {
            "condition": rule.condition_text,
            "output": text.compiled_output,
            "description": rule.desc,
            "priority": rule.priority.name(),
            "capture_duration": text.capture_duration_ms,
        }})).collect::<Vec<_>>(),
        "macros": report.macros,
        "lists": report.lists.iter().map(|list| json!({"details": {
            "lists": [],
            "items_compiled": list.items,
        }})).collect::<Vec<_>>(),
    });
    let mut found = &description;
    for key in path {
        found = match key.parse::<usize>() {
            Ok(index) => &found[index],
            Err(_) => &found[key],
        };
    }
    // A number of elements, where an array is compared with a number.
    let found = match (found, &assert["equals"]) {
        (Value::Array(items), Value::Number(_)) => json!(items.len()),
        (found, _) => found.clone(),
    };
    differs(found, &assert["equals"])
}

#[test]
fn falcos_rules_and_the_seeds_load_without_error() {
    let Some(folder) = falco_folder() else { return };
    let read = |name: &str| {
        let path = folder.join(name);
        SourceFile::new(name, std::fs::read_to_string(path).unwrap())
    };
    let check = |names: &[&str], with_prelude: bool, expected: usize| {
        let mut files = Vec::new();
        if with_prelude {
            files.push(SourceFile::library(
                "prelude.yaml",
                saker_rules::prelude::PRELUDE,
            ));
        }
        files.extend(names.iter().map(|name| read(name)));
        let report = loader::load(&files, &LoadOptions::default());
        assert!(!report.has_errors(), "{}", report.render(false));
        assert_eq!(report.ruleset.rules.len(), expected, "{names:?}");
    };
    let falco = [
        "rules/falco_rules.yaml",
        "rules/falco-incubating_rules.yaml",
        "rules/falco-sandbox_rules.yaml",
    ];
    check(&falco, false, 93);
    check(&falco, true, 93);
    check(&falco[..1], false, 25);
    check(&["../seed-falco-ml-rules.yaml"], true, 3);
}

/// The type that [`support`] gives evaluators; named here so that a change of it fails to compile here.
const _: &[(&str, Evaluate)] = EVALUATORS;
