//! `saker alerts`: alerts of a running agent, from its log and as they are raised.

use jiff::Timestamp;
use saker_rules::ruleset::Priority;

use super::{
    Failure, block_on,
    remote::{Remote, refused},
    show::{Colour, Output, Show},
};
use crate::{
    api::grpc::convert,
    proto::saker::v1::{
        AlertFilter, WatchAlertsRequest, watch_alerts_request::Start, watch_alerts_response::Item,
    },
};

/// Options of `saker alerts`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    remote: Remote,
    /// Where to begin: behind a cursor (`412`; `0`: with the oldest alert that is there), or at a time (`2026-05-01T10:00:00Z`, or so
    /// long ago: `15m`, `2h`, `1d`). Without it: with alerts that are raised from now on, or with `--no-follow` with the oldest.
    #[arg(long, value_name = "CURSOR|TIME")]
    since: Option<String>,
    /// End behind the alerts that are there, instead of waiting for more.
    #[arg(long)]
    no_follow: bool,
    /// Only alerts of this priority or more important ones.
    #[arg(long, value_name = "PRIORITY")]
    priority: Option<String>,
    /// Only alerts of this rule; may be given many times.
    #[arg(long, value_name = "NAME")]
    rule: Vec<String>,
    /// Only alerts with this tag; may be given many times.
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Only alerts of pods in this namespace; may be given many times.
    #[arg(long, value_name = "NAME")]
    namespace: Vec<String>,
    /// How alerts are written.
    #[arg(short, long, value_enum, default_value_t = Output::Auto)]
    output: Output,
    /// When there are colours.
    #[arg(long, value_enum, default_value_t = Colour::Auto)]
    colour: Colour,
}

/// Prints until the agent or the reader goes, or until there are no more.
pub fn run(args: &Args) -> Result<(), Failure> {
    let request = request(args)?;
    block_on(follow(args, request))
}

async fn follow(args: &Args, request: WatchAlertsRequest) -> Result<(), Failure> {
    let show = Show::new(args.output, args.colour);
    let mut client = args.remote.connect().await?;
    let mut stream = client
        .watch_alerts(request)
        .await
        .map_err(|status| refused(&status))?
        .into_inner();
    while let Some(message) = stream.message().await.map_err(|status| refused(&status))? {
        match message.item {
            Some(Item::Alert(alert)) => {
                let written = show.alert(&alert);
                if !written.map_err(|error| Failure::Machine(format!("cannot write: {error}")))? {
                    return Ok(());
                }
            }
            Some(Item::Position(position)) if position.gap => {
                show.remark("some alerts before these are no longer in the agent's log");
            }
            _ => {}
        }
    }
    if args.no_follow {
        Ok(())
    } else {
        Err(Failure::Machine("the agent ended the stream".into()))
    }
}

fn request(args: &Args) -> Result<WatchAlertsRequest, Failure> {
    let start = match &args.since {
        Some(since) => Some(start(since, Timestamp::now())?),
        None => args.no_follow.then_some(Start::ResumeAfter(0)),
    };
    let min_priority = match &args.priority {
        None => 0,
        Some(name) => convert::priority(Priority::parse(name).ok_or_else(|| {
            let names: Vec<_> = Priority::ALL.iter().map(|level| level.name()).collect();
            Failure::Input(format!(
                "--priority {name:?} is none of {}",
                names.join(", ")
            ))
        })?)
        .into(),
    };
    Ok(WatchAlertsRequest {
        start,
        filter: Some(AlertFilter {
            min_priority,
            rules: args.rule.clone(),
            tags: args.tag.clone(),
            namespaces: args.namespace.clone(),
        }),
        no_follow: args.no_follow,
        fail_on_gap: false,
    })
}

/// A cursor, a moment, or a time ago.
fn start(text: &str, now: Timestamp) -> Result<Start, Failure> {
    if let Ok(cursor) = text.parse() {
        return Ok(Start::ResumeAfter(cursor));
    }
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let ago = units.into_iter().find_map(|(unit, seconds)| {
        let count: i64 = text.strip_suffix(unit)?.parse().ok()?;
        count.checked_mul(seconds).filter(|ago| *ago >= 0)
    });
    let time_ns = match ago {
        Some(ago) => i64::try_from(now.as_nanosecond())
            .ok()
            .and_then(|now| now.checked_sub(ago.checked_mul(1_000_000_000)?)),
        None => text
            .parse::<Timestamp>()
            .ok()
            .and_then(|time| i64::try_from(time.as_nanosecond()).ok()),
    };
    match time_ns {
        Some(time_ns) => Ok(Start::Since(convert::timestamp(time_ns))),
        None => Err(Failure::Input(format!(
            "--since {text:?} is neither a cursor (412) nor a time (2026-05-01T10:00:00Z, 15m, 2h, 1d)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_cursor_or_a_time() {
        let now: Timestamp = "2026-05-01T10:00:00Z".parse().expect("a time");
        let check = |text: &str, expected: Start| {
            let found = start(text, now).unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(found, expected, "{text}");
        };
        check("412", Start::ResumeAfter(412));
        check("0", Start::ResumeAfter(0));
        let at = |text: &str| {
            let time: Timestamp = text.parse().expect("a time");
            let time_ns = i64::try_from(time.as_nanosecond()).expect("in this century");
            Start::Since(convert::timestamp(time_ns))
        };
        check("15m", at("2026-05-01T09:45:00Z"));
        check("2h", at("2026-05-01T08:00:00Z"));
        check("2026-04-01T00:00:00Z", at("2026-04-01T00:00:00Z"));
        check("2026-04-01T02:00:00+02:00", at("2026-04-01T00:00:00Z"));
        for wrong in [
            "",
            "yesterday",
            "-5",
            "-5m",
            "99999999999999999999d",
            "m",
            "1.5h",
        ] {
            assert!(start(wrong, now).is_err(), "{wrong}");
        }
    }
}
