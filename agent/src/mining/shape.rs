//! The family `gpu`: what a process's use of the GPU looks like over some minutes.
//!
//! Only the moments in which it works are compared, so that a miner that pauses looks like one that does not. Medians and quartiles, because
//! a look at the edge of a turn is half of each.

use std::collections::VecDeque;

use super::{Evidence, Point};
use crate::event::gpu::Pipes;

/// A process that uses less is not judged by its shape, percent of the multiprocessors.
const LEVEL_MIN: f32 = 15.0;
/// A moment counts as work from this part of the level on.
const WORKING: f32 = 0.7;
/// Between the quartiles, percent of the level.
const FLAT: f32 = 4.0;
/// Between the quartiles of integer arithmetic for each percent of the multiprocessors, percent of its own median, up to which it is always
/// the same: also of a miner whose intensity varies.
const SAME: f32 = 4.0;
/// And between the tenth from below and the tenth from above, from which on work is of uneven pieces: a stage may be rare. Points of integer
/// arithmetic, besides: where there is little of it, it is the noise that varies.
const UNEVEN: f32 = 10.0;
const UNEVEN_POINTS: f32 = 3.0;
/// The same of the memory's bandwidth.
const UNEVEN_MEMORY: f32 = 25.0;
const UNEVEN_MEMORY_POINTS: f32 = 10.0;
/// Bytes a second. A language model's logits alone are some 10 MB/s at some 50 tokens a second.
const QUIET: f32 = 10e6;
const BUSY_BUS: f32 = 100e6;
/// Encoders and decoders, percent.
const VIDEO: f32 = 20.0;
/// Floating point and tensor cores for each part of integer arithmetic, in the mean: what is a trace, and what no hashing does. Between the
/// two neither is said. A miner that adds some to hide pays for it in power and time; honest work has it in the order of its
/// integer arithmetic, which is mostly of addresses.
const TRACE: f32 = 0.13;
const ARITHMETIC: f32 = 0.25;
/// Less than this, percent of the multiprocessors' time, is nothing at all.
const ARITHMETIC_LEAST: f32 = 1.5;
/// Multiplications of integers run where FP32 does, and some counters take them for it: so much of the integers' share is a trace of them.
const FP32_OF_INTEGER: f32 = 0.4;
/// Integer arithmetic that makes a hash by itself, and that of one which waits for memory.
const INTEGER: f32 = 20.0;
const INTEGER_LEAST: f32 = 8.0;
const MEMORY_HARD: f32 = 60.0;
const SHARE_STEADY: f32 = 0.98;
/// Turns that must be seen, and how much their length may vary.
const TURNS_MIN: usize = 2;
const TURN_VARIES: f32 = 0.25;

/// What the looks say. Nothing until they go back for `observe_ns`.
pub fn evidence(series: &VecDeque<Point>, observe_ns: u64) -> Vec<Evidence> {
    let mut found = Vec::new();
    let (Some(first), Some(last)) = (series.front(), series.back()) else {
        return found;
    };
    let seen_ns = last.at_ns.saturating_sub(first.at_ns);
    if seen_ns < observe_ns || series.len() < 6 {
        return found;
    }
    let level = quantile(series.iter().map(|point| point.sm).collect(), 0.9);
    if level < LEVEL_MIN {
        return found;
    }
    let working: Vec<&Point> = series
        .iter()
        .filter(|point| point.sm >= WORKING * level)
        .collect();
    let share = working.len() as f32 / series.len() as f32;
    let sm = Spread::of(working.iter().map(|point| point.sm));
    let counted: Vec<_> = working.iter().filter_map(|point| point.pipes).collect();
    let bus = Spread::of(working.iter().filter_map(|point| point.bus));
    let video = Spread::of(working.iter().map(|point| point.video));
    let is_flat = sm.between <= FLAT * level / 100.0;
    let is_quiet = bus.count * 2 > working.len() && bus.median <= QUIET && bus.high <= 2.0 * QUIET;
    let is_steady = share >= SHARE_STEADY;
    let turns = if is_steady {
        None
    } else {
        turns(series, level)
    };
    let minutes = seen_ns / 60_000_000_000;
    if counted.len() * 2 <= working.len() {
        if is_flat && is_quiet && (is_steady || turns.is_some()) {
            let what = format!(
                "multiprocessors {:.0} % within {:.1}, bus {:.1} MB/s, working {:.0} % of {minutes} min",
                sm.median,
                sm.between,
                bus.median / 1e6,
                share * 100.0
            );
            found.push(Evidence::of("gpu.busy-quiet", what));
        }
        against(&bus, &video, working.len(), &mut found);
        return found;
    }
    let integer = Spread::of(counted.iter().map(|pipes| pipes.integer));
    let dram = Spread::of(counted.iter().map(|pipes| pipes.dram));
    // As parts of what it uses, so that a miner that holds itself back has the same shape.
    let part = |value: f32| value / sm.median * 100.0;
    let mixture = Spread::of(
        counted
            .iter()
            .map(|pipes| pipes.integer / pipes.sm.max(1.0)),
    );
    let is_same = mixture.between <= SAME / 100.0 * mixture.median;
    let mean = |of: fn(&Pipes) -> f32| {
        let sum: f32 = counted.iter().map(of).sum();
        sum / counted.len() as f32
    };
    // Means, and not medians: a model that computes on integers while it writes still reads its prompts with tensor cores.
    let (tensor, fp32, integers) = (
        mean(|pipes| pipes.tensor),
        mean(|pipes| pipes.fp32),
        mean(|pipes| pipes.integer),
    );
    let other = mean(|pipes| pipes.fp16 + pipes.fp64);
    let does = format!(
        "integer {:.0} %, tensor {:.1} %, floating point {:.1} %, multiprocessors {:.0} % over {minutes} min",
        integer.median,
        tensor,
        fp32 + other,
        sm.median
    );
    let float = tensor + other + (fp32 - FP32_OF_INTEGER * integers).max(0.0);
    if float > TRACE * integers && part(float) >= ARITHMETIC_LEAST {
        if float >= ARITHMETIC * integers {
            found.push(Evidence::of("gpu.arithmetic", does));
        }
        return found;
    }
    let is_memory_hard = part(dram.median) >= MEMORY_HARD;
    if part(integer.median) >= INTEGER {
        found.push(Evidence::of("gpu.integer", does));
    } else if is_memory_hard && part(integer.median) >= INTEGER_LEAST {
        found.push(Evidence::of("gpu.memory-bound", does));
    } else {
        return found;
    }
    if is_memory_hard {
        let what = format!("{:.0} % of the memory's bandwidth", dram.median);
        found.push(Evidence::of("gpu.memory-hard", what));
    }
    let varies = format!(
        "half of all looks within {:.1} points, integer's part of it within {:.1} %, of eight in ten within {:.1} %",
        sm.between,
        mixture.between / mixture.median.max(f32::MIN_POSITIVE) * 100.0,
        (mixture.high - mixture.low) / mixture.median.max(f32::MIN_POSITIVE) * 100.0
    );
    let is_uneven = |of: &Spread, percent: f32, points: f32| {
        let wide = of.high - of.low;
        wide >= percent / 100.0 * of.median && wide * sm.median >= points
    };
    let memory = Spread::of(counted.iter().map(|pipes| pipes.dram / pipes.sm.max(1.0)));
    if is_uneven(&mixture, UNEVEN, UNEVEN_POINTS)
        || is_uneven(&memory, UNEVEN_MEMORY, UNEVEN_MEMORY_POINTS)
    {
        found.push(Evidence::of("gpu.uneven", varies));
    } else if is_flat && integer.between <= FLAT * level / 100.0 || is_same {
        found.push(Evidence::of("gpu.flat", varies));
    }
    if is_quiet {
        let what = format!("{:.1} MB/s", bus.median / 1e6);
        found.push(Evidence::of("gpu.quiet-bus", what));
    }
    against(&bus, &video, working.len(), &mut found);
    if is_steady {
        let what = format!("working {:.0} % of {minutes} min", share * 100.0);
        found.push(Evidence::of("gpu.steady", what));
    } else if let Some(turn) = turns {
        let what = format!(
            "on for {turn:.0} s at a time, {:.0} % of {minutes} min",
            share * 100.0
        );
        found.push(Evidence::of("gpu.cycled", what));
    }
    found
}

