//! What the agent said of a load, held against what is known of it and against `nvidia-smi`.

use std::fmt;

use serde_json::Value;

use crate::{cuda::Load, smi::Smi};

/// Everything that was seen of one load.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Of the load.
    pub pid: u32,
    /// The agent's words, look by look.
    pub fields: Vec<Value>,
    /// What `nvidia-smi` said meanwhile.
    pub smi: Option<Smi>,
    /// The look that came just before.
    pub at_smi: usize,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    load: Load,
    what: &'static str,
    outcome: Outcome,
    found: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Right,
    Wrong,
    /// The card or its driver does not tell.
    Absent,
}

impl Line {
    /// Is it?
    pub fn is_wrong(&self) -> bool {
        self.outcome == Outcome::Wrong
    }
}

impl fmt::Display for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Right => "ok",
            Outcome::Wrong => "WRONG",
            Outcome::Absent => "not told",
        };
        let name = self.load.name();
        write!(out, "{outcome:8} {name:6} {}: {}", self.what, self.found)
    }
}

/// All comparisons of one load.
pub fn lines(load: Load, seen: &Seen) -> Vec<Line> {
    let mut all = Lines {
        load,
        lines: Vec::new(),
    };
    // The card has warmed up, and the counters are of the load alone.
    let later = &seen.fields[seen.fields.len() / 2..];
    if later.is_empty() {
        let found = format!("process {} never showed", seen.pid);
        all.add("the process is seen on the GPU", Some(false), found);
        return all.lines;
    }
    let count = seen.fields.len();
    all.add(
        "the process is seen on the GPU",
        Some(true),
        format!("{count} looks"),
    );
    let number = |field: &str| median(later.iter().filter_map(|fields| fields[field].as_f64()));
    all.within("gpu.util, percent", number("gpu.util"), (90.0, 100.0));
    match load {
        Load::Matrix => all.within("gpu.tensor, percent", number("gpu.tensor"), (20.0, 100.0)),
        Load::Stream | Load::Hash => {
            all.within("gpu.tensor, percent", number("gpu.tensor"), (0.0, 1.0));
        }
    }
    match load {
        Load::Matrix => {}
        Load::Stream => {
            all.within("gpu.dram, percent", number("gpu.dram"), (40.0, 100.0));
            all.within("gpu.fp32, percent", number("gpu.fp32"), (1.0, 60.0));
        }
        Load::Hash => {
            all.within("gpu.integer, percent", number("gpu.integer"), (25.0, 100.0));
            all.within("gpu.dram, percent", number("gpu.dram"), (0.0, 5.0));
        }
    }
    let is_suspected = |fields: &Value| fields["mining.suspected"] == true;
    let suspected = seen
        .fields
        .iter()
        .filter(|fields| is_suspected(fields))
        .count();
    let is_right = if load == Load::Hash {
        later.last().is_some_and(is_suspected)
    } else {
        suspected == 0
    };
    let last = later
        .last()
        .map(|fields| fields["mining.evidence"].to_string());
    let found = format!(
        "suspected in {suspected} of {count} looks; at last {}",
        last.unwrap_or_default()
    );
    all.add("the verdict on mining", Some(is_right), found);
    all.as_smi(seen);
    all.lines
}

struct Lines {
    load: Load,
    lines: Vec<Line>,
}

impl Lines {
    fn add(&mut self, what: &'static str, is_right: Option<bool>, found: String) {
        let outcome = match is_right {
            Some(true) => Outcome::Right,
            Some(false) => Outcome::Wrong,
            None => Outcome::Absent,
        };
        self.lines.push(Line {
            load: self.load,
            what,
            outcome,
            found,
        });
    }

    fn within(&mut self, what: &'static str, value: Option<f64>, (from, to): (f64, f64)) {
        let found = match value {
            Some(value) => format!("{value:.1}, {from} to {to} expected"),
            None => "absent".into(),
        };
        self.add(what, value.map(|value| (from..=to).contains(&value)), found);
    }

