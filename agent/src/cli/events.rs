//! `saker events`: what happens on a node, as its agent sees it.

use super::{
    Failure, block_on,
    remote::{Remote, refused},
    show::{Colour, Output, Show},
};
use crate::proto::saker::v1::{WatchEventsRequest, watch_events_response::Item};

/// Options of `saker events`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    remote: Remote,
    /// Which events, in the language of rules, without macros and lists (`evt.type = execve and proc.name = sh`). Without it: all that
    /// are traced. Nothing is traced for this: only kinds of events that a rule wants are seen.
    #[arg(
        short,
        long,
        value_name = "CONDITION",
        default_value = "",
        hide_default_value = true
    )]
    condition: String,
    /// A field to show, as in rules; may be given many times. Without it: those that describe an event in short.
    #[arg(short, long, value_name = "NAME")]
    field: Vec<String>,
    /// End after so many events.
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,
    /// How events are written.
    #[arg(short, long, value_enum, default_value_t = Output::Auto)]
    output: Output,
    /// When there are colours.
    #[arg(long, value_enum, default_value_t = Colour::Auto)]
    colour: Colour,
}

/// Prints until the agent or the reader goes, or until there were enough.
pub fn run(args: &Args) -> Result<(), Failure> {
    block_on(follow(args))
}

async fn follow(args: &Args) -> Result<(), Failure> {
    let show = Show::new(args.output, args.colour);
    let mut client = args.remote.connect().await?;
    let request = WatchEventsRequest {
        condition: args.condition.clone(),
        fields: args.field.clone(),
    };
    let mut stream = client
        .watch_events(request)
        .await
        .map_err(|status| refused(&status))?
        .into_inner();
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let message = stream.message().await.map_err(|status| refused(&status))?;
        let Some(message) = message else {
            return Err(Failure::Machine("the agent ended the stream".into()));
        };
        match message.item {
            Some(Item::Event(event)) => {
                left -= 1;
                let written = show.event(&event);
                if !written.map_err(|error| Failure::Machine(format!("cannot write: {error}")))? {
                    return Ok(());
                }
            }
            Some(Item::Started(started)) => {
                let text =
                    |kinds: &[String]| crate::sink::printable(&kinds.join(", ")).into_owned();
                show.remark(&format!("traced: {}", text(&started.traced)));
                if !started.partly_traced.is_empty() {
                    show.remark(&format!(
                        "of these only what a rule can match: {}",
                        text(&started.partly_traced)
                    ));
                }
            }
            Some(Item::Dropped(dropped)) => {
                show.remark(&format!("{} events were dropped on the way", dropped.count));
            }
            None => {}
        }
    }
    Ok(())
}