/// What speaks against hashing, with counters and without.
fn against(bus: &Spread, video: &Spread, looks: usize, found: &mut Vec<Evidence>) {
    if bus.count * 2 > looks && bus.median >= BUSY_BUS {
        let what = format!("{:.0} MB/s", bus.median / 1e6);
        found.push(Evidence::of("gpu.busy-bus", what));
    }
    if video.median >= VIDEO {
        let what = format!("{:.0} % of their time", video.median);
        found.push(Evidence::of("gpu.video", what));
    }
}

/// The length in seconds of the turns in which it works, where there are several of equal length and it is idle between.
fn turns(series: &VecDeque<Point>, level: f32) -> Option<f32> {
    let mut lengths = Vec::new();
    // None before the first pause: that turn began before the series.
    let mut begun = None;
    let mut is_working = true;
    let mut middling = 0;
    for point in series {
        let works = point.sm >= 0.5 * level;
        middling += usize::from(point.sm > 0.15 * level && point.sm < WORKING * level);
        if works != is_working {
            match (works, begun) {
                (true, _) => begun = Some(point.at_ns),
                (false, Some(from)) => lengths.push(point.at_ns.saturating_sub(from) as f32 / 1e9),
                (false, None) => {}
            }
            is_working = works;
        }
    }
    // A look in each edge is neither.
    if lengths.len() < TURNS_MIN || middling > 2 * lengths.len() + 4 {
        return None;
    }
    let mean = lengths.iter().sum::<f32>() / lengths.len() as f32;
    let is_equal = lengths
        .iter()
        .all(|length| (length - mean).abs() <= TURN_VARIES * mean);
    is_equal.then_some(mean)
}

/// Where values lie.
struct Spread {
    count: usize,
    median: f32,
    /// Distance between the quartiles.
    between: f32,
    /// Nine of ten are above.
    low: f32,
    /// Nine of ten are below.
    high: f32,
}

impl Spread {
    fn of(values: impl Iterator<Item = f32>) -> Self {
        let mut values: Vec<f32> = values.collect();
        values.sort_unstable_by(f32::total_cmp);
        let at = |part: f32| {
            let place = (values.len().saturating_sub(1)) as f32 * part;
            values.get(place.round() as usize).copied().unwrap_or(0.0)
        };
        Self {
            count: values.len(),
            median: at(0.5),
            between: at(0.75) - at(0.25),
            low: at(0.1),
            high: at(0.9),
        }
    }
}

fn quantile(mut values: Vec<f32>, part: f32) -> f32 {
    values.sort_unstable_by(f32::total_cmp);
    let place = (values.len().saturating_sub(1)) as f32 * part;
    values.get(place.round() as usize).copied().unwrap_or(0.0)
}
