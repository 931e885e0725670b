//! Reloads of rules, sinks and what else can change: on SIGHUP, when files change, and when a client asks. What is new is read and compiled here, off the sensor thread, and
//! takes the place of the old between two events, or not at all: then the old goes on, and a log line, a metric and an event say why.
//!
//! Files are looked at every few seconds, through links: what Kubernetes mounts of a ConfigMap changes by turning a link over. A change
//! counts once it has stayed the same for one more look, so that a file is not read while it is being written.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use saker_rules::engine::Engine;
use serde_json::Value;
use tokio::{
    signal::unix::Signal,
    sync::{mpsc, oneshot},
    time::{Instant, Interval, MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use super::{
    kinds_on_gpus,
    sensor_thread::{Change, Changed, Order, Rules},
    show_hooks, show_rules,
    sinks::Sinks,
    traced, wish,
};
use crate::{
    api::{
        grpc::tls::Identity,
        node::{LastReload, Node, ReloadAnswer, rules_digest},
    },
    config::{Config, Sensor},
    detect::Detect,
    metrics::{Metrics, Outcome},
    pipeline::Delivery,
    source::{Waker, Wish},
};

/// Files that are looked at for changes; what is beyond is read by a reload and starts none.
const FILES_MAX: usize = 10_000;

/// Reloads that wait for their turn.
pub const ASKS_MAX: usize = 8;

/// What has to be looked at under a configuration.
type Watched = dyn Fn(&Config) -> Vec<PathBuf> + Send + Sync;

/// How configuration and rules are read again, and what has to be looked at to see whether they have changed.
pub struct Source {
    /// Reads and compiles; or says what is wrong, in as many lines as it takes. Blocks.
    pub load: Box<dyn Fn() -> Result<Fresh, String> + Send + Sync>,
    /// Files and folders.
    pub files: Box<Watched>,
}

/// What was read.
#[derive(Debug)]
pub struct Fresh {
    /// The configuration.
    pub config: Config,
    /// The rules, ready.
    pub detect: Detect,
}

/// Does reloads, one after another.
pub struct Reloader {
    /// How to read.
    pub source: Arc<Source>,
    /// The configuration that runs, as far as it can change.
    pub running: Config,
    /// Who is told.
    pub node: Arc<Node>,
    /// To the sensor thread.
    pub orders: mpsc::Sender<Order>,
    /// Wakes it.
    pub waker: Waker,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where alerts go.
    pub sinks: Arc<Sinks>,
    /// Certificates, which are read again too.
    pub identity: Option<Arc<Identity>>,
}

/// What a file or folder looked like: where it is, how long, and when it changed.
type Look = BTreeMap<PathBuf, Option<[u64; 6]>>;

/// Which of the numbers is the time of the last change.
const CHANGED: usize = 4;

/// The longest tick of a kernel's clock.
const TICK: Duration = Duration::from_millis(10);

impl Reloader {
    /// Waits for reasons to reload, for ever.
    pub async fn run(
        mut self,
        mut hangup: Signal,
        mut asks: mpsc::Receiver<oneshot::Sender<ReloadAnswer>>,
    ) {
        let mut poll_s = self.running.reload.poll_s;
        let mut timer = timer(poll_s);
        let mut loaded = self.look().await;
        let mut last = loaded.clone();
        loop {
            let mut ask = None;
            let why = tokio::select! {
                _ = hangup.recv() => "SIGHUP",
                asked = asks.recv() => {
                    ask = asked;
                    if ask.is_none() {
                        return;
                    }
                    "a client asked"
                }
                _ = timer.tick(), if self.running.reload.watch_files => {
                    let now = self.look().await;
                    let is_settled = now == last;
                    last = now;
                    if !is_settled || last == loaded {
                        continue;
                    }
                    "files changed"
                }
            };
            // Before they are read: what changes meanwhile is a change.
            loaded = self.look().await;
            let begun_ns = realtime_ns();
            let outcome = self.reload(why).await;
            let now = self.look().await;
            watch_what_is_asked_for(&mut loaded, &now, begun_ns);
            if self.running.reload.poll_s != poll_s {
                poll_s = self.running.reload.poll_s;
                timer = self::timer(poll_s);
            }
            if let Some(ask) = ask {
                // Whoever asked may have gone.
                let _ = ask.send(ReloadAnswer { outcome });
            }
        }
    }

    async fn look(&self) -> Look {
        let (source, config) = (Arc::clone(&self.source), self.running.clone());
        let look = move || {
            (source.files)(&config)
                .into_iter()
                .take(FILES_MAX)
                .map(|path| {
                    let seen = look(&path);
                    (path, seen)
                })
                .collect()
        };
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }

    /// One reload; whether anything is different, or what is wrong.
    async fn reload(&mut self, why: &str) -> Result<bool, String> {
        let begun = Instant::now();
        let outcome = self.attempt().await;
        let name = match &outcome {
            Ok(true) => "applied",
            Ok(false) => "unchanged",
            Err(_) => "failed",
        };
        self.metrics
            .api
            .reloads
            .get_or_create(&Outcome { outcome: name })
            .inc();
        self.metrics
            .api
            .reload_failed
            .set(i64::from(outcome.is_err()));
        let problem = outcome.as_ref().err().cloned();
        self.node.set(|state| {
            state.last_reload = Some(LastReload {
                time: SystemTime::now(),
                problem: problem.clone(),
            });
        });
        match &outcome {
            Ok(true) => info!("reloaded ({why}) in {:?}", begun.elapsed()),
            Ok(false) => info!("nothing to reload ({why}): nothing has changed"),
            Err(problem) => {
                error!("not reloaded ({why}), the old configuration and rules go on: {problem}");
                self.tell("reload_failed", problem.clone()).await;
            }
        }
        outcome
    }

    /// Whatever can go wrong does before anything has changed.
    async fn attempt(&mut self) -> Result<bool, String> {
        let (source, identity) = (Arc::clone(&self.source), self.identity.clone());
        let read = move || {
            let fresh = (source.load)()?;
            let identity = identity.map(|identity| identity.read_again());
            let identity = identity.transpose().map_err(|error| chain(&error))?;
            Ok::<_, String>((fresh, identity))
        };
        let (fresh, identity) = tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| format!("reading failed: {error}; this is a bug"))??;
        let next = with_live(&self.running, &fresh.config);
        let at_start = changed_keys(&next, &fresh.config);
        if !at_start.is_empty() {
            warn!(
                "changed, and at work only after a restart: {}",
                at_start.join(", ")
            );
        }
        let digest = rules_digest(fresh.detect.engine());
        let state = self.node.state();
        let is_same = state
            .rules
            .as_ref()
            .is_some_and(|running| rules_digest(running) == digest);
        let are_rules_new =
            !is_same || next.rules != self.running.rules || next.sensor != self.running.sensor;
        let rules = are_rules_new.then_some(fresh.detect);
        self.put_to_work(rules, &next).await?;
        if let (Some(identity), Some(fresh)) = (&self.identity, identity) {
            identity.renew(fresh);
        }
        let changed = changed_keys(&self.running, &next);
        if !changed.is_empty() {
            let keys = changed.join(", ");
            info!("at work from now on: {keys}");
            // Before the sinks change: who is taken off the list may still be told.
            self.tell("reconfigured", keys).await;
        }
        self.sinks.apply(&next);
        self.running = next;
        Ok(are_rules_new || !changed.is_empty())
    }

    /// Has the sensor thread work by other rules, where there are any, and by this configuration; or, where that is refused, as before.
    async fn put_to_work(&self, rules: Option<Detect>, next: &Config) -> Result<(), String> {
        let engine = rules.as_ref().map(|detect| Arc::clone(detect.engine()));
        let wish = rules.as_ref().map(|detect| wish(next, detect));
        let with_context = |config: &Config| config.sinks.needs_context(&config.stdout);
        let is_delivered_otherwise = next.alerts != self.running.alerts
            || next.redact != self.running.redact
            || with_context(next) != with_context(&self.running);
        let delivery = is_delivered_otherwise.then(|| Delivery {
            limits: next.alerts.limits(),
            redactor: next.redact.redactor(),
            with_context: with_context(next),
        });
        if rules.is_none() && delivery.is_none() {
            return Ok(());
        }
        let (done, outcome) = oneshot::channel();
        let change = Change {
            rules: rules.zip(wish.clone()).map(|(detect, wish)| Rules {
                on_gpus: kinds_on_gpus(next, &detect),
                detect,
                wish,
            }),
            delivery,
            done,
        };
        let gone = "the sensor thread has ended";
        self.orders
            .send(Order::Change(Box::new(change)))
            .await
            .map_err(|_| gone.to_owned())?;
        self.waker.wake();
        let changed = outcome.await.map_err(|_| gone.to_owned())??;
        if let (Some(changed), Some(engine), Some(wish)) = (changed, engine, wish) {
            self.show(changed, engine, &wish).await;
        }
        Ok(())
    }

    /// Tells everybody of rules that are at work now.
    async fn show(&self, changed: Changed, engine: Arc<Engine>, wish: &Wish) {
        let Changed { old, status } = changed;
        let forgotten = old.open_instances();
        // It may hold a lot, and to let go of it takes a while.
        drop(tokio::task::spawn_blocking(move || drop(old)));
        if forgotten > 0 {
            warn!(
                "{forgotten} sequences and durations that were under way begin anew with the new rules"
            );
        }
        show_hooks(&status, &self.node.state().probes, &self.metrics);
        show_rules(&engine, &self.metrics);
        let digest = rules_digest(&engine);
        let count = engine.rules().len();
        let (kinds, partly) = traced(&status, wish);
        self.node.set(|state| {
            state.probes = status;
            (state.traced, state.partly_traced) = (kinds, partly);
            state.rules = Some(engine);
            state.generation += 1;
        });
        self.tell(
            "reloaded",
            format!("rules={count} digest={}", &digest[..16]),
        )
        .await;
    }

    /// Has rules alert on something inside the agent.
    async fn tell(&self, what: &'static str, text: String) {
        if self.orders.send(Order::Tell { what, text }).await.is_ok() {
            self.waker.wake();
        }
    }
}

fn timer(poll_s: u64) -> Interval {
    let mut timer = interval(Duration::from_secs(poll_s.max(1)));
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

/// A reload may have changed which files are looked at. Those that are new were read by it, if they had not changed since it began; otherwise
/// they count as changed, as does what is not there.
fn watch_what_is_asked_for(loaded: &mut Look, now: &Look, begun_ns: u64) {
    loaded.retain(|path, _| now.contains_key(path));
    for (path, seen) in now {
        let was_before = seen.is_some_and(|seen| seen[CHANGED] < begun_ns);
        if was_before && !loaded.contains_key(path) {
            loaded.insert(path.clone(), *seen);
        }
    }
}

/// Now, by the clock of file systems, which may be a tick behind: what they say of a moment later is later than this.
fn realtime_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = since.unwrap_or_default().saturating_sub(TICK);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

fn look(path: &Path) -> Option<[u64; 6]> {
    let found = fs::metadata(path).ok()?;
    let whole = |seconds: i64, nanoseconds: i64| {
        seconds
            .cast_unsigned()
            .wrapping_mul(1_000_000_000)
            .wrapping_add(nanoseconds.cast_unsigned())
    };
    Some([
        found.dev(),
        found.ino(),
        found.len(),
        whole(found.mtime(), found.mtime_nsec()),
        whole(found.ctime(), found.ctime_nsec()),
        u64::from(found.mode()),
    ])
}

/// A configuration with what of another is at work without a restart. What is missing here needs one.
fn with_live(running: &Config, fresh: &Config) -> Config {
    let Config {
        rules,
        sensor,
        redact,
        alerts,
        stdout,
        sinks,
        reload,
        // The rest of the kernel side, tables and sockets are made at the start. GPUs: a driver that hangs holds the thread that asks
        // it, and a second one would hang beside it.
        hostname: _,
        processes: _,
        containers: _,
        gpu: _,
        alert_log: _,
        http: _,
        grpc: _,
    } = fresh.clone();
    Config {
        rules,
        sensor: Sensor {
            environment: sensor.environment,
            ..running.sensor.clone()
        },
        redact,
        alerts,
        stdout,
        sinks,
        reload,
        ..running.clone()
    }
}

/// Keys in which two configurations differ, dotted.
fn changed_keys(running: &Config, fresh: &Config) -> Vec<String> {
    let value = |config: &Config| serde_json::to_value(config).unwrap_or_default();
    let mut changed = Vec::new();
    differences(&value(running), &value(fresh), "", &mut changed);
    changed
}

fn differences(before: &Value, after: &Value, key: &str, changed: &mut Vec<String>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let mut names: Vec<_> = before.keys().chain(after.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let inner = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}.{name}")
                };
                let (before, after) = (before.get(name), after.get(name));
                differences(
                    before.unwrap_or(&Value::Null),
                    after.unwrap_or(&Value::Null),
                    &inner,
                    changed,
                );
            }
        }
        _ => changed.push(key.to_owned()),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_a_reload_has_read_first_is_no_further_change() {
        let seen = |changed_ns| Some([1, 2, 3, 4, changed_ns, 6]);
        let look = |files: &[(&str, Option<[u64; 6]>)]| -> Look {
            let entry = |(path, seen): &(&str, _)| (PathBuf::from(path), *seen);
            files.iter().map(entry).collect()
        };
        let check = |before: &[_], now: &[_], is_change: bool| {
            let (mut loaded, now) = (look(before), look(now));
            watch_what_is_asked_for(&mut loaded, &now, 100);
            assert_eq!(loaded != now, is_change, "{loaded:?} {now:?}");
        };
        check(&[("a", seen(50))], &[("a", seen(50))], false);
        check(
            &[("a", seen(50))],
            &[("a", seen(50)), ("b", seen(60))],
            false,
        );
        check(
            &[("a", seen(50)), ("b", seen(60))],
            &[("a", seen(50))],
            false,
        );
        // Changed while it was read, or gone: nobody knows what was read.
        check(
            &[("a", seen(50))],
            &[("a", seen(50)), ("b", seen(100))],
            true,
        );
        check(&[], &[("b", None)], true);
        check(&[("a", seen(50))], &[("a", seen(120))], true);
    }

    #[test]
    fn what_changed_is_named_by_its_keys() {
        let running = Config::default();
        let mut fresh = Config::default();
        fresh.rules.paths = vec!["/etc/saker/rules".into()];
        fresh.sensor.ring_bytes *= 2;
        fresh.hostname = Some("other".into());
        fresh.gpu.interval_s = 7;
        fresh.sensor.environment.push("HOME".into());
        fresh.stdout.enabled = false;
        fresh.alerts.same_max = 1;
        let keys = |before: &Config, after: &Config| changed_keys(before, after).join(" ");
        let next = with_live(&running, &fresh);
        assert_eq!(
            keys(&running, &next),
            "alerts.same_max rules.paths sensor.environment stdout.enabled"
        );
        assert_eq!(
            keys(&next, &fresh),
            "gpu.interval_s hostname sensor.ring_bytes"
        );
        assert!(changed_keys(&running, &running).is_empty());
    }

    #[test]
    fn a_link_that_is_turned_over_and_a_file_of_the_same_length_are_changes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("one")).expect("a folder");
        fs::create_dir(path("two")).expect("a folder");
        fs::write(path("one/rules.yaml"), "a").expect("a file");
        fs::write(path("two/rules.yaml"), "b").expect("a file");
        let turn = |to: &str| {
            std::os::unix::fs::symlink(to, path("next")).expect("a link");
            fs::rename(path("next"), path("data")).expect("it is turned over");
        };
        turn("one");
        let seen = || look(&path("data/rules.yaml"));
        let first = seen();
        assert!(first.is_some());
        assert_eq!(seen(), first);
        turn("two");
        assert_ne!(seen(), first);
        let second = seen();
        fs::write(path("two/rules.yaml"), "c").expect("a file");
        assert_ne!(seen(), second);
        fs::remove_file(path("two/rules.yaml")).expect("it is there");
        assert_eq!(seen(), None);
    }
}
