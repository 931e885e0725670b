//! From an event with its context to alerts: evaluates the compiled rules and fills in the text of those that match.

use std::{collections::BTreeSet, mem};

use saker_rules::{
    bundle::Bundle,
    engine::{Engine, EngineOptions, RuleMatching},
    kernel_filter::{KernelFilter, KindFilter},
    ruleset::Priority,
    state::{Detector, DetectorOptions, Match},
    template::Template,
};

use crate::{
    alert::{Alert, RuleInfo},
    event::{Kind, types_of},
    fields::EventView,
    metrics::{Metrics, RuleName, State},
    source::devices::NODE_PREFIXES,
};

/// What the rules' evaluation depends on besides the rules.
#[derive(Clone, Copy, Debug)]
pub struct DetectOptions {
    /// Only the first rule that matches an event alerts.
    pub first_match: bool,
    /// Open sequences and durations a rule may have.
    pub instances_max: usize,
}

/// The rules at work, and their state.
#[derive(Debug)]
pub struct Detect {
    detector: Detector,
    matches: Vec<Match>,
    rules: Vec<RuleText>,
}

/// What an alert needs of its rule, taken out of the bundle once.
#[derive(Debug)]
struct RuleText {
    name: String,
    priority: Priority,
    source: String,
    tags: Vec<String>,
    output: Template,
}

/// What the kernel side must supply so that no rule misses an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Kinds of records.
    pub kinds: BTreeSet<Kind>,
    /// What paths of opens start with; an empty one stands for every path.
    pub open_prefixes: Vec<Vec<u8>>,
}

impl Detect {
    /// Readies the rules of a bundle.
    pub fn new(bundle: Bundle, options: &DetectOptions, metrics: &Metrics) -> Self {
        let mut engine_options = EngineOptions::default();
        engine_options.rule_matching = if options.first_match {
            RuleMatching::First
        } else {
            RuleMatching::All
        };
        engine_options.sources = Some(vec!["syscall".into()]);
        let engine = Engine::new(bundle, engine_options);
        let mut states = [("active", 0), ("inactive", 0), ("disabled", 0)];
        let rules = engine
            .rules()
            .map(|rule| {
                let state = if !rule.is_enabled() {
                    2
                } else {
                    usize::from(rule.inactive().len() > 0)
                };
                states[state].1 += 1;
                RuleText {
                    name: rule.name().into(),
                    priority: rule.priority(),
                    source: rule.source().into(),
                    tags: rule.tags().map(str::to_owned).collect(),
                    output: rule.output(),
                }
            })
            .collect();
        for (state, count) in states {
            metrics.rules.get_or_create(&State { state }).set(count);
        }
        let mut detector_options = DetectorOptions::default();
        detector_options.instances_max = options.instances_max;
        Self {
            detector: Detector::new(engine, detector_options),
            matches: Vec::new(),
            rules,
        }
    }

    /// What the active rules ask of the kernel side. Starts, forks and ends of processes are always wanted: without them nobody
    /// would know who did what.
    pub fn wanted(&self) -> Wanted {
        wanted(&self.detector.engine().kernel_filter())
    }

    /// Evaluates one event and hands on an alert for each rule that it completes.
    pub fn observe(
        &mut self,
        view: &EventView<'_>,
        metrics: &Metrics,
        alerts: &mut dyn FnMut(Alert),
    ) {
        self.detector
            .observe(view, view.event.ts_ns, &mut self.matches);
        if self.matches.is_empty() {
            return;
        }
        let mut matches = mem::take(&mut self.matches);
        for found in matches.drain(..) {
            let rule = &self.rules[found.rule.0 as usize];
            metrics
                .rule_matches
                .get_or_create(&RuleName {
                    rule: rule.name.clone(),
                })
                .inc();
            let info = RuleInfo {
                name: &rule.name,
                priority: rule.priority,
                source: &rule.source,
                tags: &rule.tags,
            };
            alerts(Alert::new(
                view.hostname,
                view.time_ns(),
                info,
                &rule.output.render(view),
                rule.output.output_fields(view),
            ));
        }
        self.matches = matches;
    }
}

fn wanted(filter: &KernelFilter) -> Wanted {
    let mut kinds = BTreeSet::from([Kind::Exec, Kind::Fork, Kind::Exit]);
    kinds.extend(
        Kind::ALL
            .into_iter()
            .filter(|kind| types_of(*kind).iter().any(|name| filter.wants(name))),
    );
    let mut prefixes = BTreeSet::new();
    for name in types_of(Kind::Open) {
        match filter.kinds.get(*name) {
            Some(KindFilter::Open(open)) => {
                for paths in [&open.any, &open.read, &open.write] {
                    // The kernel side checks prefixes: whatever a prefix cannot say passes there and is decided here.
                    if !paths.everything.is_empty() || !paths.suffixes.is_empty() {
                        prefixes.insert(Vec::new());
                    }
                    prefixes.extend(paths.exact.iter().chain(&paths.prefixes).cloned());
                }
            }
            Some(_) => {
                prefixes.insert(Vec::new());
            }
            None if !filter.any_kind.is_empty() => {
                prefixes.insert(Vec::new());
            }
            None => {}
        }
    }
    // The kernel side compares the path as the caller wrote it: `//etc/x`, `../x` and `x` lead to files that rules name otherwise.
    // Devices are seen by their numbers however the path is written, so for them alone the start of the path is a sound filter.
    let devices_only = prefixes.iter().all(|prefix| {
        NODE_PREFIXES
            .iter()
            .any(|device| prefix.starts_with(device))
    });
    let open_prefixes = if devices_only {
        prefixes.into_iter().collect()
    } else {
        vec![Vec::new()]
    };
    Wanted {
        kinds,
        open_prefixes,
    }
}
