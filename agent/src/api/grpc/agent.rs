//! `saker.v1.AgentService`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use saker_rules::engine::Engine;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    alerts::{QUEUE, Stream, send_or_cut},
    convert,
    listen::{Line, Via},
    options::Limits,
    tail::{Extent, Tail},
};
use crate::{
    api::node::{Node, State, rule_states, rules_digest},
    event::TYPES,
    metrics::{Cause, DROP_CAUSES, Kind, LOSS_CAUSES, Metrics, Outcome, PriorityName, level},
    proto::saker::v1::{
        Dropped, GetStatusRequest, GetStatusResponse, ListRulesRequest, ListRulesResponse, Loss,
        Position, Probe, Reload, ReloadRulesRequest, ReloadRulesResponse, RuleSummary,
        WatchAlertsRequest, WatchAlertsResponse, WatchEventsRequest, WatchEventsResponse,
        WatchStarted, agent_service_server, watch_events_response::Item,
    },
    watch::{self, Interest, Watch},
};

/// Rules in one answer, unless the client asks for fewer.
const RULES_MAX: usize = 500;

/// How often a watcher is told what it lost, at most.
const TELL: Duration = Duration::from_secs(1);

/// How long the sensor may take to take a watcher: it does between two looks into its rings.
const TAKE: Duration = Duration::from_secs(10);

/// The service.
#[derive(Debug)]
pub struct Agent {
    node: Arc<Node>,
    limits: Limits,
    reload_over_tcp: bool,
    watching: Arc<AtomicUsize>,
}

impl Agent {
    /// For this node.
    pub fn new(node: Arc<Node>, limits: Limits, reload_over_tcp: bool) -> Self {
        Self {
            node,
            limits,
            reload_over_tcp,
            watching: Arc::default(),
        }
    }

    fn stuck(&self) -> Duration {
        Duration::from_secs(self.limits.stuck_s)
    }
}

#[tonic::async_trait]
impl agent_service_server::AgentService for Agent {
    type WatchAlertsStream = ReceiverStream<Result<WatchAlertsResponse, Status>>;

    async fn watch_alerts(
        &self,
        request: Request<WatchAlertsRequest>,
    ) -> Result<Response<Self::WatchAlertsStream>, Status> {
        let line = request.extensions().get::<Line>().cloned();
        let stream = Stream::new(request.into_inner(), Tail::new(&self.node.log)).await?;
        let (out, messages) = mpsc::channel(QUEUE);
        tokio::spawn(stream.run(out, line, self.stuck()));
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    type WatchEventsStream = ReceiverStream<Result<WatchEventsResponse, Status>>;

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let line = request.extensions().get::<Line>().cloned();
        let request = request.into_inner();
        let interest =
            Interest::new(&request.condition, &request.fields).map_err(Status::invalid_argument)?;
        let watching = Watching::new(&self.watching, self.limits.watchers_max, &self.node.metrics);
        let place = watching.ok_or_else(|| {
            Status::resource_exhausted(format!(
                "{} clients watch events already (grpc.limits.watchers_max)",
                self.limits.watchers_max
            ))
        })?;
        let (watcher, watch) = watch::pair(interest, self.limits.watcher_events_max);
        let unavailable = || Status::unavailable("the sensor takes no watchers now");
        // The first message promises that what happens behind it is seen.
        let taken = (self.node.watchers)(watcher).ok_or_else(unavailable)?;
        let taken = tokio::time::timeout(TAKE, taken).await;
        taken
            .map_err(|_| unavailable())?
            .map_err(|_| unavailable())?;
        let state = self.node.state();
        let names = |kinds: &[&str]| kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let started = WatchStarted {
            traced: names(&state.traced),
            partly_traced: names(&state.partly_traced),
        };
        let (out, messages) = mpsc::channel(QUEUE);
        tokio::spawn(forward(watch, started, out, line, self.stuck(), place));
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn get_status(
        &self,
        _: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let node = &self.node;
        let state = node.state();
        let Extent { oldest, newest } = Tail::new(&node.log).extent();
        let uptime = SystemTime::now()
            .duration_since(node.started)
            .unwrap_or_default();
        Ok(Response::new(GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            hostname: node.hostname.clone(),
            started: Some(convert::system_time(node.started)),
            ready: node.health.is_ready(),
            rules: summary(&state),
            last_reload: state.last_reload.map(|last| Reload {
                time: Some(convert::system_time(last.time)),
                ok: last.problem.is_none(),
                error: last.problem.unwrap_or_default(),
            }),
            log: Some(Position {
                cursor: newest,
                gap: false,
                oldest,
                newest,
            }),
            events: sum_of_events(node),
            alerts: sum_of_alerts(node),
            losses: losses(node),
            uptime: prost_types::Duration::try_from(uptime).ok(),
            probes: state
                .probes
                .into_iter()
                .map(|probe| Probe {
                    kind: probe.kind.into(),
                    wanted: probe.wanted,
                    hook: probe.hook.unwrap_or_default().into(),
                    lost: probe.lost,
                })
                .collect(),
        }))
    }

