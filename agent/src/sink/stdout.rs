//! Alerts on standard output, a line each, flushed after every batch.
//!
//! A write that fails (a full disk) is tried again: at least once, so a line may come twice. A reader that
//! closed the pipe will not come back: from then on alerts are counted as dropped, and the agent goes on.

use std::io;

use tokio::io::{AsyncWriteExt as _, Stdout};

use super::{
    Format,
    deliver::{Failure, Message, Progress, Target},
    text,
};
use crate::log::Record;

/// The process's own.
#[derive(Debug)]
pub struct Output(Stdout);

impl Output {
    /// There is one.
    pub fn new() -> Self {
        Self(tokio::io::stdout())
    }

    async fn write(&mut self, text: &str) -> io::Result<()> {
        self.0.write_all(text.as_bytes()).await?;
        self.0.flush().await
    }
}

impl Default for Output {
    fn default() -> Self {
        Self::new()
    }
}

impl Target for Output {
    async fn deliver(&mut self, messages: &[Message]) -> Progress {
        let mut lines = String::new();
        for message in messages {
            lines.push_str(&message.text);
            lines.push('\n');
        }
        match self.write(&lines).await {
            Ok(()) => Progress::all(messages.len()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Progress::until(0, Failure::Closed("nobody reads stdout any more".into()))
            }
            Err(error) => Progress::until(0, Failure::retry(error.to_string())),
        }
    }
}

/// An alert as it is written, with the end of its line.
pub fn line(record: &Record, format: Format) -> String {
    let mut line = text(record, format).into_owned();
    line.push('\n');
    line
}
