//! What is replaced, and what is left alone.

use super::*;
use crate::alert::RuleInfo;
use saker_rules::ruleset::Priority;
use serde_json::{Map, json};

fn redactor(more: &[&str]) -> Redactor {
    let more: Vec<String> = more.iter().map(|text| (*text).to_owned()).collect();
    Redactor::new(&more, "***").expect("the patterns are good")
}

#[test]
fn credentials_are_replaced_and_nothing_else_of_the_text() {
    let redactor = redactor(&[]);
    let check = |text: &str, expected: &str| {
        let (redacted, count) = redactor.text(text);
        assert_eq!(redacted, expected, "{text}");
        assert_eq!(count > 0, text != expected, "{text}");
    };
    for (text, expected) in [
        (
            "mysql --password=hunter2 -h db",
            "mysql --password=*** -h db",
        ),
        ("tool --password hunter2 -v", "tool --password *** -v"),
        ("tool --db-password hunter2", "tool --db-password ***"),
        ("tool -token abc", "tool -token ***"),
        ("tool --api-key=abc123 x", "tool --api-key=*** x"),
        (
            "env HF_TOKEN=hf_abc python3 t.py",
            "env HF_TOKEN=*** python3 t.py",
        ),
        ("PGPASSWORD=x psql", "PGPASSWORD=*** psql"),
        (
            "AWS_SECRET_ACCESS_KEY=ab/cd+ef aws",
            "AWS_SECRET_ACCESS_KEY=*** aws",
        ),
        ("WANDB_API_KEY=0123abc", "WANDB_API_KEY=***"),
        ("DB_PWD=abc DB_PASS=abc", "DB_PWD=*** DB_PASS=***"),
        ("clientSecret=abc&user=ann", "clientSecret=***&user=ann"),
        (
            r#"curl -d {"password": "a b c", "user": "ann"}"#,
            r#"curl -d {"password": "***", "user": "ann"}"#,
        ),
        (
            "python3 -c login(password='a b')",
            "python3 -c login(password='***')",
        ),
        (
            "python3 -c login(token=abc, n=1)",
            "python3 -c login(token=***, n=1)",
        ),
        ("db_password: abcdef", "db_password: ***"),
        ("mysql -u ann -phunter2 shop", "mysql -u ann -p*** shop"),
        ("sshpass -p hunter2 ssh host", "sshpass -p *** ssh host"),
        (
            "docker login -u ann -p hunter2 reg",
            "docker login -u ann -p *** reg",
        ),
        ("curl -u ann:hunter2 https://x", "curl -u ann:*** https://x"),
        ("curl -s --user ann:hunter2 x", "curl -s --user ann:*** x"),
        (
            "redis-cli -h r -a hunter2 ping",
            "redis-cli -h r -a *** ping",
        ),
        ("7z x -phunter2 a.7z", "7z x -p*** a.7z"),
        (
            "openssl rsa -passin pass:hunter2",
            "openssl rsa -passin pass:***",
        ),
        (
            "psql postgres://ann:hunter2@db/x",
            "psql postgres://ann:***@db/x",
        ),
        (
            "git clone https://:tok@host/x",
            "git clone https://:***@host/x",
        ),
        (
            "curl -H Authorization: Bearer abcdefgh",
            "curl -H Authorization: Bearer ***",
        ),
        (
            "curl -H authorization: Basic YW5uOmh1bnRlcjI=",
            "curl -H authorization: Basic ***",
        ),
        ("curl -H X-Api-Key: abc", "curl -H X-Api-Key: ***"),
        ("x AKIAIOSFODNN7EXAMPLE y", "x *** y"),
        ("gh ghp_0123456789abcdefghijABCDEFGHIJ012345 x", "gh *** x"),
        ("x hf_abcdefghijklmnopqrstuvwxyz012345 y", "x *** y"),
        ("x sk-proj-abcdefghijklmnopqrstuvwxyz y", "x *** y"),
        ("x nvapi-abcdefghijklmnopqrstuvwxyz y", "x *** y"),
        ("x glpat-abcdefghijklmnopqrst y", "x *** y"),
        ("x xoxb-0123456789-abc y", "x *** y"),
        ("x eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_ y", "x *** y"),
    ] {
        check(text, expected);
    }
    let key = |end: &str| format!("echo -----BEGIN RSA {}-----\nMIIabc\n{end}", "PRIVATE KEY");
    check(
        &key(&format!("-----END RSA {}----- x", "PRIVATE KEY")),
        "echo *** x",
    );
    check(&key(""), "echo ***");
}

