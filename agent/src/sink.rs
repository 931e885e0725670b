//! Sinks: each is a reader of the alert log that delivers elsewhere, at its own pace.

pub mod stdout;

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
    /// The alert's text, one line each.
    Text,
}
