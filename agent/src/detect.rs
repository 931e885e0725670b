//! From an event with its context to alerts: evaluates the compiled rules and fills in the text of those that match.

mod identify;

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
};

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
use sha2::{Digest as _, Sha256};

use crate::{
    alert::{Alert, RuleInfo, hex},
    event::{Kind, TYPES, types_of},
    fields::EventView,
    metrics::Metrics,
    source::{OpenFilter, devices::NODE_PREFIXES},
};

use identify::Identify;

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
    identify: Identify,
}

/// What an alert needs of its rule, taken out of the bundle once.
#[derive(Debug)]
struct RuleText {
    name: String,
    priority: Priority,
    source: String,
    tags: Vec<String>,
    output: Template,
    /// Of its text: changes when it does.
    version: String,
}

/// What the kernel side must supply so that no rule misses an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Kinds of records.
    pub kinds: BTreeSet<Kind>,
    /// Which opens.
    pub opens: OpenFilter,
    /// Kinds of records that are wanted besides while a GPU's driver is there, and serve nobody without one.
    pub on_gpus: BTreeSet<Kind>,
}

impl Detect {
    /// Readies the rules of a bundle.
    pub fn new(bundle: Bundle, options: &DetectOptions) -> Self {
        let mut engine_options = EngineOptions::default();
        engine_options.rule_matching = if options.first_match {
            RuleMatching::First
        } else {
            RuleMatching::All
        };
        engine_options.sources = Some(vec!["syscall".into()]);
        let identify = Identify::new(bundle.source_digest());
        let engine = Engine::new(bundle, engine_options);
        let rules = engine
            .rules()
            .map(|rule| {
                let output = rule.output();
                let mut text = Sha256::new();
                for part in [rule.name(), rule.source(), rule.condition_text()] {
                    text.update(part);
                    text.update([0]);
                }
                text.update(format!(
                    "{:?} {:?} {output:?}",
                    rule.priority(),
                    rule.detection()
                ));
                RuleText {
                    version: hex(&text.finalize()[..8]),
                    name: rule.name().into(),
                    priority: rule.priority(),
                    source: rule.source().into(),
                    tags: rule.tags().map(str::to_owned).collect(),
                    output,
                }
            })
            .collect();
        let mut detector_options = DetectorOptions::default();
        detector_options.instances_max = options.instances_max;
        Self {
            detector: Detector::new(engine, detector_options),
            matches: Vec::new(),
            rules,
            identify,
        }
    }

    /// Whether alerts carry from now on what the format `ocsf` tells of them beyond their rules' fields.
    pub fn tell_context(&mut self, is_wanted: bool) {
        self.identify.with_context = is_wanted;
    }

    /// Do they?
    pub fn tells_context(&self) -> bool {
        self.identify.with_context
    }

    /// The rules.
    pub fn engine(&self) -> &Arc<Engine> {
        self.detector.engine()
    }

    /// Open sequences and durations.
    pub fn open_instances(&self) -> u64 {
        self.detector.stats().open
    }

    /// The place of each rule among those of `other`, by source and name.
    pub fn places_in(&self, other: &Self) -> Vec<Option<u32>> {
        let there: HashMap<_, _> = other
            .rules
            .iter()
            .zip(0..)
            .map(|(rule, place)| ((&rule.source, &rule.name), place))
            .collect();
        self.rules
            .iter()
            .map(|rule| there.get(&(&rule.source, &rule.name)).copied())
            .collect()
    }