#[test]
fn ordinary_text_stays() {
    let redactor = redactor(&[]);
    for text in [
        "",
        "python3 train.py --max-tokens 4096 --max_new_tokens=5",
        "TOKENIZERS_PARALLELISM=false python3 -m vllm --tokenizer meta-llama/Llama --tokenizer=x",
        "PWD=/srv OLDPWD=/tmp",
        "ls -p /tmp",
        "mkdir -p /srv/a",
        "docker run -p 80:80 nginx",
        "cp -p a b",
        "mysql -p -u ann",
        "cat /run/secrets/db",
        "cat /etc/passwd",
        "passwd ann",
        "tool --password --verbose",
        "tool --password-file /run/x",
        "--secret-name=x",
        "curl https://host:8080/path@x",
        "ssh ann@host",
        "http://[::1]:80/",
        "git commit -m secret",
        "secretary=ann",
        "password=<NA>",
        "token_count=5",
        "sk-short",
        "hf_short",
        "the token was here",
        "eyJ.eyJ",
        "sha256:0123456789abcdef",
        "unzip -p a.zip",
        "BEGIN CERTIFICATE",
        "user=ann uid=0 command=python3 x",
        "key=value monkey=1 keyboard=us primary_key=id sort-key=name",
    ] {
        assert_eq!(redactor.text(text), (Cow::Borrowed(text), 0));
    }
}

#[test]
fn what_was_replaced_is_not_replaced_again() {
    let redactor = redactor(&[]);
    let (once, _) = redactor.text("curl -u a:bcdef --token=abc https://a:b@c");
    let (twice, count) = redactor.text(&once);
    assert_eq!((twice, count), (once.clone(), 0));
}

#[test]
fn configured_patterns_are_added() {
    let redactor = redactor(&[r"acme-\d{4}", r"pin (?P<secret>\d+)"]);
    let check = |text: &str, expected: &str| assert_eq!(redactor.text(text).0, expected);
    check("x acme-1234 y", "x *** y");
    check("pin 77 --token=a", "pin *** --token=***");
}

#[test]
fn bad_patterns_are_named() {
    let check = |more: Vec<String>, expected: &str| {
        let error = Redactor::new(&more, "***").expect_err(expected).to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    };
    check(
        vec!["ok".into(), "a(".into()],
        "pattern 2 (a(): unclosed group",
    );
    check(vec!["(?=x)".into()], "look-around");
    check(vec![r"\w{1000}{1000}".into()], "pattern 1");
    check(vec!["a*".into()], "matches the empty text");
    check(vec!["x".repeat(2000)], "2000 bytes long; at most 1024");
    check(vec!["x".into(); 65], "65 patterns; at most 64");
}

fn alert(output: &str, fields: Value) -> Alert {
    let Value::Object(fields) = fields else {
        panic!("an object")
    };
    let rule = RuleInfo {
        name: "r",
        priority: Priority::Notice,
        source: "syscall",
        tags: &[],
    };
    Alert::new("node", 0, rule, output, Map::from_iter(fields))
}

#[test]
fn text_and_fields_of_an_alert_lose_their_secrets() {
    let mut alert = alert(
        "ran mysql --password=hunter2 (env=topsecret)",
        json!({
            "proc.cmdline": "mysql --password=hunter2",
            "proc.env[DB_PASSWORD]": "topsecret",
            "proc.env[LD_PRELOAD]": "/tmp/x.so",
            "proc.acmdline": ["sh -c x", "env HF_TOKEN=abc sh"],
            "list": ["--password", "two words", "-x"],
            "proc.pid": 7, "fd.name": null,
        }),
    );
    let count = redactor(&[]).alert(&mut alert, std::iter::empty());
    let json = alert.to_json();
    for secret in ["hunter2", "topsecret", "HF_TOKEN=abc", "two words"] {
        assert!(!json.contains(secret), "{json}");
    }
    assert_eq!(alert.output_fields["proc.env[LD_PRELOAD]"], "/tmp/x.so");
    assert_eq!(alert.output_fields["proc.pid"], 7);
    assert_eq!(count, 6);
}

#[test]
fn a_secret_with_blanks_is_known_by_its_argument() {
    let cases: &[(&[&str], &str)] = &[
        (
            &["tool", "--password", "correct horse battery", "-v"],
            "tool --password *** -v",
        ),
        (
            &["tool", "--password=correct horse", "-v"],
            "tool --password=*** -v",
        ),
        (
            &["tool", "--title", "correct horse"],
            "tool --title correct horse",
        ),
        (
            &["tool", "--password", "--really so"],
            "tool --password --really so",
        ),
    ];
    for (argv, expected) in cases {
        let line = argv.join(" ");
        let mut alert = alert(&line, json!({ "proc.cmdline": line }));
        redactor(&[]).alert(&mut alert, argv.iter().map(|argument| argument.as_bytes()));
        assert_eq!(alert.output_fields["proc.cmdline"], *expected);
        assert!(alert.output.ends_with(expected), "{}", alert.output);
    }
}

#[test]
fn a_long_text_takes_no_longer_than_its_length_allows() {
    // A pattern that tried every split of such a text would not end in the test's time.
    let redactor = redactor(&[]);
    for piece in [
        "--password ",
        "mysql -",
        "a_",
        "://a:",
        "eyJa.",
        "-----BEGIN ",
    ] {
        let text = piece.repeat(100_000 / piece.len());
        let _ = redactor.text(&text);
    }
}
