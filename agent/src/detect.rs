//! From an event with its context to alerts: evaluates the compiled rules and fills in the text of those that match.

use std::{collections::BTreeSet, mem};

use saker_ebpf::extension::{EXTENSIONS_MAX, extension_key};
use saker_rules::{
    bundle::Bundle,
    engine::{Engine, EngineOptions, RuleMatching},
    expr::FieldArg,
    fields::Field,
    kernel_filter::{KernelFilter, KindFilter},
    ruleset::Priority,
    state::{Detector, DetectorOptions, Match},
    template::Template,
};

use crate::{
    alert::{Alert, RuleInfo},
    event::{Kind, TYPES, types_of},
    fields::EventView,
    metrics::{Metrics, RuleName, State},
    source::{OpenFilter, devices::NODE_PREFIXES},
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
    /// Which opens.
    pub opens: OpenFilter,
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
        let mut wanted = wanted(&self.detector.engine().kernel_filter());
        if self.asks_for_names() {
            wanted.kinds.insert(Kind::Dns);
        }
        wanted
    }

    /// Does a rule ask for names of addresses? They come from DNS answers, which no rule need ask for itself.
    fn asks_for_names(&self) -> bool {
        let engine = self.detector.engine();
        let conditions = TYPES.iter().flat_map(|kind| engine.fields_used(kind));
        let outputs = self.rules.iter().flat_map(|rule| rule.output.fields());
        conditions.chain(outputs.cloned()).any(|field| {
            matches!(
                field.field,
                Field::FdCipName | Field::FdSipName | Field::FdLipName | Field::FdRipName
            )
        })
    }

    /// Environment variables to record of processes: those of the configuration, and those that rules name.
    pub fn variables(&self, configured: &[String]) -> Vec<String> {
        let engine = self.detector.engine();
        let mut names: BTreeSet<String> = configured.iter().cloned().collect();
        let conditions = TYPES.iter().flat_map(|kind| engine.fields_used(kind));
        let outputs = self.rules.iter().flat_map(|rule| rule.output.fields());
        for field in conditions.chain(outputs.cloned()) {
            if let (Field::ProcEnv | Field::ProcAenv, FieldArg::Key(name)) =
                (field.field, field.arg)
            {
                names.insert(name.to_string());
            }
        }
        names.into_iter().collect()
    }

    /// Evaluates one event and hands on an alert for each rule that it completes, with values as they are `shown`. Rules that have
    /// `alerted` of the same act by another event are silent, and those that do so now are added.
    pub fn observe(
        &mut self,
        view: &EventView<'_>,
        shown: &EventView<'_>,
        metrics: &Metrics,
        alerted: &mut Vec<u32>,
        alerts: &mut dyn FnMut(Alert),
    ) {
        self.detector
            .observe(view, view.event.ts_ns, &mut self.matches);
        if self.matches.is_empty() {
            return;
        }
        // One event can complete a rule more than once.
        let before = alerted.len();
        let mut matches = mem::take(&mut self.matches);
        for found in matches.drain(..) {
            if alerted[..before].contains(&found.rule.0) {
                continue;
            }
            alerted.push(found.rule.0);
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
                &rule.output.render(shown),
                rule.output.output_fields(shown),
            ));
        }
        self.matches = matches;
    }
}

fn wanted(filter: &KernelFilter) -> Wanted {
    let mut kinds = BTreeSet::from([Kind::Exec, Kind::Fork, Kind::Exit, Kind::CgroupMkdir]);
    kinds.extend(
        Kind::ALL
            .into_iter()
            .filter(|kind| types_of(*kind).iter().any(|name| filter.wants(name))),
    );
    Wanted {
        kinds,
        opens: wanted_opens(filter),
    }
}

