//! Alerts on standard output, a line each, flushed after every batch.
//!
//! A write that fails (a full disk) is tried again, with growing pauses: at least once, so a line may come twice. A reader that
//! closed the pipe will not come back: from then on alerts are counted as dropped, and the agent goes on.

use std::{borrow::Cow, io, sync::Arc, time::Duration};

use tokio::io::{AsyncWriteExt as _, Stdout};
use tracing::{error, warn};

use crate::{
    alert::Alert,
    log::{Batch, Reader},
    metrics::{Metrics, SinkName},
    sink::Format,
};

/// Enough to amortise a write, little enough that a slow terminal sees progress.
const BATCH_ALERTS: usize = 256;

/// Between tries; doubled each time up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

const NAME: SinkName = SinkName { sink: "stdout" };

/// Delivers until the log is closed and read to its end.
pub async fn run(mut reader: Reader, format: Format, metrics: Arc<Metrics>) {
    let mut stdout = tokio::io::stdout();
    let mut closed = false;
    while let Some(batch) = reader.next(BATCH_ALERTS).await {
        if !closed && deliver(&mut stdout, &text(&batch, format), &metrics).await {
            metrics
                .sink_alerts
                .get_or_create(&NAME)
                .inc_by(batch.alerts.len() as u64);
            reader.commit(&batch);
        } else {
            closed = true;
            reader.give_up(&batch, "sink_closed");
        }
    }
}

/// Writes until it works; `false` where nobody will ever read it.
async fn deliver(stdout: &mut Stdout, text: &str, metrics: &Metrics) -> bool {
    let mut pause = RETRY.0;
    loop {
        let Err(error) = write(stdout, text).await else {
            return true;
        };
        metrics.sink_errors.get_or_create(&NAME).inc();
        if error.kind() == io::ErrorKind::BrokenPipe {
            error!("nobody reads stdout any more: alerts from now on are dropped and counted");
            return false;
        }
        warn!("alerts cannot be written to stdout, trying again in {pause:?}: {error}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

fn text(batch: &Batch, format: Format) -> String {
    let mut text = String::new();
    for alert in &batch.alerts {
        text.push_str(&line(alert, format));
    }
    text
}

/// An alert as it is written, with the end of its line.
pub fn line(alert: &Alert, format: Format) -> String {
    let mut line = match format {
        Format::Json => alert.to_json(),
        Format::Text => printable(&alert.output).into_owned(),
    };
    line.push('\n');
    line
}

/// Text for a terminal: what an attacker puts on a command line must neither begin a line of its own nor steer the terminal.
fn printable(text: &str) -> Cow<'_, str> {
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

async fn write(stdout: &mut Stdout, text: &str) -> io::Result<()> {
    stdout.write_all(text.as_bytes()).await?;
    stdout.flush().await
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
