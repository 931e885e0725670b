//! What credentials look like by themselves: the built-in patterns, one a row. Those that are known by the name before them are
//! the business of `names` and `scan`, and those of single programs that of `tools`.
//!
//! The group `secret` is what is replaced; without one all of the match is. Where there is a group `name`, that must announce
//! a secret.

/// A pattern and why it is there.
pub struct BuiltIn {
    /// The regular expression, over bytes.
    pub pattern: &'static str,
    /// What it finds; shown by nothing but this table.
    #[allow(
        dead_code,
        reason = "it documents the row, and the tests name rows by it"
    )]
    pub finds: &'static str,
}

/// The table.
pub const BUILT_IN: &[BuiltIn] = &[
    BuiltIn {
        pattern: r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----(?:(?:\s|\\[nr])+[A-Z][A-Za-z-]*: [^\n\\]*)*(?:(?:\s|\\[nr])+[A-Za-z0-9+/=]{16,})*(?:(?:[\r\n]|\\[nr])+[A-Za-z0-9+/=]+)?(?:(?:\s|\\[nr])*-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----)?",
        finds: "a private key block, also one whose end was cut off; no more than looks like one",
    },
    BuiltIn {
        pattern: r"(?i)\b(?:proxy-)?authorization\\*[\x22']?\s*[:=]\s*\\*[\x22']?(?:(?:basic|bearer|token|digest|negotiate|ntlm|apikey|hawk|aws4-hmac-sha256)\s+)?(?P<secret>[^\x22'\\\r\n;|&]{4,})",
        finds: "the header that carries credentials, of any scheme",
    },
    BuiltIn {
        pattern: r"(?i)\bbearer\s+(?P<secret>[a-z0-9._~+/=-]{8,})",
        finds: "a bearer token without its header",
    },
    BuiltIn {
        pattern: r"(?i)(?:^|[?&;\s\x22'])(?:sig|signature|x-(?:amz|goog|oss)-(?:signature|security-token|credential))=(?P<secret>[^&\s\x22'#;]+)",
        finds: "the signature of an address that grants access: Azure's, AWS's, Google's",
    },
    BuiltIn {
        pattern: r"(?i)[\x22'](?:name|key)\\*[\x22']\s*:\s*\\*[\x22'](?P<name>[a-z0-9_.-]+)\\*[\x22']\s*,\s*\\*[\x22']value\\*[\x22']\s*:\s*\\*[\x22'](?P<secret>(?:[^\x22'\\]|\\[^\x22'])+)",
        finds: "a variable as Kubernetes and AWS write it: a pair of `name` and `value`",
    },
    BuiltIn {
        pattern: r"\bname:\s*(?P<name>[A-Za-z0-9_.-]+)\s+value:[ \t]*(?P<secret>[^\s\x22'][^\s]*)",
        finds: "the same in YAML",
    },
    BuiltIn {
        pattern: r"\\*[\x22'](?P<name>--?[A-Za-z0-9_.-]+)\\*[\x22']\s*,\s*\\*[\x22'](?P<secret>(?:[^\x22'\\]|\\[^\x22'])+)",
        finds: "an option and its value in a list of arguments, as JSON and Python write it",
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
        pattern: r"\bgsk_[A-Za-z0-9]{20,}",
        finds: "a Groq key",
    },
    BuiltIn {
        pattern: r"\br8_[A-Za-z0-9]{20,}",
        finds: "a Replicate token",
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
        pattern: r"\bdapi[A-Za-z0-9-]{32,}",
        finds: "a Databricks token",
    },
    BuiltIn {
        pattern: r"\bdo[opr]_v1_[A-Za-z0-9]{16,}",
        finds: "a DigitalOcean token",
    },
    BuiltIn {
        pattern: r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
        finds: "a SendGrid key",
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
