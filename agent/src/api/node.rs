//! What clients may know of this node and ask of it, whatever way they ask.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use saker_rules::engine::Engine;
use tokio::sync::{mpsc, oneshot};

use super::Health;
use crate::{log::AlertLog, metrics::Metrics, source::HookStatus, watch::Watcher};

/// Asks the sensor thread to take a watcher, and tells when it has: what happens from then on is watched. `None` where it takes none.
pub type TakeWatcher = Box<dyn Fn(Watcher) -> Option<oneshot::Receiver<()>> + Send + Sync>;

/// The node, as the services see it.
pub struct Node {
    /// Its name in alerts.
    pub hostname: String,
    /// When the agent started.
    pub started: SystemTime,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Does it detect?
    pub health: Arc<Health>,
    /// Alerts.
    pub log: AlertLog,
    /// Where reloads are asked for.
    pub reloads: mpsc::Sender<oneshot::Sender<ReloadAnswer>>,
    /// Where watchers go.
    pub watchers: TakeWatcher,
    state: Mutex<State>,
}

/// What changes with a reload.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// How each kind of events is supplied.
    pub probes: Vec<HookStatus>,
    /// Kinds of events that are traced, as values of `evt.type`.
    pub traced: Vec<&'static str>,
    /// Kinds of which only a part is.
    pub partly_traced: Vec<&'static str>,
    /// The rules at work.
    pub rules: Option<Arc<Engine>>,
    /// How often rules were loaded.
    pub generation: u64,
    /// The last reload.
    pub last_reload: Option<LastReload>,
}

/// What became of a reload.
#[derive(Clone, Debug)]
pub struct LastReload {
    /// When.
    pub time: SystemTime,
    /// What was wrong.
    pub problem: Option<String>,
}

/// What became of a reload that was asked for.
#[derive(Clone, Debug)]
pub struct ReloadAnswer {
    /// Is anything different from before? Or what is wrong; many lines.
    pub outcome: Result<bool, String>,
}

impl Node {
    /// A node of which nothing is known yet that changes.
    pub fn new(
        hostname: &str,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
        log: AlertLog,
        reloads: mpsc::Sender<oneshot::Sender<ReloadAnswer>>,
        watchers: TakeWatcher,
    ) -> Self {
        Self {
            hostname: hostname.into(),
            started: SystemTime::now(),
            metrics,
            health,
            log,
            reloads,
            watchers,
            state: Mutex::default(),
        }
    }

    /// What changes, as it is now.
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// Changes it.
    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Node")
            .field("hostname", &self.hostname)
            .finish_non_exhaustive()
    }
}

/// Rules at work, silent, and switched off.
pub fn rule_states(engine: &Engine) -> [u32; 3] {
    let mut states = [0; 3];
    for rule in engine.rules() {
        let state = if !rule.is_enabled() {
            2
        } else {
            usize::from(rule.inactive().len() > 0)
        };
        states[state] += 1;
    }
    states
}

/// The digest of what the rules were made of, in hexadecimal.
pub fn rules_digest(engine: &Engine) -> String {
    engine
        .bundle()
        .source_digest()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