    fn near(&mut self, what: &'static str, own: Option<f64>, other: Option<f64>, far: f64) {
        let is_near = own
            .zip(other)
            .map(|(own, other)| (own - other).abs() <= far);
        let word =
            |value: Option<f64>| value.map_or("absent".into(), |value| format!("{value:.1}"));
        let found = format!("{}, nvidia-smi {}", word(own), word(other));
        // One that tells where the other does not is a difference.
        let is_near = match (own, other) {
            (None, Some(_)) => Some(false),
            _ => is_near,
        };
        self.add(what, is_near, found);
    }

    fn as_smi(&mut self, seen: &Seen) {
        const MIB: f64 = 1_048_576.0;
        let (Some(smi), Some(fields)) = (&seen.smi, seen.fields.get(seen.at_smi)) else {
            let found = "it was not asked: the load was not seen for long enough".into();
            return self.add("nvidia-smi", Some(false), found);
        };
        let own = |field: &str| fields[field].as_f64();
        let is_same = fields["gpu.uuid"] == smi.uuid;
        self.add("gpu.uuid", Some(is_same), smi.uuid.clone());
        let far = smi
            .mem_used
            .map_or(0.0, |bytes| (bytes * 0.05).max(256.0 * MIB));
        self.near(
            "gpu.mem.used, bytes",
            own("gpu.mem.used"),
            smi.mem_used,
            far,
        );
        self.near("gpu.util, percent", own("gpu.util"), smi.util, 15.0);
        let far = smi.power.map_or(0.0, |watts| (watts * 0.25).max(30.0));
        self.near("gpu.power, watts", own("gpu.power"), smi.power, far);
        self.near(
            "gpu.temperature, °C",
            own("gpu.temperature"),
            smi.temperature,
            8.0,
        );
        let named = smi.processes.iter().find(|(pid, _)| *pid == seen.pid);
        let found = format!("{} of {:?}", seen.pid, smi.processes);
        self.add(
            "the process is nvidia-smi's too",
            Some(named.is_some()),
            found,
        );
        let memory = named.and_then(|(_, memory)| *memory);
        self.near(
            "gpu.proc.mem, bytes",
            own("gpu.proc.mem"),
            memory,
            64.0 * MIB,
        );
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn seen(fields: &Value) -> Seen {
        Seen {
            pid: 77,
            fields: vec![fields.clone(); 10],
            smi: Some(Smi {
                uuid: "GPU-a".into(),
                mem_used: Some(1.6e9),
                util: Some(99.0),
                power: Some(400.0),
                temperature: Some(50.0),
                processes: vec![(77, Some(1.5e9))],
            }),
            at_smi: 5,
        }
    }

    fn wrong(load: Load, seen: &Seen) -> Vec<&'static str> {
        let lines = lines(load, seen);
        let wrong = lines.iter().filter(|line| line.is_wrong());
        wrong.map(|line| line.what).collect()
    }

    #[test]
    fn what_differs_is_wrong_and_what_is_not_told_is_not() {
        let hash = json!({
            "gpu.uuid": "GPU-a", "gpu.util": 100.0, "gpu.mem.used": 1_600_000_000, "gpu.power": 420.0, "gpu.temperature": 52,
            "gpu.tensor": 0.0, "gpu.integer": 80.0, "gpu.dram": 0.2, "gpu.proc.mem": 1_500_000_000, "mining.suspected": true,
        });
        assert_eq!(wrong(Load::Hash, &seen(&hash)), [""; 0]);
        assert_eq!(
            wrong(Load::Stream, &seen(&hash)),
            ["gpu.dram, percent", "the verdict on mining"]
        );
        let mut older = hash.clone();
        for field in ["gpu.tensor", "gpu.integer", "gpu.dram"] {
            older[field] = Value::Null;
        }
        assert_eq!(wrong(Load::Hash, &seen(&older)), [""; 0]);
        let mut off = hash.clone();
        off["gpu.mem.used"] = json!(9_000_000_000_u64);
        off["gpu.power"] = Value::Null;
        assert_eq!(
            wrong(Load::Hash, &seen(&off)),
            ["gpu.mem.used, bytes", "gpu.power, watts"]
        );
        let mut other = seen(&hash);
        other.pid = 78;
        assert_eq!(
            wrong(Load::Hash, &other),
            ["the process is nvidia-smi's too"]
        );
        let nothing = Seen::default();
        assert_eq!(
            wrong(Load::Matrix, &nothing),
            ["the process is seen on the GPU"]
        );
    }
}
