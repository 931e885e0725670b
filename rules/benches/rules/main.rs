//! Nanoseconds and instructions per event: the engine, a tree walk and wirefilter, on the same events in the same run.
//!
//! `cargo bench -p saker-rules --bench rules` prints a table. Contenders take turns in many short rounds, and medians are compared, so that a
//! noisy neighbour hits all of them. Instructions are counted by callgrind, where it is installed (`SAKER_BENCH_INSTRUCTIONS=0` skips
//! it). `SAKER_BENCH_ROUNDS` sets the rounds.

mod corpus;
mod events;
mod peers;

use std::{env, fs, hint::black_box, path::Path, process::Command, time::Instant};

use events::BenchEvent;
use peers::{TreeWalk, Wirefilter};
use saker_rules::{
    bundle::Bundle,
    compile::CompileOptions,
    engine::{Engine, EngineOptions, Scratch},
    loader::{self, LoadOptions, SourceFile},
    ruleset::RuleSet,
};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

fn main() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/falco");
    let events: &'static [BenchEvent] =
        events::events(&shared.join("conformance/oracle_sample.json")).leak();
    let mut args = env::args().skip(1);
    if args.next().as_deref() == Some("--count") {
        let (contender, set) = (
            args.next().expect("a contender"),
            args.next().expect("a rule set"),
        );
        count(&contender, &set, &shared, events);
        return;
    }
    println!(
        "| rules | visited | engine ns | tree walk ns | ratio | wirefilter ns (rules) | engine on those ns | ratio | \
         engine / tree walk instructions | matches |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    let mut costs = Vec::new();
    if shared.exists() {
        compare("falco", &shared, events);
    } else {
        println!("| falco: skipped, no rules at {} |", shared.display());
    }
    for size in SIZES {
        costs.push((size, compare(&size.to_string(), &shared, events)));
    }
    let cost = |wanted| {
        costs
            .iter()
            .find(|(size, _)| *size == wanted)
            .map_or(f64::NAN, |(_, cost)| *cost)
    };
    println!(
        "\nengine at 10,000 rules / at 100: {:.2}",
        cost(10_000) / cost(100)
    );
    load();
}

/// The rules of a set: Falco's own files, or so many made-up ones.
fn source(set: &str, shared: &Path) -> Vec<SourceFile> {
    let Ok(count) = set.parse() else {
        let names = [
            "falco_rules.yaml",
            "falco-incubating_rules.yaml",
            "falco-sandbox_rules.yaml",
        ];
        return names
            .iter()
            .map(|name| {
                SourceFile::new(
                    *name,
                    fs::read_to_string(shared.join("rules").join(name))
                        .expect("Falco's rules are there"),
                )
            })
            .collect();
    };
    vec![SourceFile::new("bench.yaml", corpus::rules(count))]
}

fn rules(set: &str, shared: &Path) -> RuleSet {
    let report = loader::load(&source(set, shared), &LoadOptions::default());
    assert!(!report.has_errors(), "{}", report.render(false));
    let mut rules = report.ruleset;
    // Falco disables some of its rules; all are measured.
    rules.rules.iter_mut().for_each(|rule| rule.enabled = true);
    rules
}

fn engine(rules: &RuleSet) -> Engine {
    let bundle = Bundle::compile(rules, &CompileOptions::default()).expect("the rules compile");
    Engine::new(bundle, EngineOptions::default())
}

#[inline(never)]
fn run_engine(engine: &Engine, scratch: &mut Scratch, events: &[BenchEvent]) -> usize {
    let mut out = Vec::with_capacity(64);
    let mut matches = 0;
    for event in events {
        out.clear();
        engine.evaluate(scratch, black_box(event), &mut out);
        matches += out.len();
    }
    matches
}

#[inline(never)]
fn run_tree(tree: &TreeWalk, events: &[BenchEvent]) -> usize {
    events
        .iter()
        .map(|event| tree.matches(black_box(event)))
        .sum()
}

#[inline(never)]
fn run_wirefilter(wirefilter: &Wirefilter, events: &[BenchEvent]) -> usize {
    events
        .iter()
        .enumerate()
        .map(|(index, event)| wirefilter.matches(index, black_box(event)))
        .sum()
}