    /// What the active rules ask of the kernel side. Starts, forks and ends of processes are always wanted: without them nobody
    /// would know who did what.
    pub fn wanted(&self) -> Wanted {
        let mut wanted = wanted(&self.detector.engine().kernel_filter());
        if self.asks_for_names() {
            wanted.kinds.insert(Kind::Dns);
        }
        // Who opened a GPU, and who looked for a mining pool, belongs to what is said of processes on GPUs.
        if self.detector.engine().kernel_filter().wants("gpu") {
            wanted.on_gpus = BTreeSet::from([Kind::DeviceOpen, Kind::Dns, Kind::Tls]);
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
        for (ordinal, found) in matches.drain(..).enumerate() {
            if alerted[..before].contains(&found.rule.0) {
                continue;
            }
            alerted.push(found.rule.0);
            let rule = &self.rules[found.rule.0 as usize];
            metrics.count_match(&rule.name, rule.priority.name());
            let info = RuleInfo {
                name: &rule.name,
                priority: rule.priority,
                source: &rule.source,
                tags: &rule.tags,
            };
            let mut alert = Alert::new(
                view.hostname,
                view.time_ns(),
                info,
                &rule.output.render(shown),
                rule.output.output_fields(shown),
            );
            let sequence = found.earlier.first().map(|first| first.at_ns);
            self.identify
                .identify(&mut alert, view, shown, &rule.version, ordinal, sequence);
            alerts(alert);
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
        on_gpus: BTreeSet::new(),
    }
}

/// The ends of paths that the kernel side cannot compare, of each of which it therefore reports every open: they have neither dot nor slash, or
/// what follows the last is longer than [`EXTENSION_BYTES`].
pub fn ends_beyond_the_kernel(filter: &KernelFilter) -> BTreeSet<Vec<u8>> {
    let opens = types_of(Kind::Open)
        .iter()
        .map(|name| filter.kinds.get(*name));
    let paths = opens.filter_map(|found| match found {
        Some(KindFilter::Open(open)) => Some([&open.any, &open.read, &open.write]),
        Some(_) | None => None,
    });
    let ends = paths.flatten().flat_map(|paths| &paths.suffixes);
    ends.filter(|end| extension(end).is_none())
        .cloned()
        .collect()
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
                    prefixes.extend(paths.prefixes.iter().cloned());
                    for path in &paths.exact {
                        // A path ends in its file's name, which costs less to look at than the whole.
                        match extension(path).filter(|_| !is_device(path)) {
                            Some(extension) => extensions.insert(extension.to_vec()),
                            None => prefixes.insert(path.clone()),
                        };
                    }
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
    let devices_only = prefixes.iter().all(|prefix: &Vec<u8>| is_device(prefix));
    OpenFilter {
        prefixes: prefixes.into_iter().collect(),
        resolved: !devices_only,
        extensions: extensions.into_iter().collect(),
        modules: false,
    }
}

fn is_device(path: &[u8]) -> bool {
    NODE_PREFIXES.iter().any(|device| path.starts_with(device))
}

/// The part of a suffix that the kernel side compares: what follows the last dot but one, where there are two and it is not too long, or the
/// last one; the whole name where it has no dot.
fn extension(suffix: &[u8]) -> Option<&[u8]> {
    let last = suffix
        .iter()
        .rposition(|byte| matches!(byte, b'.' | b'/'))?;
    let before = suffix[..last].iter().rposition(|byte| *byte == b'.');
    let pair = before.filter(|_| suffix[last] == b'.');
    let starts = pair.into_iter().chain([last]);
    starts
        .map(|start| &suffix[start..])
        .find(|extension| extension_key(extension).is_some())
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

    /// Of the default profile an open that nobody wants costs one look-up; of the others, whose rules ask for folders, a walk.
    #[test]
    fn the_shipped_rules_ask_for_names_of_files() {
        use saker_rules::{
            compile::CompileOptions,
            loader::{LoadOptions, load},
            packs,
            ruleset::Profile,
        };
        for profile in Profile::ALL {
            let load_options = LoadOptions {
                profile: Some(profile),
                ..LoadOptions::default()
            };
            let report = load(&packs::shipped(), &load_options);
            let bundle = Bundle::compile(&report.ruleset, &CompileOptions::default());
            let options = DetectOptions {
                first_match: false,
                instances_max: 10,
            };
            let opens = Detect::new(bundle.expect("they compile"), &options)
                .wanted()
                .opens;
            let is_default = profile == Profile::Default;
            assert_eq!(opens.resolved, !is_default, "{profile:?}: {opens:?}");
            assert!(!opens.extensions.is_empty(), "{profile:?}: {opens:?}");
            assert!(
                !opens.prefixes.iter().any(|prefix| prefix.len() < 6),
                "{profile:?}: {opens:?}"
            );
        }
    }

    #[test]
    fn ends_that_the_kernel_cannot_compare_are_named() {
        let ends = |texts: &[&str]| {
            let paths = PathFilter {
                suffixes: set(texts),
                ..PathFilter::default()
            };
            let mut filter = KernelFilter::default();
            let opens = RuleOpens {
                read: paths,
                ..RuleOpens::default()
            };
            filter
                .kinds
                .insert("openat".into(), KindFilter::Open(opens));
            ends_beyond_the_kernel(&filter)
        };
        assert_eq!(ends(&[".pt", "/token", "a.tar.gz"]), set(&[]));
        // Sixteen bytes with the dot fit, seventeen do not.
        assert_eq!(ends(&[".an-ending-of-16"]), set(&[]));
        assert_eq!(
            ends(&[".pt", ".an-extension-of-17", "shadow", "/a_name_of_17_byte"]),
            set(&[".an-extension-of-17", "shadow", "/a_name_of_17_byte"])
        );
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
            &extensions(&[".pt", ".tar.gz"]),
        );
        check(
            suffixes(&[".pkl.gz", ".gz", "a.tar.pkl.xz", ".longer-than-16.gz"]),
            &extensions(&[".gz", ".pkl.gz", ".pkl.xz"]),
        );
        check(suffixes(&["a.d/x.gz"]), &extensions(&[".gz"]));
        check(suffixes(&[".safetensors"]), &extensions(&[".safetensors"]));
        check(
            suffixes(&["/serviceaccount/token", ".pt", ".d/x", "ld.so.preload"]),
            &extensions(&["/token", ".pt", "/x", ".so.preload"]),
        );
        check(suffixes(&["shadow", ".pt"]), &OpenFilter::everything());
        check(suffixes(&["/a_name_of_17_byte"]), &OpenFilter::everything());
        check(
            suffixes(&[".an-extension-of-17"]),
            &OpenFilter::everything(),
        );
        let exact = |texts: &[&str]| PathFilter {
            exact: set(texts),
            ..PathFilter::default()
        };
        check(
            exact(&["/etc/shadow", "/etc/ld.so.preload"]),
            &extensions(&[".so.preload", "/shadow"]),
        );
        let prefixes = |texts: &[&str]| PathFilter {
            prefixes: set(texts),
            ..PathFilter::default()
        };
        let by_prefix = |texts: &[&str], resolved| OpenFilter {
            prefixes: list(texts),
            resolved,
            ..OpenFilter::default()
        };
        check(
            prefixes(&["/dev/nvidia"]),
            &by_prefix(&["/dev/nvidia"], false),
        );
        check(
            prefixes(&["/dev/nvidia", "/etc/"]),
            &by_prefix(&["/dev/nvidia", "/etc/"], true),
        );
        check(exact(&["/dev/kfd"]), &by_prefix(&["/dev/kfd"], false));
        check(
            exact(&["/etc/a_name_of_16_byte"]),
            &by_prefix(&["/etc/a_name_of_16_byte"], true),
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
