//! What credentials look like: the built-in patterns, one a row. The group `secret` is what is replaced; without one all
//! of the match is.
//!
//! Names are matched as whole endings (`HF_TOKEN`, `dbPassword`, `--api-key`) and not as parts: a node that trains models
//! has `max_tokens`, `tokenizer` and `TOKENIZERS_PARALLELISM` on every second command line.

/// A pattern and why it is there.
pub struct BuiltIn {
    /// The regular expression.
    pub pattern: &'static str,
    /// What it finds; shown by nothing but this table.
    #[allow(
        dead_code,
        reason = "it documents the row, and the tests name rows by it"
    )]
    pub finds: &'static str,
}

/// The words that announce a secret. A macro, because `concat!` takes literals only.
macro_rules! word {
    () => {
        r"(?:passw(?:or)?d|passphrase|secret|token|credentials?|api[_-]?key|access[_-]?key|account[_-]?key|secret[_-]?key|private[_-]?key|signing[_-]?key|encryption[_-]?key|client[_-]?secret|(?:[_-]pwd|[_-]pass))"
    };
}

/// The table. Order matters: what a row replaced the rows below it leave alone.
pub const BUILT_IN: &[BuiltIn] = &[
    BuiltIn {
        pattern: r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
        finds: "a private key block, also one whose end was cut off",
    },
    BuiltIn {
        pattern: r"(?i)\b(?:proxy-)?authorization\s*[:=]\s*(?:[a-z0-9-]+\s+)?(?P<secret>[^\s\x22',;]{4,})",
        finds: "the header that carries credentials, of any scheme",
    },
    BuiltIn {
        pattern: r"(?i)\bx-[a-z0-9-]*(?:key|token|auth|secret)\s*[:=]\s*(?P<secret>[^\s\x22',;]+)",
        finds: "headers of APIs: `X-Api-Key`, `X-Auth-Token`, `X-Vault-Token`",
    },
    BuiltIn {
        pattern: r"(?i)\bbearer\s+(?P<secret>[a-z0-9._~+/=-]{8,})",
        finds: "a bearer token without its header",
    },
    BuiltIn {
        pattern: r"(?i)\b[a-z][a-z0-9+.-]*://[^\s/:@\x22']*:(?P<secret>[^\s/@\x22']+)@",
        finds: "the password of an address: `postgres://user:password@host`",
    },
    BuiltIn {
        pattern: concat!(
            r"(?i)[a-z0-9_.-]*",
            word!(),
            r"\\?[\x22']?\s*[:=]\s*\\?\x22(?P<secret>[^\x22]+)"
        ),
        finds: "a named value in double quotes, as in JSON or a shell",
    },
    BuiltIn {
        pattern: concat!(
            r"(?i)[a-z0-9_.-]*",
            word!(),
            r"[\x22']?\s*[:=]\s*'(?P<secret>[^']+)"
        ),
        finds: "a named value in single quotes, as in Python",
    },
    BuiltIn {
        pattern: concat!(
            r"(?i)[a-z0-9_.-]*",
            word!(),
            r"=(?P<secret>[^\s\x22'&;,)]+)"
        ),
        finds: "a named value: an environment variable, an option, part of a query string",
    },
    BuiltIn {
        pattern: concat!(
            r"(?i)(?:^|\s)--?[a-z0-9_.-]*",
            word!(),
            r"\s+(?P<secret>[^\s-]\S*)"
        ),
        finds: "an option and its value as two arguments",
    },
    BuiltIn {
        pattern: concat!(
            r"(?i)\b[a-z0-9_.-]*",
            word!(),
            r"\x22?:\s?(?P<secret>[^\s\x22'{\[<,;)]{4,})"
        ),
        finds: "a named value as YAML writes it",
    },
    BuiltIn {
        pattern: r"\b(?:mysql|mysqldump|mysqladmin|mysqlimport|mariadb|mariadb-dump|mariadb-admin)\b[^|;&\n]*?\s-p(?P<secret>[^\s-]\S*)",
        finds: "`-pPASSWORD` of MySQL's and MariaDB's tools, which take it without a blank",
    },
    BuiltIn {
        pattern: r"\bsshpass\s+(?:-[a-oq-z]\s+)*-p\s*(?P<secret>\S+)",
        finds: "`-p PASSWORD` of sshpass",
    },
    BuiltIn {
        pattern: r"\b(?:docker|podman|nerdctl|buildah|skopeo|oras|helm|crane)\b[^|;&\n]*?\blogin\b[^|;&\n]*?\s-p[\s=]*(?P<secret>[^\s-]\S*)",
        finds: "`-p PASSWORD` of registry log-ins",
    },
    BuiltIn {
        pattern: r"\b(?:curl|wget)\b[^|;&\n]*?\s(?:-u|--user|-U|--proxy-user)[\s=]*[^\s:]+:(?P<secret>\S+)",
        finds: "`-u user:password` of curl",
    },
    BuiltIn {
        pattern: r"\bredis-cli\b[^|;&\n]*?\s(?:-a|--pass)\s+(?P<secret>\S+)",
        finds: "`-a PASSWORD` of redis-cli",
    },
    BuiltIn {
        pattern: r"\bldap(?:search|add|modify|delete|whoami|passwd)\b[^|;&\n]*?\s-w\s*(?P<secret>[^\s-]\S*)",
        finds: "`-w PASSWORD` of the LDAP tools",
    },
    BuiltIn {
        pattern: r"\b(?:7z|7za|7zr|7zz)\b[^|;&\n]*?\s-p(?P<secret>\S+)",
        finds: "`-pPASSWORD` of 7-Zip",
    },
    BuiltIn {
        pattern: r"\b(?:zip|unzip)\b[^|;&\n]*?\s-P\s*(?P<secret>\S+)",
        finds: "`-P PASSWORD` of zip",
    },
    BuiltIn {
        pattern: r"(?i)\s-?-?pass(?:in|out)?[\s=]+pass:(?P<secret>\S+)",
        finds: "`-passin pass:PASSWORD` of openssl",
    },
    BuiltIn {
        pattern: r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b",
        finds: "an AWS access key's id",
    },
    BuiltIn {
        pattern: r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{22,})",
        finds: "a GitHub token",
    },
    BuiltIn {
        pattern: r"\bgl(?:pat|dt|rt|cbt|ptt|ft|soat)-[A-Za-z0-9_-]{20,}",
        finds: "a GitLab token",
    },
    BuiltIn {
        pattern: r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}",
        finds: "a Hugging Face token",
    },
    BuiltIn {
        pattern: r"\b(?:sk|rk|pk)-[A-Za-z0-9_-]{20,}",
        finds: "a key of OpenAI, Anthropic and others who write theirs so",
    },
    BuiltIn {
        pattern: r"\bnvapi-[A-Za-z0-9_-]{20,}",
        finds: "an NVIDIA API key",
    },
    BuiltIn {
        pattern: r"\bxox[a-z]-[A-Za-z0-9-]{10,}",
        finds: "a Slack token",
    },
    BuiltIn {
        pattern: r"\bAIza[A-Za-z0-9_-]{35}",
        finds: "a Google API key",
    },
    BuiltIn {
        pattern: r"\bya29\.[A-Za-z0-9_-]{20,}",
        finds: "a Google access token",
    },
    BuiltIn {
        pattern: r"\b(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}",
        finds: "a Stripe key",
    },
    BuiltIn {
        pattern: r"\bnpm_[A-Za-z0-9]{36}",
        finds: "an npm token",
    },
    BuiltIn {
        pattern: r"\bpypi-[A-Za-z0-9_-]{50,}",
        finds: "a PyPI token",
    },
    BuiltIn {
        pattern: r"\bhv[sbr]\.[A-Za-z0-9_-]{20,}",
        finds: "a HashiCorp Vault token",
    },
    BuiltIn {
        pattern: r"\bdckr_pat_[A-Za-z0-9_-]{20,}",
        finds: "a Docker Hub token",
    },
    BuiltIn {
        pattern: r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?",
        finds: "a JSON web token",
    },
];
