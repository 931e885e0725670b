//! `saker replay`: a capture instead of the ring.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, StdoutLock, Write as _},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use clap::ValueEnum;

use super::{Failure, chain, complain, run::Detection};
use crate::{
    alert::Alert,
    config::Config,
    decode,
    detect::Wanted,
    event,
    log::Record,
    metrics::Metrics,
    pipeline::Replay,
    sink::{self, Format},
    source::{
        Kind,
        capture::{Frame, Header, Reader},
    },
};

/// Options of `saker replay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A capture of `saker record`.
    #[arg(value_name = "FILE")]
    capture: PathBuf,
    #[command(flatten)]
    detection: Detection,
    /// How fast the events come.
    #[arg(long, value_enum, default_value_t = Speed::Max)]
    speed: Speed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Speed {
    /// As fast as they are evaluated.
    Max,
    /// As they came when they were recorded.
    Recorded,
}

/// Replays a capture to its end, or to its damage.
pub fn run(args: &Args) -> Result<(), Failure> {
    args.detection.start_logging();
    let config = args.detection.config()?;
    let metrics = Arc::new(Metrics::new());
    let detect = args.detection.detect(&config)?;
    let failed = |error: &dyn std::error::Error| {
        Failure::Input(format!("{}: {}", args.capture.display(), chain(error)))
    };
    let file = File::open(&args.capture).map_err(|error| failed(&error))?;
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return Err(failed(&io::Error::other("not a regular file")));
    }
    let mut reader =
        Reader::open(BufReader::with_capacity(1 << 16, file)).map_err(|error| failed(&error))?;
    warn_of_what_is_not_there(reader.header(), &detect.wanted());
    let mut replay = Replay::new(&config, reader.header(), detect, metrics);
    let begun = Instant::now();
    let mut output = Output::new(&config);
    let mut pace = (args.speed == Speed::Recorded).then(|| Pace::new(begun));
    while let Some(frame) = reader.next() {
        if let (Some(pace), Frame::Record(record)) = (&mut pace, frame) {
            pace.wait(record, &mut output);
        }
        replay.frame(frame, &mut |alert| output.alert(&alert));
        if output.error.is_some() {
            break;
        }
    }
    replay.finish(&mut |alert| output.alert(&alert));
    output.finish()?;
    summarise(reader.header(), &replay, begun.elapsed());
    match reader.damage() {
        Some(damage) => Err(Failure::Input(format!(
            "{}: the end of the capture is damaged at {damage}",
            args.capture.display()
        ))),
        None => Ok(()),
    }
}

/// Rules that need what was not recorded stay silent, and whoever reads the alerts must know.
fn warn_of_what_is_not_there(header: &Header, wanted: &Wanted) {
    for kind in &wanted.kinds {
        let hook = header.hooks.iter().find(|(name, _)| name == kind.name());
        if hook.is_none_or(|(_, hook)| hook.is_none()) {
            complain(&format!(
                "{}: not recorded; rules that need them stay silent\n",
                kind.name()
            ));
        } else if *kind == Kind::Open && !header.opens.covers(&wanted.opens) {
            complain(
                "open: the rules want other paths than were recorded; they do not see those\n",
            );
        }
    }
}

fn summarise(header: &Header, replay: &Replay, time: Duration) {
    let counts = replay.counts();
    let delivered = counts.delivered();
    let seconds = time.as_secs_f64();
    let mut text = format!(
        "replayed {} ({}, Linux {}, {}): events delivered={delivered} undecodable={} lost={} alerts={} in {seconds:.3} s, {:.0} a second\n",
        header.hostname,
        header.agent,
        header.kernel,
        header.machine,
        counts.undecoded,
        replay.recorded_lost(),
        counts.alerts,
        delivered as f64 / seconds.max(1e-9)
    );
    let kinds = event::TYPES.iter().zip(counts.kinds);
    let kinds = kinds.filter(|(_, count)| *count > 0);
    let kinds: Vec<_> = kinds
        .map(|(kind, count)| format!("{kind}={count}"))
        .collect();
    text += &format!("of them {}\n", kinds.join(" "));
    if let Some(totals) = replay.totals() {
        text += &format!(
            "when it was recorded: events seen={} delivered={} filtered={} lost={} alerts={}\n",
            totals.seen, totals.delivered, totals.filtered, totals.lost, totals.alerts
        );
    }
    let gaps = replay.gaps();
    if gaps.unanswered > 0 {
        text += &format!(
            "{} questions to the machine have no answer in the capture; what they ask for is unknown\n",
            gaps.unanswered
        );
    }
    if gaps.unreadable > 0 {
        text += &format!(
            "{} notes in the capture make no sense and were left out\n",
            gaps.unreadable
        );
    }
    complain(&text);
}

/// Alerts on stdout. A reader that went away ends the replay quietly, as any filter.
struct Output {
    stdout: BufWriter<StdoutLock<'static>>,
    format: Format,
    is_enabled: bool,
    error: Option<io::Error>,
}

impl Output {
    fn new(config: &Config) -> Self {
        Self {
            stdout: BufWriter::with_capacity(1 << 16, io::stdout().lock()),
            format: config.stdout.format,
            is_enabled: config.stdout.enabled,
            error: None,
        }
    }

    fn alert(&mut self, alert: &Alert) {
        if self.is_enabled && self.error.is_none() {
            let line = sink::stdout::line(&Record::new(alert), self.format);
            self.error = self.stdout.write_all(line.as_bytes()).err();
        }
    }

    fn flush(&mut self) {
        if self.error.is_none() {
            self.error = self.stdout.flush().err();
        }
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.flush();
        match self.error {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::Machine(format!("cannot write to stdout: {error}")))
            }
            _ => Ok(()),
        }
    }
}

/// Lets events come as they came.
struct Pace {
    begun: Instant,
    /// The first record's time.
    first_ns: Option<u64>,
}

impl Pace {
    const fn new(begun: Instant) -> Self {
        Self {
            begun,
            first_ns: None,
        }
    }

    fn wait(&mut self, record: &[u8], output: &mut Output) {
        let Some(ns) = decode::moment(record) else {
            return;
        };
        let first_ns = *self.first_ns.get_or_insert(ns);
        let due = Duration::from_nanos(ns.saturating_sub(first_ns));
        let left = due.saturating_sub(self.begun.elapsed());
        if !left.is_zero() {
            output.flush();
            thread::sleep(left);
        }
    }
}
