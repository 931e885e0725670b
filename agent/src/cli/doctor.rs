//! `saker doctor`: tries every hook on this machine, attaches nothing for longer than the question takes, and reports.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde::Serialize;
use serde_json::Value;

use super::{Failure, chain, print};
use crate::{
    config::Config,
    source::{
        HookStatus, Kind, Sensor, SensorConfig,
        gpu::nvml,
        privileges::{self, Circumstances, Reduced},
        program_types,
    },
};

/// Options of `saker doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration, for where the GPU's library is; without one every key has its default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One JSON array instead of text.
    #[arg(long)]
    json: bool,
    /// Also what the kernel's verifier said of a refused program.
    #[arg(short, long)]
    verbose: bool,
}

/// Loads everything, reports, and lets go.
pub fn run(args: &Args) -> Result<(), Failure> {
    let told = Config::load(args.config.as_deref());
    let told = told.map_err(|error| Failure::Input(chain(&error)))?;
    let config = SensorConfig {
        kinds: Kind::ALL.into_iter().collect(),
        ..SensorConfig::default()
    };
    let sensor = Sensor::load(&config).map_err(|error| Failure::Machine(chain(&error)))?;
    let mut rows = sensor.status().to_vec();
    rows.extend(program_types::loadable());
    let gpus = if told.gpu.enabled {
        gpus(told.gpu.library)
    } else {
        Gpus::switched_off()
    };
    let listened = told.http.enabled.then_some(told.http.listen);
    let ports = listened.into_iter().chain(told.grpc.tcp.listen);
    let circumstances = Circumstances::of(ports.map(|address| address.port()));
    let privileges = Privileges::of(&privileges::outlook(circumstances));
    if args.json {
        let internal = |error: serde_json::Error| Failure::Internal(error.to_string());
        let rows = rows.iter().map(serde_json::to_value);
        let mut rows: Vec<Value> = rows.collect::<Result<_, _>>().map_err(internal)?;
        rows.push(serde_json::to_value(&privileges).map_err(internal)?);
        rows.push(serde_json::to_value(&gpus).map_err(internal)?);
        let text = serde_json::to_string_pretty(&rows).map_err(internal)?;
        return print(&(text + "\n"));
    }
    let mut text = String::new();
    for status in &rows {
        describe(status, args.verbose, &mut text);
    }
    privileges.describe(&mut text);
    gpus.describe(&mut text);
    print(&text)
}

/// What the agent keeps of this process's capabilities once it has loaded everything: a row like those of the hooks.
#[derive(Debug, Serialize)]
struct Privileges {
    kind: &'static str,
    kept: Vec<&'static str>,
    given_up: u32,
    /// Those that it works without.
    missing: Vec<Missing>,
    /// A security module that keeps it from looking at other processes, whatever it holds.
    overruled: Option<Overruled>,
    #[serde(skip)]
    shown: String,
}

#[derive(Debug, Serialize)]
struct Missing {
    capability: &'static str,
    cost: &'static str,
}

#[derive(Debug, Serialize)]
struct Overruled {
    by: String,
    cost: &'static str,
}

impl Privileges {
    fn of(outlook: &io::Result<Reduced>) -> Self {
        let missing = privileges::costs().into_iter();
        Self {
            kind: "privileges",
            kept: outlook
                .as_ref()
                .map(|outlook| outlook.kept.clone())
                .unwrap_or_default(),
            given_up: outlook.as_ref().map_or(0, |outlook| outlook.given_up),
            missing: missing
                .map(|(capability, cost)| Missing { capability, cost })
                .collect(),
            overruled: privileges::overruled().map(|(by, cost)| Overruled { by, cost }),
            shown: match outlook {
                Ok(outlook) => outlook.to_string(),
                Err(error) => format!("NOT KNOWN: {error}"),
            },
        }
    }

    fn describe(&self, text: &mut String) {
        let _ = writeln!(text, "{:12} {}", self.kind, self.shown);
        for Missing { capability, cost } in &self.missing {
            let _ = writeln!(text, "{:12} {capability} is missing: {cost}", self.kind);
        }
        if let Some(Overruled { by, cost }) = &self.overruled {
            let kind = self.kind;
            let _ = writeln!(
                text,
                "{kind:12} CAP_SYS_PTRACE counts for nothing under {by}, of processes with other labels: {cost}"
            );
        }
    }
}

