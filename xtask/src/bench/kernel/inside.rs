//! How long kernel programs run, by the kernel's own account (`kernel.bpf_stats_enabled`). What else is done on the machine hardly
//! shows in it, and neither does what a hook costs outside of its program.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

const ENABLED: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// While it lives, the kernel keeps account.
pub struct Account {
    before: String,
}

impl Account {
    /// Has the kernel begin.
    pub fn keep() -> Result<Self> {
        let before = fs::read_to_string(ENABLED)?;
        fs::write(ENABLED, "1")?;
        Ok(Self { before })
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let _ = fs::write(ENABLED, &self.before);
    }
}

/// Nanoseconds that the programs of a process have run, and how often, by their number.
pub fn of_process(pid: u32) -> Result<BTreeMap<u32, (u64, u64)>> {
    let mut runs = BTreeMap::new();
    for entry in fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fdinfo"))? {
        // Descriptors come and go meanwhile.
        if let Some((id, run)) = of_descriptor(&entry?.path()) {
            runs.insert(id, run);
        }
    }
    Ok(runs)
}

fn of_descriptor(path: &PathBuf) -> Option<(u32, (u64, u64))> {
    let text = fs::read_to_string(path).ok()?;
    let number = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().parse().ok()
    };
    let id = u32::try_from(number("prog_id:")?).ok()?;
    Some((id, (number("run_time_ns:")?, number("run_cnt:")?)))
}

/// Nanoseconds of a run of the program that ran most often between two looks.
pub fn each(before: &BTreeMap<u32, (u64, u64)>, after: &BTreeMap<u32, (u64, u64)>) -> Option<f64> {
    let more = after.iter().filter_map(|(id, (time, count))| {
        let (time_before, count_before) = before.get(id)?;
        Some((count - count_before, time - time_before))
    });
    let (count, time) = more.max()?;
    (count > 0).then(|| time as f64 / count as f64)
}