    async fn list_rules(
        &self,
        request: Request<ListRulesRequest>,
    ) -> Result<Response<ListRulesResponse>, Status> {
        let request = request.into_inner();
        let Some(engine) = self.node.state().rules else {
            return Err(Status::unavailable("the rules are being loaded"));
        };
        let digest = rules_digest(&engine);
        let first = place(&request.page_token, &digest)?;
        let size = match request.page_size as usize {
            0 => RULES_MAX,
            size => size.min(RULES_MAX),
        };
        let rules: Vec<_> = engine
            .rules()
            .skip(first)
            .take(size)
            .map(convert::rule)
            .collect();
        let next = first + rules.len();
        let is_more = next < engine.rules().len();
        Ok(Response::new(ListRulesResponse {
            rules,
            next_page_token: if is_more {
                format!("{next}@{digest}")
            } else {
                String::new()
            },
            digest,
        }))
    }

    async fn reload_rules(
        &self,
        request: Request<ReloadRulesRequest>,
    ) -> Result<Response<ReloadRulesResponse>, Status> {
        let is_over_tcp = request
            .extensions()
            .get::<Line>()
            .is_none_or(|line| line.via == Via::Tcp);
        if is_over_tcp && !self.reload_over_tcp {
            return Err(Status::permission_denied(
                "rules are not reloaded over TCP (grpc.tcp.allow_reload)",
            ));
        }
        let (tell, told) = oneshot::channel();
        self.node.reloads.try_send(tell).map_err(|_| {
            Status::resource_exhausted("too many reloads wait for their turn already")
        })?;
        let answer = told
            .await
            .map_err(|_| Status::unavailable("the agent is stopping"))?;
        Ok(Response::new(ReloadRulesResponse {
            ok: answer.outcome.is_ok(),
            changed: answer.outcome == Ok(true),
            error: answer.outcome.err().unwrap_or_default(),
            rules: summary(&self.node.state()),
        }))
    }
}

/// Where a page begins. A token is good for the rules that it was made for.
fn place(token: &str, digest: &str) -> Result<usize, Status> {
    if token.is_empty() {
        return Ok(0);
    }
    let (first, of) = token
        .split_once('@')
        .and_then(|(first, of)| Some((first.parse().ok()?, of)))
        .ok_or_else(|| Status::invalid_argument("page_token: is none of this service's"))?;
    if of != digest {
        return Err(Status::aborted(
            "page_token: other rules are at work by now; begin anew",
        ));
    }
    Ok(first)
}

fn summary(state: &State) -> Option<RuleSummary> {
    let engine: &Engine = state.rules.as_ref()?;
    let [active, inactive, disabled] = rule_states(engine);
    Some(RuleSummary {
        active,
        inactive,
        disabled,
        digest: rules_digest(engine),
        generation: state.generation,
    })
}

fn sum_of_events(node: &Node) -> u64 {
    let of_kind = |kind: &&str| {
        let kind = Kind {
            kind: (*kind).to_owned(),
        };
        node.metrics.events.get_or_create(&kind).get()
    };
    TYPES.iter().map(of_kind).sum()
}

