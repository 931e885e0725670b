//! The section `gpu`.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::gpu::SamplerConfig;

/// GPUs.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gpu {
    /// Whether GPUs are looked at. A node without any costs an attempt to find a driver every `retry_s`.
    pub enabled: bool,
    /// Seconds between two looks (1 to 20).
    #[schemars(range(min = 1, max = 20))]
    pub interval_s: u64,
    /// Seconds between two attempts to find a driver that is not there, or that went away (1 to 3600).
    #[schemars(range(min = 1, max = 3_600))]
    pub retry_s: u64,
    /// NVIDIA's management library, an absolute path. Default: `libnvidia-ml.so.1`, where the loader finds it.
    pub library: Option<PathBuf>,
    /// What a GPU does says nothing of mining until a process has been seen on it for so many seconds (10 to 540).
    #[schemars(range(min = 10, max = 540))]
    pub mining_observe_s: u64,
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            enabled: true,
            interval_s: 5,
            retry_s: 30,
            library: None,
            mining_observe_s: 300,
        }
    }
}

impl Gpu {
    /// What no node can want; the key and what is wrong with its value.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let ranges = [
            ("gpu.interval_s", self.interval_s, 1..=20),
            ("gpu.retry_s", self.retry_s, 1..=3_600),
            ("gpu.mining_observe_s", self.mining_observe_s, 10..=540),
        ];
        for (key, value, range) in ranges {
            if !range.contains(&value) {
                let problem = format!("{value} is not from {} to {}", range.start(), range.end());
                return Err((key, problem));
            }
        }
        match &self.library {
            Some(path) if !path.is_absolute() => {
                Err(("gpu.library", format!("{path:?} is not an absolute path")))
            }
            _ => Ok(()),
        }
    }

    /// For the thread that looks.
    pub fn sampler(&self) -> SamplerConfig {
        SamplerConfig {
            interval: Duration::from_secs(self.interval_s),
            retry: Duration::from_secs(self.retry_s),
            patience: Duration::from_secs((self.interval_s * 2).max(10)),
            library: self.library.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_node_can_want_is_refused() {
        assert_eq!(Gpu::default().check(), Ok(()));
        let wrong = |change: fn(&mut Gpu)| {
            let mut gpu = Gpu::default();
            change(&mut gpu);
            gpu.check().expect_err("it is wrong").0
        };
        assert_eq!(wrong(|gpu| gpu.interval_s = 0), "gpu.interval_s");
        assert_eq!(wrong(|gpu| gpu.retry_s = 4_000), "gpu.retry_s");
        assert_eq!(
            wrong(|gpu| gpu.mining_observe_s = 600),
            "gpu.mining_observe_s"
        );
        assert_eq!(
            wrong(|gpu| gpu.library = Some("lib.so".into())),
            "gpu.library"
        );
    }
}