fn wanted_opens(filter: &KernelFilter) -> OpenFilter {
    let mut prefixes = BTreeSet::new();
    let mut extensions = BTreeSet::new();
    for name in types_of(Kind::Open) {
        match filter.kinds.get(*name) {
            Some(KindFilter::Open(open)) => {
                for paths in [&open.any, &open.read, &open.write] {
                    if !paths.everything.is_empty() {
                        return OpenFilter::everything();
                    }
                    prefixes.extend(paths.exact.iter().chain(&paths.prefixes).cloned());
                    for suffix in &paths.suffixes {
                        match extension(suffix) {
                            Some(extension) => extensions.insert(extension.to_vec()),
                            // Whatever the kernel side cannot check passes there and is decided here.
                            None => return OpenFilter::everything(),
                        };
                    }
                }
            }
            Some(_) => return OpenFilter::everything(),
            None if !filter.any_kind.is_empty() => return OpenFilter::everything(),
            None => {}
        }
    }
    if extensions.len() > EXTENSIONS_MAX as usize {
        return OpenFilter::everything();
    }
    // Devices are seen by their numbers however the path is written, so for them alone the path as passed will do.
    let devices_only = prefixes.iter().all(|prefix: &Vec<u8>| {
        NODE_PREFIXES
            .iter()
            .any(|device| prefix.starts_with(device))
    });
    OpenFilter {
        prefixes: prefixes.into_iter().collect(),
        resolved: !devices_only,
        extensions: extensions.into_iter().collect(),
    }
}

/// The part of a suffix that the kernel side compares: what follows the last dot, with it.
fn extension(suffix: &[u8]) -> Option<&[u8]> {
    let dot = suffix.iter().rposition(|byte| *byte == b'.')?;
    let extension = &suffix[dot..];
    extension_key(extension).map(|_| extension)
}

#[cfg(test)]
mod tests {
    use super::*;
    use saker_rules::kernel_filter::{OpenFilter as RuleOpens, PathFilter};

    fn check(paths: PathFilter, expected: &OpenFilter) {
        let opens = RuleOpens {
            any: paths,
            ..RuleOpens::default()
        };
        let mut filter = KernelFilter::default();
        filter
            .kinds
            .insert("openat".into(), KindFilter::Open(opens));
        assert_eq!(&wanted_opens(&filter), expected, "{filter:?}");
    }

    fn set(texts: &[&str]) -> BTreeSet<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    fn list(texts: &[&str]) -> Vec<Vec<u8>> {
        set(texts).into_iter().collect()
    }

    #[test]
    fn rules_and_sensor_agree_on_what_devices_are_called() {
        assert_eq!(saker_rules::kernel_filter::DEVICE_PATHS, NODE_PREFIXES);
    }

    #[test]
    fn the_kernel_checks_what_it_can_and_passes_the_rest() {
        let suffixes = |texts: &[&str]| PathFilter {
            suffixes: set(texts),
            ..PathFilter::default()
        };
        let extensions = |texts: &[&str]| OpenFilter {
            extensions: list(texts),
            ..OpenFilter::default()
        };
        check(
            suffixes(&[".pt", "model.tar.gz"]),
            &extensions(&[".gz", ".pt"]),
        );
        check(suffixes(&[".safetensors"]), &extensions(&[".safetensors"]));
        check(suffixes(&["/shadow", ".pt"]), &OpenFilter::everything());
        check(
            suffixes(&[".an-extension-of-17"]),
            &OpenFilter::everything(),
        );
        check(suffixes(&[".d/x"]), &OpenFilter::everything());
        let prefixes = |texts: &[&str]| PathFilter {
            prefixes: set(texts),
            ..PathFilter::default()
        };
        let by_prefix = |texts: &[&str], resolved| OpenFilter {
            prefixes: list(texts),
            resolved,
            extensions: Vec::new(),
        };
        check(
            prefixes(&["/dev/nvidia"]),
            &by_prefix(&["/dev/nvidia"], false),
        );
        check(
            prefixes(&["/dev/nvidia", "/etc/"]),
            &by_prefix(&["/dev/nvidia", "/etc/"], true),
        );
        check(
            PathFilter {
                everything: BTreeSet::from(["a rule".to_owned()]),
                prefixes: set(&["/etc/"]),
                ..PathFilter::default()
            },
            &OpenFilter::everything(),
        );
    }
}
