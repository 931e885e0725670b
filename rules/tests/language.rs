//! Conditions, recorded events and outputs beyond Falco's cases, on the reference evaluator and the engine.

mod support;

use saker_rules::{json_event::JsonEvent, loader, template::Template};
use support::EVALUATORS;

fn event(line: &str) -> JsonEvent {
    JsonEvent::parse(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[test]
fn conditions_hold_or_fail() {
    let check = |condition: &str, line: &str, expected: bool| {
        let expr = loader::check_condition(condition)
            .unwrap_or_else(|diagnostics| panic!("{condition}: {diagnostics:?}"));
        for (name, evaluate) in EVALUATORS {
            assert_eq!(
                evaluate(&expr, &event(line)),
                expected,
                "{name}: {condition} on {line}"
            );
        }
    };
    // An absent field fails every comparison; `not` of it holds.
    check("proc.name = a", "{}", false);
    check("proc.name != a", r#"{"proc.name": null}"#, false);
    check("not proc.name = a", "{}", true);
    check("not proc.name != a", "{}", true);
    check("proc.name exists", "{}", false);
    check("proc.name exists", r#"{"proc.name": ""}"#, true);
    check("proc.name in ()", r#"{"proc.name": "a"}"#, false);
    check(
        "proc.name = val(proc.pname)",
        r#"{"proc.name": "a", "proc.pname": "a"}"#,
        true,
    );
    check(
        "proc.name != val(proc.pname)",
        r#"{"proc.name": "a"}"#,
        false,
    );
    // Strings.
    check("proc.name < 2", r#"{"proc.name": "1x"}"#, true);
    check("proc.name contains ''", r#"{"proc.name": "a"}"#, true);
    check(
        "proc.name startswith \"a b\"",
        r#"{"proc.name": "a bc"}"#,
        true,
    );
    check(
        "fd.name pmatch (/etc, /var/log)",
        r#"{"fd.name": "/var/log/x"}"#,
        true,
    );
    check(
        "fd.name pmatch (/etc, /var/log)",
        r#"{"fd.name": "/var/logs"}"#,
        false,
    );
    check(
        "fd.name glob /etc/*.conf",
        r#"{"fd.name": "/etc/a/b.conf"}"#,
        true,
    );
    check("fd.name iglob /ETC/?", r#"{"fd.name": "/etc/x"}"#, true);
    // Several values of one field.
    let ancestors = r#"{"proc.name": "sh", "proc.pname": "bash", "proc.aname[2]": "sshd"}"#;
    check("proc.aname = sshd", ancestors, true);
    check("proc.aname = sh", ancestors, false);
    check("proc.aname[1] = bash", ancestors, true);
    check("proc.aname[0] = sh", ancestors, true);
    check("proc.aname != bash", ancestors, true);
    check("proc.aname in (x, sshd)", ancestors, true);
    check("proc.aname[5] != x", ancestors, false);
    // Either end of a connection.
    let ends = r#"{"fd.cip": "10.0.0.1", "fd.sip": "1.2.3.4", "fd.cport": 40000, "fd.sport": 443}"#;
    check("fd.ip = 10.0.0.1", ends, true);
    check("fd.ip != 10.0.0.1", ends, false);
    check("fd.ip != 10.0.0.2", ends, true);
    check("fd.port = https", ends, true);
    check("fd.port != 443", ends, false);
    check("fd.port > 500", ends, true);
    check("fd.snet in (\"1.0.0.0/8\", \"fe80::/10\")", ends, true);
    check("fd.net != 10.0.0.0/8", ends, false);
    check("fd.snet = 0.0.0.0/0", ends, true);
    check("fd.sip = 1.2.3.4", r#"{"fd.sip": "::ffff:1.2.3.4"}"#, false);
    // Lists.
    let types = r#"{"fd.types": ["file", "ipv4"]}"#;
    check("fd.types in (file, ipv4, pipe)", types, true);
    check("fd.types in (file)", types, false);
    check("fd.types intersects (file)", types, true);
    check("toupper(fd.types) intersects (FILE)", types, true);
    check(
        "proc.lineage intersects (7)",
        r#"{"proc.lineage": [9, 7, 1]}"#,
        true,
    );
    // Numbers.
    check("user.uid = -1", r#"{"user.uid": 4294967295}"#, true);
    check("user.loginuid = -1", r#"{"user.loginuid": -1}"#, true);
    check("evt.rawres < 0", r#"{"evt.rawres": "-2"}"#, true);
    check(
        "proc.duration >= 5000000000",
        r#"{"proc.duration": 5000000000}"#,
        true,
    );
    check("thread.cpu > 1.5", r#"{"thread.cpu": 1.6}"#, true);
    check("evt.rawarg.res = -1", r#"{"evt.rawarg.res": -1}"#, true);
    // The argument has a sign in one of the events that have it.
    check("evt.rawarg.size < -20", r#"{"evt.rawarg.size": -22}"#, true);
    check("evt.rawarg.size < 515", r#"{"evt.rawarg.size": 512}"#, true);
    check("evt.rawarg.max < 0", r#"{"evt.rawarg.max": -1}"#, true);
    check(
        "evt.rawarg.uargs glob a*",
        r#"{"evt.rawarg.uargs": "ab"}"#,
        true,
    );
    check(
        "evt.rawarg.args bcontains 62",
        r#"{"evt.rawarg.args": "ab"}"#,
        true,
    );
    check("evt.rawarg.fdin > 2", r#"{"evt.rawarg.fdin": 3}"#, true);
    // Names of events that are not those of system calls.
    check("evt.type = pread", r#"{"evt.type": "pread"}"#, true);
    check(
        "evt.type in (useradded, llseek)",
        r#"{"evt.type": "llseek"}"#,
        true,
    );
    // What the kernel returned, as the unsigned number of the same bits.
    check(
        "evt.rawres = -2",
        r#"{"evt.rawres": 18446744073709551614}"#,
        true,
    );
    check(
        "evt.num = 18446744073709551615",
        r#"{"evt.num": 18446744073709551615}"#,
        true,
    );
    // Numbers as other tools write them, and lists of one.
    check("proc.pid = 7", r#"{"proc.pid": "7"}"#, true);
    check("proc.pid = 1000", r#"{"proc.pid": 1e3}"#, true);
    check("evt.num = 7", r#"{"evt.num": 7.0}"#, true);
    check("evt.failed = true", r#"{"evt.failed": 1}"#, true);
    check("proc.name = a", r#"{"proc.name": ["a"]}"#, true);
    check("proc.name exists", r#"{"proc.name": []}"#, false);
    check(
        "k8s.rs.label.app = a",
        r#"{"k8s.rs.label[app]": "a"}"#,
        true,
    );
    check("evt.rawarg.flags = 5", r#"{"evt.rawarg[flags]": 5}"#, true);
    check(
        "evt.arg[flags] contains CREAT",
        r#"{"evt.arg.flags": "O_CREAT"}"#,
        true,
    );
    // Buffers.
    check(
        "evt.buffer bcontains ff00",
        r#"{"evt.buffer": "a\udcff\u0000"}"#,
        true,
    );
    check("proc.name = \"\\xff\"", r#"{"proc.name": "\udcff"}"#, true);
    check("proc.name = é", r#"{"proc.name": "é"}"#, true);
    // Transformers.
    check("len(proc.name) = 3", r#"{"proc.name": "abc"}"#, true);
    check("basename(fd.name) = \"\"", r#"{"fd.name": "/tmp/"}"#, true);
    check(
        "b64(proc.args) contains pwn",
        r#"{"proc.args": "cHdu"}"#,
        true,
    );
    check("b64(proc.args) exists", r#"{"proc.args": "x"}"#, false);
    check(
        "join(\"-\", (proc.name, proc.pid)) = a-7",
        r#"{"proc.name": "a", "proc.pid": 7}"#,
        true,
    );
    check(
        "join(\"-\", (proc.name, proc.pid)) exists",
        r#"{"proc.name": "a"}"#,
        false,
    );
    check(
        "getopt(proc.args, \"e:l\")[e] = /bin/sh",
        r#"{"proc.args": "-l -e /bin/sh"}"#,
        true,
    );
}

#[test]
fn lines_that_are_no_events_are_refused() {
    let check = |line: &str, part: &str| {
        let error = JsonEvent::parse(line).unwrap_err().to_string();
        assert!(error.contains(part), "{line}: {error}");
    };
    check("", "not a JSON object");
    check("[]", "not a JSON object");
    check(
        r#"{"proc.nme": 1}"#,
        "unknown field 'proc.nme'; did you mean 'proc.name'?",
    );
    check(r#"{"proc.name[1]": "a"}"#, "unknown field");
    check(r#"{"proc.pid": "x"}"#, "'proc.pid' must be a whole number");
    check(r#"{"proc.pid": 7.5}"#, "'proc.pid' must be a whole number");
    check(
        r#"{"proc.pid": 18446744073709551616}"#,
        "'proc.pid' must be a whole number",
    );
    check(r#"{"evt.num": -2}"#, "'evt.num' must be a number that");
    check(r#"{"evt.failed": 2}"#, "'evt.failed' must be true or false");
    check(r#"{"fd.sip": "1.2.3"}"#, "'fd.sip' must be an IP address");
    check(r#"{"fd.sport": 70000}"#, "'fd.sport' must be a port number");
    check(
        r#"{"proc.name": ["a", "b"]}"#,
        "'proc.name' must be a single value",
    );
    check(
        r#"{"proc.name": [["a"]]}"#,
        "'proc.name' must be a single value",
    );
    check(r#"{"proc.name": {}}"#, "'proc.name' must be text");
}

#[test]
fn outputs_are_written_as_falco_writes_them() {
    let check = |output: &str, line: &str, text: &str, fields: &str| {
        let template =
            Template::parse(output).unwrap_or_else(|errors| panic!("{output}: {errors:?}"));
        let event = event(line);
        assert_eq!(template.render(&event), text, "{output}");
        let wanted: serde_json::Value = serde_json::from_str(fields).unwrap();
        assert_eq!(
            serde_json::Value::Object(template.output_fields(&event)),
            wanted,
            "{output}"
        );
    };
    check("plain", "{}", "plain", "{}");
    check("100%% sure", "{}", "100% sure", "{}");
    check(
        "*name=%proc.name.",
        r#"{"proc.name": "sh"}"#,
        "name=sh.",
        r#"{"proc.name": "sh"}"#,
    );
    check(
        "%proc.name%proc.pid",
        "{}",
        "<NA><NA>",
        r#"{"proc.name": null, "proc.pid": null}"#,
    );
    check(
        "%proc.aname[2] %evt.arg.flags, %evt.arg[flags]",
        r#"{"proc.aname[2]": "init", "evt.arg.flags": "RD"}"#,
        "init RD, RD",
        r#"{"proc.aname[2]": "init", "evt.arg.flags": "RD", "evt.arg[flags]": "RD"}"#,
    );
    check(
        "%toupper(proc.name) %join(\",\", (proc.name, proc.pid))",
        r#"{"proc.name": "sh", "proc.pid": 7}"#,
        "SH sh,7",
        r#"{"toupper(proc.name)": "SH", "join(\",\", (proc.name, proc.pid))": "sh,7"}"#,
    );
    check(
        "%evt.failed %fd.sport %fd.sip %fd.types %thread.cpu",
        r#"{"evt.failed": true, "fd.sport": 443, "fd.sip": "::1", "fd.types": ["a", "b"], "thread.cpu": 2}"#,
        "true 443 ::1 (a,b) 2.0",
        r#"{"evt.failed": true, "fd.sport": 443, "fd.sip": "::1", "fd.types": ["a", "b"], "thread.cpu": 2.0}"#,
    );
    check(
        "%evt.time",
        r#"{"evt.time": "10:00:00.000000001", "evt.rawtime": 36000000000001}"#,
        "10:00:00.000000001",
        r#"{"evt.time": 36000000000001}"#,
    );
    check(
        "%proc.name",
        r#"{"proc.name": "a\udcff"}"#,
        "a\u{fffd}",
        r#"{"proc.name": "a\ufffd"}"#,
    );
}

#[test]
fn outputs_that_cannot_be_printed_are_refused() {
    let check = |output: &str, part: &str| {
        let errors = Template::parse(output).unwrap_err();
        assert!(
            errors.iter().any(|error| error.message.contains(part)),
            "{output}: {errors:?}"
        );
    };
    check("100%", "expected a field");
    check("% x", "expected a field");
    check("%nosuch.field", "invalid formatting token nosuch.field");
    check("%proc.name %fd.net %nope", "filter only");
    check("%proc.name %fd.net %nope", "invalid formatting token nope");
    check("%toupper(proc.pid)", "not supported");
    check("%toupper(proc.name", "expected a ')' token");
    check("%evt.arg", "invalid formatting token evt.arg");
}