fn compare(set: &str, shared: &Path, events: &'static [BenchEvent]) -> f64 {
    let rules = rules(set, shared);
    let engine = engine(&rules);
    let tree = TreeWalk::new(&rules, events);
    let wirefilter = Wirefilter::new(&rules, events);
    let subset = self::engine(&wirefilter.expressed);
    let mut subset_scratch = subset.scratch();
    let mut scratch = engine.scratch();
    let (expected, found) = (
        run_tree(&tree, events),
        run_engine(&engine, &mut scratch, events),
    );
    assert_eq!(expected, found, "the engine and the tree walk disagree");
    let rounds = env::var("SAKER_BENCH_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(31);
    // Fast contenders repeat the events within a round, so that every round lasts long enough for the clock.
    let mut samples: [Vec<f64>; 4] = Default::default();
    let is_large = rules.rules.len() > 2_000;
    for _ in 0..if is_large { rounds / 3 + 1 } else { rounds } {
        samples[0].push(time(events.len(), 20, || {
            run_engine(&engine, &mut scratch, events)
        }));
        samples[1].push(time(events.len(), if is_large { 1 } else { 5 }, || {
            run_tree(&tree, events)
        }));
        samples[2].push(time(events.len(), if is_large { 1 } else { 5 }, || {
            run_wirefilter(&wirefilter, events)
        }));
        samples[3].push(time(events.len(), 20, || {
            run_engine(&subset, &mut subset_scratch, events)
        }));
    }
    let [own, walk, wire, part] = samples.map(median);
    let instructions = match (instructions("engine", set), instructions("tree", set)) {
        (Some(own), Some(walk)) => format!(
            "{:.0} / {:.0}",
            own / events.len() as f64,
            walk / events.len() as f64
        ),
        _ => "not counted".into(),
    };
    println!(
        "| {set} ({}) | {:.0} | {own:.0} | {walk:.0} | {:.1} | {wire:.0} ({}) | {part:.0} | {:.1} | {instructions} | {:.2} |",
        rules.rules.len(),
        tree.visited(events),
        walk / own,
        wirefilter.expressed.rules.len(),
        wire / part,
        found as f64 / events.len() as f64,
    );
    own
}

fn time(events: usize, repeat: usize, mut run: impl FnMut() -> usize) -> f64 {
    let start = Instant::now();
    for _ in 0..repeat {
        black_box(run());
    }
    start.elapsed().as_nanos() as f64 / (events * repeat) as f64
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// How long 10,000 rules take to load, from YAML and from a bundle, and how large they are.
fn load() {
    let files = [SourceFile::new("bench.yaml", corpus::rules(10_000))];
    let start = Instant::now();
    let report = loader::load(&files, &LoadOptions::default());
    let yaml = start.elapsed();
    let start = Instant::now();
    let bundle =
        Bundle::compile(&report.ruleset, &CompileOptions::default()).expect("the rules compile");
    let compile = start.elapsed();
    let path = env::temp_dir().join(format!("saker-bench-{}.bundle", std::process::id()));
    bundle
        .write_to(&path)
        .expect("the temporary folder is writable");
    let mut opens: Vec<f64> = (0..15)
        .map(|_| {
            let start = Instant::now();
            let engine = Engine::new(
                Bundle::open(&path).expect("the bundle loads"),
                EngineOptions::default(),
            );
            black_box(engine.scratch());
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    opens.sort_by(f64::total_cmp);
    fs::remove_file(&path).expect("the bundle is there");
    println!(
        "10,000 rules: YAML {:.0} ms + compile {:.0} ms = {:.0} ms; from a bundle {:.2} ms; bundle {:.2} MB, of it index {:.2} MB",
        yaml.as_secs_f64() * 1e3,
        compile.as_secs_f64() * 1e3,
        (yaml + compile).as_secs_f64() * 1e3,
        opens[opens.len() / 2],
        bundle.as_bytes().len() as f64 / 1e6,
        bundle.index_len() as f64 / 1e6,
    );
}

/// Runs under callgrind: evaluates every event once inside `counted`, which alone is counted.
fn count(contender: &str, set: &str, shared: &Path, events: &'static [BenchEvent]) {
    let rules = rules(set, shared);
    let matches = match contender {
        "engine" => {
            let engine = engine(&rules);
            let mut scratch = engine.scratch();
            run_engine(&engine, &mut scratch, events);
            saker_bench_counted(&mut || run_engine(&engine, &mut scratch, events))
        }
        _ => {
            let tree = TreeWalk::new(&rules, events);
            saker_bench_counted(&mut || run_tree(&tree, events))
        }
    };
    println!("{matches} matches");
}

#[inline(never)]
fn saker_bench_counted(run: &mut dyn FnMut() -> usize) -> usize {
    black_box(run())
}

fn instructions(contender: &str, set: &str) -> Option<f64> {
    // Loading thousands of rules under callgrind takes minutes and says nothing new.
    if env::var("SAKER_BENCH_INSTRUCTIONS").is_ok_and(|wanted| wanted == "0") || set == "10000" {
        return None;
    }
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--toggle-collect=*saker_bench_counted*",
        ])
        .arg(env::current_exe().ok()?)
        .args(["--count", contender, set])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines()
        .find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}
