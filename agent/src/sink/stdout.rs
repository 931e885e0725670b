//! Alerts on standard output, a line each, flushed after every batch.
//!
//! A reader that closed the pipe will not come back: the sink says so once and ends, and the agent goes on.

use std::{io, sync::Arc};

use tokio::io::{AsyncWriteExt as _, Stdout};
use tracing::error;

use crate::{
    log::Reader,
    metrics::{Metrics, SinkName},
    sink::Format,
};

/// Enough to amortise a write, little enough that a slow terminal sees progress.
const BATCH_ALERTS: usize = 256;

const NAME: SinkName = SinkName { sink: "stdout" };

/// Delivers until the log is closed and read to its end, or until nobody reads stdout any more.
pub async fn run(mut reader: Reader, format: Format, metrics: Arc<Metrics>) {
    let mut stdout = tokio::io::stdout();
    let mut text = String::new();
    while let Some(batch) = reader.next(BATCH_ALERTS).await {
        text.clear();
        for alert in &batch.alerts {
            match format {
                Format::Json => text.push_str(&alert.to_json()),
                Format::Text => text.push_str(&alert.output),
            }
            text.push('\n');
        }
        if let Err(error) = write(&mut stdout, &text).await {
            metrics.sink_errors.get_or_create(&NAME).inc();
            error!("alerts no longer go to stdout: {error}");
            return;
        }
        metrics
            .sink_alerts
            .get_or_create(&NAME)
            .inc_by(batch.alerts.len() as u64);
        reader.commit(&batch);
    }
}

async fn write(stdout: &mut Stdout, text: &str) -> io::Result<()> {
    stdout.write_all(text.as_bytes()).await?;
    stdout.flush().await
}
