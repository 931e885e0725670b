//! What a guest said on its second serial port: parsed, judged, and laid out as the table of kernels.

use std::fmt::Write as _;

use serde::Deserialize;

/// Everything a guest reported.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The kernel's full release; empty where the guest did not get that far.
    pub kernel: String,
    /// How each event kind is supplied there.
    pub hooks: Vec<Hook>,
    /// How many tests passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: Vec<Failure>,
    /// Tests that did not run, each with its reason.
    pub skipped: Vec<String>,
    /// Each program that ended, with its exit status.
    pub ended: Vec<(String, i32)>,
}

/// A test that failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// Its name.
    pub name: String,
    /// The first lines of what it said, at most [`SAID_MAX`].
    pub said: Vec<String>,
}

/// So many lines of what a failing test says are shown; all of it is in the guest's folder.
const SAID_MAX: usize = 30;

/// A row of `saker doctor --json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Hook {
    /// The event kind.
    pub kind: String,
    /// The hook in use, if any.
    pub hook: Option<String>,
    /// Those that were preferred to it and refused.
    #[serde(default)]
    pub refused: Vec<Refusal>,
    /// It is about something that the machine does not have, as guests have no GPU.
    #[serde(default)]
    pub is_absent: bool,
}

/// A hook that could not be attached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    /// The hook.
    pub hook: String,
    /// Why, in one line.
    pub reason: String,
}

/// Reads what the second serial port carried. Whatever is not understood is left out, and so missed by `problems`.
pub fn parse(text: &str) -> Report {
    let mut report = Report::default();
    let mut suite = "";
    let mut doctor = String::new();
    let mut is_said = false;
    for line in text.lines().map(|line| line.trim_end_matches('\r')) {
        if let Some(release) = line.strip_prefix("@kernel ") {
            release.clone_into(&mut report.kernel);
        } else if let Some(name) = line.strip_prefix("@suite ") {
            suite = name;
        } else if let Some((name, status)) = line
            .strip_prefix("@ended ")
            .and_then(|ended| ended.split_once(' '))
        {
            report
                .ended
                .push((name.to_owned(), status.parse().unwrap_or(-1)));
            suite = "";
        } else {
            match suite {
                "" => {}
                "doctor" => doctor.push_str(line),
                "skips" => report.skipped.push(line.to_owned()),
                _ => test_line(line, &mut report, &mut is_said),
            }
        }
    }
    // Rows without the key are about something else: privileges.
    let mut rows: Vec<serde_json::Value> = serde_json::from_str(&doctor).unwrap_or_default();
    rows.retain(|row| row.get("hook").is_some());
    report.hooks = serde_json::from_value(rows.into()).unwrap_or_default();
    report.hooks.retain(|hook| !hook.is_absent);
    report
}

/// Takes a line of a test program in; `is_said`: it belongs to what the last test that failed said.
fn test_line(line: &str, report: &mut Report, is_said: &mut bool) {
    // Not from the line with the verdict: what a test's own child writes can tear that apart.
    if let Some(name) = line
        .strip_prefix("---- ")
        .and_then(|rest| rest.strip_suffix(" stdout ----"))
    {
        *is_said = true;
        report.failed.push(Failure {
            name: name.to_owned(),
            said: Vec::new(),
        });
    } else if line == "failures:" {
        *is_said = false;
    } else if let Some(passed) = line
        .strip_prefix("test result: ")
        .and_then(|rest| rest.split_once(". ")?.1.split_once(" passed;"))
        .and_then(|(passed, _)| passed.parse::<usize>().ok())
    {
        *is_said = false;
        report.passed += passed;
    } else if let Some(failure) = report.failed.last_mut().filter(|_| *is_said)
        && !line.is_empty()
        && failure.said.len() < SAID_MAX
    {
        failure.said.push(line.to_owned());
    }
}

/// What is wrong with a guest's report; nothing when every suite ran and passed and every event kind has a hook.
pub fn problems(report: &Report, suites: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    for suite in suites {
        match report.ended.iter().find(|(name, _)| name == suite) {
            Some((_, 0)) => {}
            Some((_, status)) => wrong.push(format!("{suite} ended with {status}")),
            None => wrong.push(format!("{suite} did not end")),
        }
    }
    for Failure { name, said } in &report.failed {
        let lines = said.iter().map(|line| format!("\n      {line}"));
        wrong.push(format!("{name} failed{}", lines.collect::<String>()));
    }
    if report.passed == 0 {
        wrong.push("no test passed".to_owned());
    }
    if report.hooks.is_empty() {
        wrong.push("the doctor said nothing of hooks".to_owned());
    }
    for hook in report.hooks.iter().filter(|hook| hook.hook.is_none()) {
        let why: Vec<_> = hook
            .refused
            .iter()
            .map(|refusal| format!("{}: {}", refusal.hook, refusal.reason))
            .collect();
        wrong.push(format!("{} has no hook ({})", hook.kind, why.join("; ")));
    }
    wrong
}

