//! What a name says of the value behind it: `HF_TOKEN`, `dbPassword`, `--api-key` announce secrets; `max_tokens`,
//! `--token-limit`, `pad_token` and `TOKENIZERS_PARALLELISM`, which stand on every second command line of a node that trains
//! models, do not.
//!
//! A name is taken apart at punctuation, at changes of case and before numbers, and its parts are looked up whole.

/// Longest name that is looked at; of a longer one the end is.
pub const NAME_BYTES_MAX: usize = 64;

/// How sure a name makes that its value is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Whatever the value, unless it says no more than yes or no.
    Sure,
    /// Words that count things, too: a small number is none.
    Word,
    /// Keys and credentials, which are as often named by their file.
    OrPath,
    /// Words of everyday use: the value itself must look like a secret.
    Opaque,
}

/// Words that say it in every place of a name, whatever follows but [`ABOUT`].
const STRONG: &[&str] = &[
    "password",
    "passwd",
    "passwort",
    "passphrase",
    "passcode",
    "secret",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
];

/// Parts that turn a secret's name into that of something about it.
const ABOUT: &[&str] = &[
    "age",
    "arn",
    "attempts",
    "auth",
    "authentication",
    "backend",
    "callback",
    "checker",
    "class",
    "cmd",
    "command",
    "count",
    "dir",
    "enabled",
    "encoding",
    "engine",
    "env",
    "expiration",
    "expires",
    "expiry",
    "fd",
    "field",
    "file",
    "filename",
    "files",
    "format",
    "generator",
    "header",
    "helper",
    "hint",
    "id",
    "ids",
    "len",
    "length",
    "limit",
    "manager",
    "max",
    "method",
    "min",
    "mode",
    "mount",
    "name",
    "names",
    "namespace",
    "path",
    "policy",
    "prompt",
    "provider",
    "ref",
    "refs",
    "required",
    "reset",
    "rotation",
    "size",
    "stdin",
    "store",
    "strength",
    "ttl",
    "type",
    "uri",
    "url",
    "version",
    "volume",
];

/// Parts that may follow the weaker words: which one of several it is, or how it is written.
const WHICH: &[&str] = &[
    "admin",
    "b64",
    "backup",
    "base64",
    "current",
    "default",
    "dev",
    "development",
    "enc",
    "encoded",
    "hex",
    "key",
    "live",
    "main",
    "master",
    "new",
    "next",
    "old",
    "pem",
    "plain",
    "plaintext",
    "prev",
    "previous",
    "primary",
    "prod",
    "production",
    "raw",
    "read",
    "readonly",
    "ro",
    "root",
    "rw",
    "sandbox",
    "secondary",
    "secret",
    "stage",
    "staging",
    "str",
    "string",
    "test",
    "testing",
    "text",
    "val",
    "value",
    "write",
];

/// Parts before `key` that make it a secret.
const KEYS: &[&str] = &[
    "access",
    "account",
    "aes",
    "api",
    "auth",
    "client",
    "decryption",
    "deploy",
    "encryption",
    "gpg",
    "hmac",
    "jwt",
    "license",
    "master",
    "pgp",
    "private",
    "rsa",
    "secret",
    "service",
    "session",
    "shared",
    "sign",
    "signing",
    "ssh",
    "ssl",
    "storage",
    "subscription",
    "tls",
    "webhook",
];

/// Parts before `key` that make it an ordinary word.
const PLAIN_KEYS: &[&str] = &[
    "cache",
    "column",
    "config",
    "data",
    "dict",
    "foreign",
    "group",
    "host",
    "image",
    "index",
    "label",
    "map",
    "metric",
    "partition",
    "primary",
    "prompt",
    "public",
    "pub",
    "routing",
    "row",
    "sort",
    "text",
];

/// Parts before `token` that make it a piece of text.
const PLAIN_TOKENS: &[&str] = &[
    "assistant",
    "audio",
    "avg",
    "begin",
    "bos",
    "by",
    "call",
    "cls",
    "cost",
    "decoder",
    "draft",
    "drop",
    "each",
    "encoder",
    "end",
    "eos",
    "every",
    "first",
    "image",
    "img",
    "in",
    "input",
    "instruction",
    "last",
    "mask",
    "max",
    "min",
    "n",
    "next",
    "num",
    "output",
    "pad",
    "per",
    "prefix",
    "prompt",
    "response",
    "sep",
    "single",
    "special",
    "speech",
    "split",
    "start",
    "stop",
    "sub",
    "suffix",
    "text",
    "think",
    "tool",
    "total",
    "unk",
    "video",
    "vision",
];

/// Parts before `tokens` that make them secrets: alone they are pieces of text.
const TOKENS: &[&str] = &["access", "api", "auth", "bearer", "refresh"];

/// Words that end in `pass` or `token` and are others.
const OTHERS: &[&str] = &[
    "allpass",
    "bandpass",
    "bypass",
    "compass",
    "encompass",
    "highpass",
    "lowpass",
    "multipass",
    "onepass",
    "overpass",
    "singlepass",
    "subtoken",
    "surpass",
    "trespass",
    "twopass",
    "underpass",
];

