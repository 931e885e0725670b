//! The family `gpu`: what a process's use of the GPU looks like over some minutes.
//!
//! Only the moments in which it works are compared, so that a miner that pauses looks like one that does not. Medians and quartiles, because
//! a look at the edge of a turn is half of each.

use std::collections::VecDeque;

use super::{Evidence, Point};

/// A process that uses less is not judged by its shape, percent of the multiprocessors.
const LEVEL_MIN: f32 = 15.0;
/// A moment counts as work from this part of the level on.
const WORKING: f32 = 0.7;
/// Between the quartiles, percent of the level.
const FLAT: f32 = 4.0;
/// Between the quartiles, percent of the level, from which on work is of uneven pieces.
const UNEVEN: f32 = 8.0;
/// The same of integer arithmetic, percent of its own median.
const UNEVEN_INTEGER: f32 = 10.0;
/// Bytes a second.
const QUIET: f32 = 20e6;
const BUSY_BUS: f32 = 100e6;
/// Encoders and decoders, percent.
const VIDEO: f32 = 20.0;
/// Parts of the level, percent: what is no hashing.
const TENSOR: f32 = 1.5;
const FLOAT: f32 = 3.0;
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
        return found;
    }
    let tensor = Spread::of(counted.iter().map(|pipes| pipes.tensor));
    let fp32 = Spread::of(counted.iter().map(|pipes| pipes.fp32));
    let other = Spread::of(counted.iter().map(|pipes| pipes.fp16 + pipes.fp64));
    let integer = Spread::of(counted.iter().map(|pipes| pipes.integer));
    let dram = Spread::of(counted.iter().map(|pipes| pipes.dram));
    // As parts of the level, so that a miner that holds itself back has the same shape.
    let part = |value: f32| value / level * 100.0;
    let does = format!(
        "integer {:.0} %, tensor {:.1} %, floating point {:.1} %, multiprocessors {:.0} % over {minutes} min",
        integer.median,
        tensor.median,
        fp32.median + other.median,
        sm.median
    );
    let is_trace =
        fp32.median <= FP32_OF_INTEGER * integer.median && part(integer.median) >= INTEGER;
    let float = if is_trace { 0.0 } else { fp32.median } + other.median;
    if part(tensor.median) >= TENSOR || part(float) >= FLOAT {
        found.push(Evidence::of("gpu.arithmetic", does));
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
    if is_flat && integer.between <= FLAT * level / 100.0 {
        let what = format!("half of all looks within {:.1} points", sm.between);
        found.push(Evidence::of("gpu.flat", what));
    } else if part(sm.between) >= UNEVEN
        || integer.between >= UNEVEN_INTEGER / 100.0 * integer.median
    {
        let what = format!(
            "half of all looks within {:.1} points, of integer within {:.1}",
            sm.between, integer.between
        );
        found.push(Evidence::of("gpu.uneven", what));
    }
    if is_quiet {
        let what = format!("{:.1} MB/s", bus.median / 1e6);
        found.push(Evidence::of("gpu.quiet-bus", what));
    } else if bus.count * 2 > working.len() && bus.median >= BUSY_BUS {
        let what = format!("{:.0} MB/s", bus.median / 1e6);
        found.push(Evidence::of("gpu.busy-bus", what));
    }
    if video.median >= VIDEO {
        let what = format!("{:.0} % of their time", video.median);
        found.push(Evidence::of("gpu.video", what));
    }
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
            high: at(0.9),
        }
    }
}

fn quantile(mut values: Vec<f32>, part: f32) -> f32 {
    values.sort_unstable_by(f32::total_cmp);
    let place = (values.len().saturating_sub(1)) as f32 * part;
    values.get(place.round() as usize).copied().unwrap_or(0.0)
}