/// A driver that has not answered by then hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the GPU driver of this node offers: a row like those of the hooks.
#[derive(Debug, Default, Serialize)]
struct Gpus {
    kind: &'static str,
    /// `None` where no GPU is watched.
    hook: Option<&'static str>,
    /// Why not.
    problem: Option<String>,
    /// Not having any is no problem.
    is_absent: bool,
    driver: Option<String>,
    gpus: Vec<Gpu>,
}

#[derive(Debug, Serialize)]
struct Gpu {
    index: u32,
    uuid: String,
    name: String,
    health: &'static str,
    /// Whether it counts what it computes.
    counters: bool,
}

/// Asks the driver, and does not wait for ever.
fn gpus(library: Option<PathBuf>) -> Gpus {
    let (send, answer) = mpsc::sync_channel(1);
    // Where it hangs it ends with the process.
    thread::spawn(move || {
        // Whoever asked may have given up.
        let _ = send.send(ask(library.as_deref()));
    });
    let hangs = || Gpus {
        problem: Some(format!("the driver has not answered for {PATIENCE:?}")),
        ..Gpus::default()
    };
    Gpus {
        kind: "gpu",
        ..answer.recv_timeout(PATIENCE).unwrap_or_else(|_| hangs())
    }
}

fn ask(library: Option<&Path>) -> Gpus {
    let nvml = match nvml::open(library) {
        Ok(nvml) => nvml,
        Err(error) => {
            return Gpus {
                is_absent: nvml::is_absence(&error),
                problem: Some(error.to_string()),
                ..Gpus::default()
            };
        }
    };
    let driver = nvml.sys_driver_version().ok();
    let found = match nvml::Reader::new(&nvml).look(&[], 0) {
        Ok((found, _)) => found,
        Err(error) => {
            return Gpus {
                problem: Some(error.to_string()),
                driver,
                ..Gpus::default()
            };
        }
    };
    let gpus = found.into_iter().map(|gpu| {
        let device = nvml.device_by_uuid(&*gpu.uuid);
        let counters = device.and_then(|device| device.gpm_support());
        Gpu {
            index: gpu.index,
            uuid: gpu.uuid.into(),
            name: gpu.name.into(),
            health: gpu.health.name(),
            counters: counters.unwrap_or(false),
        }
    });
    Gpus {
        hook: Some("nvml"),
        gpus: gpus.collect(),
        driver,
        ..Gpus::default()
    }
}

impl Gpus {
    fn switched_off() -> Self {
        Self {
            kind: "gpu",
            problem: Some("gpu.enabled is false in the configuration".into()),
            is_absent: true,
            ..Self::default()
        }
    }

    fn describe(&self, text: &mut String) {
        let mut line = |what: &str| {
            let _ = writeln!(text, "{:12} {what}", "gpu");
        };
        let driver = self.driver.as_deref().unwrap_or_default();
        match &self.problem {
            Some(problem) if self.is_absent => {
                return line(&format!("none that can be watched: {problem}"));
            }
            Some(problem) if driver.is_empty() => return line(&format!("NOT WATCHED: {problem}")),
            Some(problem) => return line(&format!("NOT WATCHED: driver {driver}: {problem}")),
            None => line(&format!("driver {driver}")),
        }
        for gpu in &self.gpus {
            let counters = if gpu.counters {
                "counters of arithmetic"
            } else {
                "no counters of arithmetic: evidence of mining is weaker"
            };
            line(&format!(
                "{} {} {}: {}, {counters}",
                gpu.index, gpu.name, gpu.uuid, gpu.health
            ));
        }
    }
}

fn describe(status: &HookStatus, verbose: bool, text: &mut String) {
    let _ = writeln!(
        text,
        "{:12} {}",
        status.kind,
        status.hook.unwrap_or("NOT SUPPLIED")
    );
    for lost in &status.lost {
        let _ = writeln!(text, "{:12} lost: {lost}", "");
    }
    for refusal in &status.refused {
        let _ = writeln!(text, "{:12} tried {}: {}", "", refusal.hook, refusal.reason);
        if let (true, Some(log)) = (verbose, &refusal.verifier_log) {
            for line in log.lines() {
                let _ = writeln!(text, "{:16} {line}", "");
            }
        }
    }
}
