//! Sinks: each is a reader of the alert log that delivers elsewhere, at its own pace. [`deliver`] is what they share: order, trying
//! again, counting. A sink's own file knows its other side only.

pub mod deliver;
pub mod file;
mod files;
pub mod filter;
pub mod http;
pub mod nats;
pub mod ocsf;
pub mod stdout;
pub mod syslog;
pub mod tls;

use std::{borrow::Cow, path::PathBuf};

use crate::log::Record;

/// How alerts are written.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Deserialize,
    serde::Serialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a line, in Falco's shape.
    #[default]
    Json,
    /// The same.
    Falco,
    /// One JSON object a line: a Detection Finding of the Open Cybersecurity Schema Framework.
    Ocsf,
    /// The alert's text, one line each.
    Text,
}

/// An alert as it is written, without the end of its line.
pub fn text(record: &Record, format: Format) -> Cow<'_, str> {
    match format {
        Format::Json | Format::Falco => Cow::Borrowed(&record.json),
        Format::Ocsf => Cow::Owned(ocsf::finding(record).to_string()),
        Format::Text => {
            let alert = record.value();
            let output = alert["output"].as_str().unwrap_or_default();
            Cow::Owned(printable(output).into_owned())
        }
    }
}

/// Text for a terminal: what an attacker puts on a command line must neither begin a line of its own nor steer the terminal.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    text.chars()
        .map(|c| {
            if c.is_control() {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        })
        .collect()
}

/// Can the files be read that a sink's configuration names, and used?
pub fn check_files<'a>(
    tls: &tls::Tls,
    secrets: impl IntoIterator<Item = &'a PathBuf>,
) -> Result<(), String> {
    if tls.ca_file.is_some() || tls.cert_file.is_some() {
        tls.read()?;
    }
    for secret in secrets {
        files::read_secret(secret)?;
    }
    Ok(())
}

/// An error with its causes, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let source_text = source.to_string();
        if !text.contains(&source_text) {
            text += &format!(": {source_text}");
        }
        cause = source.source();
    }
    text
}

/// Settings that may not be, and a part of what is said of them: tests of every sink's own.
#[cfg(test)]
fn assert_refused<S: serde::de::DeserializeOwned>(
    check: impl Fn(&S) -> Result<(), (&'static str, String)>,
    cases: &[(&str, &str)],
) {
    for (yaml, part) in cases {
        let settings: S = serde_saphyr::from_str(yaml).expect(yaml);
        let (key, problem) = check(&settings).expect_err(yaml);
        let said = format!("{key}: {problem}");
        assert!(said.contains(part), "{said}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(printable("plain ü"), "plain ü");
        assert_eq!(printable("a\nb\u{1b}[2Jc\r"), "a\\nb\\u{1b}[2Jc\\r");
    }
}