/// Parts before `pass` that make it a going-through.
const PLAIN_PASSES: &[&str] = &[
    "backward", "bwd", "by", "first", "forward", "fwd", "multi", "num", "one", "render", "second",
    "single", "two",
];

/// Parts of an option that takes no value: what follows it stands for itself.
const SWITCHES: &[&str] = &[
    "allow", "ask", "check", "disable", "enable", "generate", "hide", "log", "no", "print",
    "prompt", "require", "reset", "rotate", "show", "skip", "verify", "without",
];

/// Parts before a secret's name that make it something about it.
const BEFORE: &[&str] = &["checksum", "inject", "hash"];

/// A name in small letters, its parts separated by one `_`.
struct Parts {
    bytes: [u8; 3 * NAME_BYTES_MAX],
    len: usize,
}

impl Parts {
    fn of(name: &[u8]) -> Self {
        let name = &name[name.len().saturating_sub(NAME_BYTES_MAX)..];
        let mut parts = Self {
            bytes: [0; 3 * NAME_BYTES_MAX],
            len: 0,
        };
        for (at, byte) in name.iter().enumerate() {
            let before = at.checked_sub(1).map_or(b'_', |at| name[at]);
            let behind = name.get(at + 1).copied().unwrap_or(b'_');
            let starts = byte.is_ascii_uppercase()
                && (before.is_ascii_lowercase()
                    || before.is_ascii_uppercase() && behind.is_ascii_lowercase());
            if starts {
                parts.push(b'_');
            }
            parts.push(if byte.is_ascii_alphanumeric() {
                byte.to_ascii_lowercase()
            } else {
                b'_'
            });
        }
        parts
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    /// The parts; numbers at the end of one, and those that are numbers, say only which one it is.
    fn iter(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        let text = std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default();
        text.split('_')
            .map(|part| match part {
                "b64" | "base64" | "oauth2" => part,
                _ => part.trim_end_matches(|digit: char| digit.is_ascii_digit()),
            })
            .filter(|part| !part.is_empty())
    }
}

/// What a name announces, if anything.
pub fn class(name: &[u8]) -> Option<Class> {
    // Where the shell is, and was.
    if matches!(name, b"PWD" | b"OLDPWD") {
        return None;
    }
    let parts = Parts::of(name);
    let mut behind = parts.iter();
    let mut best = None;
    let mut before = [""; 2];
    while let Some(part) = behind.next() {
        let found = word(part, before, behind.clone());
        best = match (best, found) {
            (Some(Class::Sure), _) | (_, None) => best,
            (_, found) => found,
        };
        if BEFORE.contains(&part) {
            return None;
        }
        before = [before[1], part];
    }
    best
}

/// What one part of a name says, between the parts before and behind it.
fn word<'p>(
    part: &str,
    before: [&str; 2],
    mut behind: impl Iterator<Item = &'p str> + Clone,
) -> Option<Class> {
    let last = before[1];
    let is_about = behind.clone().any(|part| ABOUT.contains(&part));
    let is_which = behind.all(|part| WHICH.contains(&part));
    let ends_in = |end: &str| part.ends_with(end) && !OTHERS.contains(&part);
    if STRONG.iter().any(|word| part.ends_with(word)) {
        return (!is_about).then_some(Class::Sure);
    }
    if part == "key" && KEYS.contains(&last) {
        let class = match last {
            "api" | "access" | "account" | "secret" => Class::Sure,
            _ => Class::OrPath,
        };
        return (!is_about).then_some(class);
    }
    let class = match part {
        "tokens" if TOKENS.contains(&last) => Class::Word,
        "tokens" => return None,
        "pwd" | "cookie" | "cookies" | "jwt" | "bearer" => Class::Word,
        "credential" | "credentials" | "cred" | "creds" => Class::OrPath,
        "auth" => Class::Opaque,
        "key" if !PLAIN_KEYS.contains(&last) => Class::Opaque,
        _ if ends_in("token") && !PLAIN_TOKENS.contains(&last) => Class::Word,
        _ if ends_in("pass") && !PLAIN_PASSES.contains(&last) => Class::Word,
        _ if ends_in("pwd") => Class::Word,
        "signature" if last == "amz" || last == "goog" => Class::Sure,
        _ => return None,
    };
    is_which.then_some(class)
}

/// Is an option of this name one without a value?
pub fn is_switch(name: &[u8]) -> bool {
    Parts::of(name)
        .iter()
        .next()
        .is_some_and(|first| SWITCHES.contains(&first))
}

impl Class {
    /// Is a value of a thing that is called so a secret?
    pub fn holds(self, value: &[u8]) -> bool {
        if value.is_empty() || is_answer(value) {
            return false;
        }
        match self {
            // What Docker calls a secret is the name of one.
            Class::Sure => ![&b"id="[..], b"type=", b"src=", b"source="]
                .iter()
                .any(|start| value.starts_with(start)),
            Class::Word => !is_number(value, 4),
            Class::OrPath => !is_path(value),
            Class::Opaque => is_opaque(value),
        }
    }
}