/// The table: a row an event kind, a column a kernel, in each place the hook used.
pub fn table(guests: &[(&str, Report)]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for hook in guests.iter().flat_map(|(_, report)| &report.hooks) {
        if !kinds.contains(&hook.kind.as_str()) {
            kinds.push(&hook.kind);
        }
    }
    let mut rows = vec![row("event kind", guests, |series, _| series.to_owned())];
    for kind in kinds {
        rows.push(row(kind, guests, |_, report| {
            report
                .hooks
                .iter()
                .find(|hook| hook.kind == kind)
                .map_or("-", |hook| hook.hook.as_deref().unwrap_or("none"))
                .to_owned()
        }));
    }
    rows.push(row("tests", guests, |_, report| {
        let mut cell = format!("{} passed", report.passed);
        for (count, what) in [
            (report.failed.len(), "failed"),
            (report.skipped.len(), "skipped"),
        ] {
            if count > 0 {
                let _ = write!(cell, ", {count} {what}");
            }
        }
        cell
    }));
    rows.push(row("release", guests, |_, report| report.kernel.clone()));
    aligned(&rows)
}

fn row(
    head: &str,
    guests: &[(&str, Report)],
    cell: impl Fn(&str, &Report) -> String,
) -> Vec<String> {
    let cells = guests.iter().map(|(series, report)| cell(series, report));
    std::iter::once(head.to_owned()).chain(cells).collect()
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(String::len).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "@kernel 6.1.0-50-cloud-amd64\r
@suite doctor
[{\"kind\":\"exec\",\"wanted\":true,\"hook\":\"raw_tp/exec\",\"refused\":[]},
 {\"kind\":\"open\",\"hook\":\"syscalls\",\"refused\":[{\"hook\":\"fentry\",\"reason\":\"no\",\"verifier_log\":null}]},
 {\"kind\":\"gpu\",\"hook\":null,\"problem\":\"no library\",\"is_absent\":true,\"gpus\":[]},
 {\"kind\":\"privileges\",\"kept\":[\"CAP_BPF\"],\"given_up\":35,\"missing\":[]}]
@ended doctor 0
@suite kernel
running 2 tests
test a ... ok
test b ... ok

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; finished in 3.35s
@ended kernel 0
@suite skips
c: no python3
@ended skips 0
";

    #[test]
    fn a_good_report_has_no_problems() {
        let report = parse(GOOD);
        assert_eq!(report.kernel, "6.1.0-50-cloud-amd64");
        assert_eq!((report.passed, report.hooks.len()), (2, 2));
        assert_eq!(report.skipped, ["c: no python3"]);
        assert_eq!(
            problems(&report, &["doctor", "kernel"]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn whatever_goes_wrong_is_a_problem() {
        let check = |from: &str, to: &str, expected: &[&str]| {
            assert!(GOOD.contains(from), "{from}");
            let report = parse(&GOOD.replace(from, to));
            assert_eq!(
                problems(&report, &["doctor", "kernel"]),
                expected,
                "{from} → {to}"
            );
        };
        check(
            "test b ... ok",
            "test b ... torn\nFAILED\n\nfailures:\n\n---- b stdout ----\n\nthread 'b' panicked:\nwhy\n\nfailures:\n    b\n",
            &["b failed\n      thread 'b' panicked:\n      why"],
        );
        let long = format!(
            "test b ... FAILED\n---- b stdout ----\n{}",
            "x\n".repeat(100)
        );
        let report = parse(&GOOD.replace("test b ... ok", &long));
        assert_eq!(report.failed[0].said.len(), SAID_MAX);
        check(
            "@ended kernel 0",
            "@ended kernel 101",
            &["kernel ended with 101"],
        );
        check("@ended kernel 0", "", &["kernel did not end"]);
        check("2 passed", "0 passed", &["no test passed"]);
        check(
            "@ended doctor 0",
            "@ended doctor x",
            &["doctor ended with -1"],
        );
        check(
            "[{\"kind\"",
            "[\"kind\"",
            &["the doctor said nothing of hooks"],
        );
        check(
            "\"hook\":\"syscalls\"",
            "\"hook\":null",
            &["open has no hook (fentry: no)"],
        );
        let nothing = problems(&parse(""), &["doctor", "kernel"]);
        assert_eq!(
            nothing,
            [
                "doctor did not end",
                "kernel did not end",
                "no test passed",
                "the doctor said nothing of hooks"
            ]
        );
    }

    #[test]
    fn the_table_has_a_row_a_kind_and_a_column_a_kernel() {
        let guests = [("6.1", parse(GOOD)), ("5.10", Report::default())];
        assert_eq!(
            table(&guests),
            "\
event kind  6.1                   5.10
exec        raw_tp/exec           -
open        syscalls              -
tests       2 passed, 1 skipped   0 passed
release     6.1.0-50-cloud-amd64
"
        );
        assert_eq!(table(&[]), "event kind\ntests\nrelease\n");
    }
}
