//! The tables of `matcher` beside the automata that could do their work: nanoseconds a value, megabytes, milliseconds to build.
//!
//! `cargo bench -p saker-rules --bench automata`. Constants are made-up words of 12 to 18 bytes, values are paths and command lines that contain
//! none of them, as most values do.

use std::{hint::black_box, time::Instant};

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use regex_automata::{
    Anchored, Input, MatchKind,
    dfa::{Automaton, StartKind, dense},
};
use saker_rules::matcher::{
    Pool,
    affix::{self, End},
    gram,
};

const SIZES: [usize; 3] = [100, 1_000, 10_000];
const VALUES: [&str; 6] = [
    "/usr/lib/python3/dist-packages/torch/lib/libtorch_cuda.so",
    "python3 -m torch.distributed.run --nproc_per_node=8 /workspace/train.py",
    "/home/app/.cache/huggingface/hub/models--org--model/blobs/0a1b2c3d",
    "sh -c curl -fsSL https://example.com/install.sh | sh",
    "/etc/ssl/certs/ca-certificates.crt",
    "java -Xmx4g -jar -Dconfig=/etc/app/app.conf /srv/app/service.jar",
];

fn main() {
    let bytes: usize = VALUES.iter().map(|value| value.len()).sum();
    println!("values of {} bytes on average\n", bytes / VALUES.len());
    println!(
        "| test | constants | structure | ns a value | MB | ms to build |\n|---|---|---|---|---|---|"
    );
    for size in SIZES {
        let words = constants(size, "");
        contains(&words);
        let paths = constants(size, "/opt/");
        starts_with(&paths);
    }
}

fn constants(count: usize, before: &str) -> Vec<String> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % bound
    };
    let syllables = [
        "ba", "ko", "ri", "stu", "mel", "no", "xa", "tir", "pla", "zon", "ge", "vu",
    ];
    let mut words: Vec<String> = (0..count * 2)
        .map(|_| {
            let mut word = before.to_owned();
            let len = 12 + next(7);
            while word.len() < len {
                word.push_str(syllables[next(syllables.len())]);
            }
            word
        })
        .collect();
    words.sort();
    words.dedup();
    words.truncate(count);
    words
}

fn row(
    test: &str,
    count: usize,
    name: &str,
    bytes: usize,
    built: f64,
    mut find: impl FnMut(&[u8]) -> usize,
) {
    let mut samples: Vec<f64> = (0..31)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..2_000 {
                for value in VALUES {
                    black_box(find(black_box(value.as_bytes())));
                }
            }
            start.elapsed().as_nanos() as f64 / (2_000 * VALUES.len()) as f64
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    println!(
        "| {test} | {count} | {name} | {:.0} | {:.2} | {built:.1} |",
        samples[15],
        bytes as f64 / 1e6
    );
}

fn timed<T>(build: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let built = build();
    (built, start.elapsed().as_secs_f64() * 1e3)
}

fn contains(words: &[String]) {
    let keyed = || words.iter().map(|word| word.as_bytes()).zip(0_u32..);
    let mut pool = Pool::default();
    let (table, built) = timed(|| gram::build(&mut pool, keyed()));
    let bytes = pool.words.len() * 4 + pool.quads.len() * 8;
    row(
        "contains",
        words.len(),
        "gram table",
        bytes,
        built,
        |value| {
            let mut found = 0;
            gram::find(pool.as_ref(), &table, value, |key, start| {
                found += usize::from(value[start..].starts_with(words[key as usize].as_bytes()));
            });
            found
        },
    );
    let kinds = [
        ("Aho-Corasick, contiguous", AhoCorasickKind::ContiguousNFA),
        ("Aho-Corasick, DFA", AhoCorasickKind::DFA),
    ];
    for (name, kind) in kinds {
        let (automaton, built) = timed(|| {
            AhoCorasick::builder()
                .kind(Some(kind))
                .build(words)
                .expect("words fit")
        });
        row(
            "contains",
            words.len(),
            name,
            automaton.memory_usage(),
            built,
            |value| automaton.find_overlapping_iter(value).count(),
        );
    }
}

fn starts_with(paths: &[String]) {
    let keyed = || paths.iter().map(|path| path.as_bytes()).zip(0_u32..);
    let mut pool = Pool::default();
    let (table, built) = timed(|| affix::build(&mut pool, End::Front, keyed()));
    let bytes = pool.words.len() * 4 + pool.quads.len() * 8;
    row(
        "startswith",
        paths.len(),
        "affix table",
        bytes,
        built,
        |value| {
            let mut found = 0;
            affix::find(pool.as_ref(), table, End::Front, value, |_| found += 1);
            found
        },
    );
    let (sorted, built) = timed(|| {
        let mut sorted = paths.to_vec();
        sorted.sort();
        sorted
    });
    let mut lengths: Vec<usize> = paths.iter().map(String::len).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let bytes = paths.iter().map(|path| path.len() + 4).sum();
    row(
        "startswith",
        paths.len(),
        "binary search by length",
        bytes,
        built,
        |value| {
            let cut = |len: &usize| {
                value.get(..*len).is_some_and(|start| {
                    sorted
                        .binary_search_by(|path| path.as_bytes().cmp(start))
                        .is_ok()
                })
            };
            lengths.iter().filter(|len| cut(len)).count()
        },
    );
    let (dense, dense_built) = timed(|| {
        dense::Builder::new()
            .configure(
                dense::Config::new()
                    .start_kind(StartKind::Anchored)
                    .match_kind(MatchKind::All),
            )
            .build_many(
                &paths
                    .iter()
                    .map(|path| path.replace('.', "\\."))
                    .collect::<Vec<_>>(),
            )
            .expect("paths fit")
    });
    let (sparse, sparse_built) = timed(|| dense.to_sparse().expect("it fits"));
    row(
        "startswith",
        paths.len(),
        "regex-automata dense",
        dense.memory_usage(),
        dense_built,
        |value| search(&dense, value),
    );
    let built = dense_built + sparse_built;
    row(
        "startswith",
        paths.len(),
        "regex-automata sparse",
        sparse.memory_usage(),
        built,
        |value| search(&sparse, value),
    );
}

fn search(automaton: &impl Automaton, value: &[u8]) -> usize {
    let input = Input::new(value).anchored(Anchored::Yes);
    usize::from(
        automaton
            .try_search_fwd(&input)
            .is_ok_and(|found| found.is_some()),
    )
}