fn sum_of_alerts(node: &Node) -> u64 {
    let of_priority = |priority: saker_rules::ruleset::Priority| {
        let priority = PriorityName {
            priority: priority.name(),
        };
        node.metrics.delivery.alerts.get_or_create(&priority).get()
    };
    saker_rules::ruleset::Priority::ALL
        .into_iter()
        .map(of_priority)
        .sum()
}

fn losses(node: &Node) -> Vec<Loss> {
    let events = LOSS_CAUSES
        .iter()
        .map(|cause| ("events", *cause, &node.metrics.events_lost));
    let alerts = DROP_CAUSES
        .iter()
        .map(|cause| ("alerts", *cause, &node.metrics.delivery.dropped));
    events
        .chain(alerts)
        .map(|(stage, cause, family)| Loss {
            stage: stage.into(),
            cause: cause.into(),
            count: family
                .get_or_create(&Cause {
                    cause: cause.into(),
                })
                .get(),
        })
        .filter(|loss| loss.count > 0)
        .collect()
}

/// From the sensor to the client, and what was dropped on the way.
async fn forward(
    mut watch: Watch,
    started: WatchStarted,
    out: mpsc::Sender<Result<WatchEventsResponse, Status>>,
    line: Option<Line>,
    stuck: Duration,
    place: Watching,
) {
    let send = async |item: Item| {
        let message = Ok(WatchEventsResponse { item: Some(item) });
        send_or_cut(&out, message, line.as_ref(), stuck).await
    };
    let mut told = 0;
    let mut tell = tokio::time::interval(TELL);
    tell.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut goes_on = send(Item::Started(started)).await;
    while goes_on {
        let item = tokio::select! {
            seen = watch.events.recv() => match seen {
                Some(seen) => {
                    place.count("sent", 1);
                    Item::Event(convert::event(&seen))
                }
                None => break,
            },
            _ = tell.tick() => {
                let total = watch.dropped.load(Ordering::Relaxed);
                let count = total - told;
                if count == 0 {
                    continue;
                }
                told = total;
                place.count("dropped", count);
                Item::Dropped(Dropped { count, total })
            }
            () = out.closed() => break,
        };
        goes_on = send(item).await;
    }
    watch.events.close();
    place.count("dropped", watch.dropped.load(Ordering::Relaxed) - told);
}

/// One of the places for those who watch events.
#[derive(Debug)]
struct Watching {
    count: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Watching {
    fn new(count: &Arc<AtomicUsize>, max: usize, metrics: &Arc<Metrics>) -> Option<Self> {
        let one_more = |now: usize| (now < max).then_some(now + 1);
        let before = count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more)
            .ok()?;
        metrics.api.watchers.set(level(before + 1));
        Some(Self {
            count: Arc::clone(count),
            metrics: Arc::clone(metrics),
        })
    }
}

impl Watching {
    fn count(&self, outcome: &'static str, count: u64) {
        self.metrics
            .api
            .watched_events
            .get_or_create(&Outcome { outcome })
            .inc_by(count);
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let before = self.count.fetch_sub(1, Ordering::AcqRel);
        self.metrics.api.watchers.set(level(before - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_is_good_for_the_rules_it_was_made_for() {
        assert_eq!(place("", "d").map_err(|error| error.code()), Ok(0));
        assert_eq!(place("500@d", "d").map_err(|error| error.code()), Ok(500));
        let check = |token: &str, expected: tonic::Code| {
            let error = place(token, "d").expect_err(token);
            assert_eq!(error.code(), expected, "{token}");
        };
        check("500@other", tonic::Code::Aborted);
        check("500", tonic::Code::InvalidArgument);
        check("x@d", tonic::Code::InvalidArgument);
        check("-1@d", tonic::Code::InvalidArgument);
    }

    #[test]
    fn places_for_watchers_are_given_back() {
        let (count, metrics) = (Arc::default(), Arc::new(Metrics::new()));
        let first = Watching::new(&count, 1, &metrics).expect("there is room");
        assert!(Watching::new(&count, 1, &metrics).is_none());
        drop(first);
        assert!(Watching::new(&count, 1, &metrics).is_some());
    }
}