/// Yes, no, or nothing.
fn is_answer(value: &[u8]) -> bool {
    const ANSWERS: [&[u8]; 9] = [
        b"true", b"false", b"yes", b"no", b"on", b"off", b"none", b"null", b"nil",
    ];
    ANSWERS
        .iter()
        .any(|answer| answer.eq_ignore_ascii_case(value))
}

fn is_number(value: &[u8], digits_max: usize) -> bool {
    value.len() <= digits_max && value.iter().all(u8::is_ascii_digit)
}

fn is_path(value: &[u8]) -> bool {
    let starts: [&[u8]; 5] = [b"/", b"./", b"../", b"~/", b"$"];
    let ends: [&[u8]; 5] = [b".pem", b".key", b".json", b".crt", b".yaml"];
    starts.iter().any(|start| value.starts_with(start))
        || ends.iter().any(|end| value.ends_with(end))
}

/// Letters and digits in one long word, or a user and a password.
fn is_opaque(value: &[u8]) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"_+=~-".contains(byte);
    let letters = value.iter().any(u8::is_ascii_alphabetic);
    let digits = value.iter().any(u8::is_ascii_digit);
    let pair = value.iter().position(|byte| *byte == b':');
    let is_pair = pair.is_some_and(|at| at > 0 && !is_number(&value[at + 1..], 5))
        && !value.contains(&b'/')
        && !value.contains(&b' ');
    value.len() >= 8 && letters && (digits && value.iter().all(is_word) || is_pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_stands_behind_them() {
        let check = |names: &str, expected: Option<Class>| {
            for name in names.split(' ') {
                assert_eq!(class(name.as_bytes()), expected, "{name}");
            }
        };
        check(
            "password PASSWORD1 DB_PASSWORD dbPassword --db-password my.db.password passwordProd --passwort \
             MYSQL_ROOT_PASSWORD keystorePassword client_secret SECRET_KEY_BASE AWS_SECRET_ACCESS_KEY API_KEY_PROD \
             X-Api-Key apikey APIKEY_OPENAI accountKey --passphrase PASSWORD_GITHUB password2",
            Some(Class::Sure),
        );
        check(
            "HF_TOKEN HFToken --token token -token GITHUB_TOKEN_PROD csrftoken auth-token pass PASS DBPASS DB_PASS \
             --pass -storepass pwd --pwd DB_PWD MYSQLPWD Cookie jwt AUTH_TOKENS user_token",
            Some(Class::Word),
        );
        check(
            "PRIVATE_KEY_PEM --private-key ssh_key TLS_KEY --credentials GOOGLE_APPLICATION_CREDENTIALS signing-key",
            Some(Class::OrPath),
        );
        check(
            "--key key STRIPE_KEY auth --auth OPENAI_KEY",
            Some(Class::Opaque),
        );
        check(
            "PWD OLDPWD max_tokens --max-tokens tokenizer TOKENIZERS_PARALLELISM --token-limit token_count \
             --tokenizer-mode tokens --num_keys --key-padding keys pad_token eos_token --image-token pad_token_id \
             primary_key sort-key cache_key public_key monkey keyboard secretary password-file PASSWORD_FILE secret-name \
             token_type_ids --credentials-file compass bypass forward_pass passes passthrough author authority \
             --nproc_per_node rdzv_endpoint secrets PasswordAuthentication checksum/secret AWS_ACCESS_KEY_ID \
             --password-stdin bigtokens token-embedding num_pass",
            None,
        );
        check(&"a".repeat(1000), None);
        check(&format!("{}_password", "a".repeat(1000)), Some(Class::Sure));
        check("", None);
    }

    #[test]
    fn values_that_are_no_secrets_stay() {
        let check = |class: Class, values: &str, expected: bool| {
            for value in values.split(' ') {
                assert_eq!(class.holds(value.as_bytes()), expected, "{class:?} {value}");
            }
        };
        check(Class::Sure, "x 1234 /x -x truely", true);
        check(Class::Sure, "true False none id=aws,src=/x", false);
        check(Class::Word, "x 12345 a1", true);
        check(Class::Word, "1 128 null", false);
        check(Class::OrPath, "x abc/def", true);
        check(Class::OrPath, "/x ./x ~/x key.pem $HOME/x", false);
        check(Class::Opaque, "AAA16leak user:hunter2 0123abcd", true);
        check(
            Class::Opaque,
            "2 name layer.0.weight basic localhost:8080 /a/b1cdefgh https://a:1",
            false,
        );
    }

    #[test]
    fn switches_take_no_value() {
        assert!(is_switch(b"--no-password") && is_switch(b"skip_token"));
        assert!(!is_switch(b"--password") && !is_switch(b"--node-password"));
    }
}
