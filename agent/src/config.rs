//! The configuration file: YAML, every key optional, unknown keys refused. How it is read is for `load`.
//!
//! The doc comments here are the reference: `docs/reference/configuration.md` is generated from them.

pub mod delivery;
pub mod gpu;
mod load;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use saker_ebpf::config::ENV_NAMES_MAX;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::bounded::read_bounded;
use crate::{
    api::grpc::options::Grpc,
    context::runtime::{CRI_SOCKETS, DOCKER_SOCKETS, RuntimeConfig},
    redact::Redactor,
    source::ShareLimit,
};

use delivery::{AlertLog, Alerts, Sinks, Stdout};
use gpu::Gpu;

/// Sockets of runtimes that may be named, of each protocol: each is asked for every container.
const SOCKETS_MAX: usize = 16;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of this node in alerts. Default: the host's name, or the environment variable `SAKER_HOSTNAME`.
    pub hostname: Option<String>,
    /// Which rules are loaded.
    pub rules: Rules,
    /// The kernel side.
    pub sensor: Sensor,
    /// What is known of processes.
    pub processes: Processes,
    /// What is known of containers.
    pub containers: Containers,
    /// GPUs.
    pub gpu: Gpu,
    /// Credentials in alerts.
    pub redact: Redact,
    /// How often the same may be said.
    pub alerts: Alerts,
    /// The alert log, from which every sink reads.
    pub alert_log: AlertLog,
    /// Alerts on standard output.
    pub stdout: Stdout,
    /// Where else alerts go. Each sink has a place of its own in the alert log.
    pub sinks: Sinks,
    /// Metrics and health over HTTP.
    pub http: Http,
    /// When configuration and rules are read again.
    pub reload: Reload,
    /// gRPC: alerts, events, status and rules for clients on this node and elsewhere.
    pub grpc: Grpc,
}

/// Which rules are loaded.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Rule files or folders of `*.yaml`, read in this order, behind the shipped macros and lists. Empty: the shipped rules.
    /// `--rules` on the command line replaces this list.
    pub paths: Vec<PathBuf>,
    /// The shipped rules are at work beside those of `paths`, which are read behind them: they may append to the shipped lists, macros and
    /// rules, and replace them. Without `paths` it changes nothing, and `--rules` leaves them out.
    pub keep_shipped: bool,
    /// Which of them are at work: a rule names the profiles that enable it. `default` is quiet on a healthy node that does machine learning,
    /// `strict` expects every control of a hardened cluster, `observe` has everything and tells what merely goes on. A bundle has that
    /// which it was compiled with. `--profile` on the command line replaces this.
    pub profile: Profile,
    /// `all`: every rule that matches an event alerts. `first`: only the first in order of definition, as Falco's default.
    pub matching: Matching,
    /// At most this many open sequences and durations a rule; beyond it the oldest is dropped and counted.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub instances_max: Instances,
}

/// Which of the loaded rules are at work.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Those that expect every control of a hardened cluster to be there, too.
    Strict,
    /// Those that are quiet on a healthy node that does machine learning.
    #[default]
    Default,
    /// All, with those that tell what merely goes on.
    Observe,
}

impl From<Profile> for saker_rules::ruleset::Profile {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Strict => Self::Strict,
            Profile::Default => Self::Default,
            Profile::Observe => Self::Observe,
        }
    }
}

/// How many rules may alert for one event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Matching {
    /// Every rule that matches.
    #[default]
    All,
    /// The first in order of definition.
    First,
}

/// The kernel side.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sensor {
    /// Size of the ring buffer between kernel and agent for what must not be lost (starts and ends of processes, devices, pickles),
    /// in bytes: a power of two from 16 KiB to 1 GiB. When it is full, events are lost and counted.
    pub ring_bytes: u32,
    /// Likewise for opens, connections, datagrams, DNS answers and beginnings of TLS connections.
    pub sheddable_ring_bytes: u32,
    /// How many of those a second one cgroup gets through; what DNS tells it counts apart from what it does. Further ones are dropped
    /// in the kernel and counted, so that a noisy container loses its own events and nobody else's. 0: no
    /// limit.
    pub cgroup_events_per_s: u32,
    /// How many of them at once a cgroup gets through that had fewer before.
    pub cgroup_burst: u32,
    /// BTF file that describes the running kernel. Default: the kernel's own, `/sys/kernel/btf/vmlinux`.
    pub btf: Option<PathBuf>,
    /// Level of the kernel programs' own diagnostics: `off`, `error`, `warn`, `info`, `debug` or `trace`. Above `off` they cost time
    /// at every event.
    pub kernel_log: KernelLog,
    /// Environment variables that are recorded of every started program, beside those that rules name as `proc.env[NAME]`; at most 16
    /// together. Others are not looked at. Empty: none but the rules'.
    pub environment: Vec<String>,
}

impl Default for Sensor {
    fn default() -> Self {
        let share = ShareLimit::default();
        Self {
            ring_bytes: 8 << 20,
            sheddable_ring_bytes: 4 << 20,
            cgroup_events_per_s: share.events_per_s,
            cgroup_burst: share.burst,
            btf: None,
            kernel_log: KernelLog::Off,
            environment: ["LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT"]
                .map(str::to_owned)
                .to_vec(),
        }
    }
}

/// Levels of kernel-side diagnostics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are the definition")]
pub enum KernelLog {
    #[default]
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// What is known of processes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Processes {
    /// At most this many processes in the table, exited ones included; the oldest exited goes first.
    pub max: usize,
    /// Exited processes are forgotten early, oldest first, while command lines and paths of all processes take more than this.
    pub bytes_max: usize,
}

impl Default for Processes {
    fn default() -> Self {
        Self {
            max: 131_072,
            bytes_max: 64 << 20,
        }
    }
}

/// Credentials in alerts.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Redact {
    /// Whether what looks like a credential is replaced in alerts before they leave the agent. Rules match the true text.
    pub enabled: bool,
    /// Regular expressions (at most 64) beside the built-in ones, which know passwords, tokens and keys by the names before
    /// them and by their shape. Of a match the group `(?P<secret>…)` is replaced, or all of it where there is none.
    pub patterns: Vec<String>,
    /// What stands in the place of a credential.
    pub replacement: String,
}

impl Redact {
    /// What replaces them; `None` where nothing is to be replaced. A checked configuration's patterns compile.
    pub fn redactor(&self) -> Option<Redactor> {
        self.enabled.then(|| {
            Redactor::new(&self.patterns, &self.replacement)
                .expect("a configuration's patterns are compiled once before it is accepted")
        })
    }
}

impl Default for Redact {
    fn default() -> Self {
        Self {
            enabled: true,
            patterns: Vec::new(),
            replacement: "<redacted>".into(),
        }
    }
}

/// What is known of containers.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Containers {
    /// Sockets of runtimes that speak CRI (`runtime.v1`): at most 16 absolute paths, which are taken as they are. Default: where
    /// containerd and CRI-O listen, below `host_root`.
    pub cri_sockets: Option<Vec<PathBuf>>,
    /// The same of runtimes that speak the Docker Engine API. Default: where Docker and Podman listen, below `host_root`.
    pub docker_sockets: Option<Vec<PathBuf>>,
    /// Where the host's file system is mounted, for an agent that itself runs in a container; sockets are looked for below it.
    /// An absolute path.
    pub host_root: PathBuf,
    /// An event of a container that is not known yet waits at most this many milliseconds for it; then it is evaluated with what
    /// is known, and `container.incomplete` is true. 0: nothing waits; at most 10000.
    #[schemars(range(max = 10_000))]
    pub hold_ms: u64,
    /// At most this many events wait (64 to 1048576), those of one container at most a quarter of them. To hold none, set `hold_ms`
    /// to 0.
    #[schemars(range(min = 64, max = 1_048_576))]
    pub hold_events_max: usize,
    /// At most this many bytes of events wait (1 MiB to 1 GiB), what is kept of their processes included; those of one container
    /// at most a quarter of them.
    #[schemars(range(min = 1_048_576, max = 1_073_741_824))]
    pub hold_bytes_max: usize,
    /// At most this many containers are remembered (64 to 1048576), removed ones included; the one that was needed longest ago goes first.
    #[schemars(range(min = 64, max = 1_048_576))]
    pub max: usize,
    /// At most this many bytes are remembered of them (1 MiB to 4 GiB).
    #[schemars(range(min = 1_048_576, max = 4_294_967_296_u64))]
    pub bytes_max: usize,
    /// How often each runtime is asked for all of its containers, in seconds (1 to 86400). Containers that start meanwhile do not wait for it.
    #[schemars(range(min = 1, max = 86_400))]
    pub poll_s: u64,
}

impl Default for Containers {
    fn default() -> Self {
        Self {
            cri_sockets: None,
            docker_sockets: None,
            host_root: "/".into(),
            hold_ms: 500,
            hold_events_max: 16_384,
            hold_bytes_max: 16 << 20,
            max: 16_384,
            bytes_max: 64 << 20,
            poll_s: 30,
        }
    }
}

impl Containers {
    /// What no node can want; the key and what is wrong with its value.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let ranges = [
            ("containers.hold_ms", self.hold_ms, 0..=10_000),
            (
                "containers.hold_events_max",
                self.hold_events_max as u64,
                64..=1 << 20,
            ),
            (
                "containers.hold_bytes_max",
                self.hold_bytes_max as u64,
                1 << 20..=1 << 30,
            ),
            ("containers.max", self.max as u64, 64..=1 << 20),
            (
                "containers.bytes_max",
                self.bytes_max as u64,
                1 << 20..=1 << 32,
            ),
            ("containers.poll_s", self.poll_s, 1..=86_400),
        ];
        for (key, value, range) in ranges {
            if !range.contains(&value) {
                let problem = format!("{value} is not from {} to {}", range.start(), range.end());
                return Err((key, problem));
            }
        }
        let sockets = [
            ("containers.cri_sockets", &self.cri_sockets),
            ("containers.docker_sockets", &self.docker_sockets),
        ];
        for (key, paths) in sockets {
            let paths = paths.as_deref().unwrap_or_default();
            if paths.len() > SOCKETS_MAX {
                return Err((
                    key,
                    format!("{} sockets; at most {SOCKETS_MAX}", paths.len()),
                ));
            }
            if let Some(path) = paths.iter().find(|path| !path.is_absolute()) {
                return Err((key, format!("{path:?} is not an absolute path")));
            }
        }
        if !self.host_root.is_absolute() {
            let problem = format!("{:?} is not an absolute path", self.host_root);
            return Err(("containers.host_root", problem));
        }
        Ok(())
    }

    /// The longest wait of an event.
    pub fn hold(&self) -> Duration {
        Duration::from_millis(self.hold_ms)
    }

    /// For the side that asks runtimes.
    pub fn runtimes(&self) -> RuntimeConfig {
        let found = |configured: &Option<Vec<PathBuf>>, usual: &[&str]| match configured {
            Some(paths) => paths.clone(),
            None => usual
                .iter()
                .map(|path| self.host_root.join(path.trim_start_matches('/')))
                .collect(),
        };
        let named = [&self.cri_sockets, &self.docker_sockets];
        RuntimeConfig {
            cri: found(&self.cri_sockets, CRI_SOCKETS),
            docker: found(&self.docker_sockets, DOCKER_SOCKETS),
            named: named.into_iter().flatten().flatten().cloned().collect(),
            host_root: self.host_root.clone(),
            poll: Duration::from_secs(self.poll_s),
            hold: self.hold(),
        }
    }
}

/// Metrics and health over HTTP.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Whether the endpoint is served.
    pub enabled: bool,
    /// Address and port. There is no authentication: keep it on loopback, or behind a network policy.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 9765)),
        }
    }
}

/// When configuration and rules are read again: with SIGHUP, when a client asks, and as this says. What is wrong leaves the old at
/// work. `rules`, `sinks`, `stdout`, `alerts`, `redact`, `sensor.environment` and this section change so; other keys change with a
/// restart, and a log line names them.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Reload {
    /// Whether a change of the configuration's file or of the rules' starts a reload.
    pub watch_files: bool,
    /// How often they are looked at, in seconds (1 to 3600). A change counts when it has stayed the same for as long.
    #[schemars(range(min = 1, max = 3600))]
    pub poll_s: u64,
}

impl Default for Reload {
    fn default() -> Self {
        Self {
            watch_files: true,
            poll_s: 2,
        }
    }
}

/// How many open instances a rule may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Instances(pub usize);

impl Default for Instances {
    fn default() -> Self {
        Self(10_000)
    }
}

/// Why a configuration cannot be used. The message names the file and, where there is one, line and key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what a configuration may be.
    #[error("{}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What and where.
        message: String,
    },
    /// A variable of the environment overrides a key with what it cannot be.
    #[error("environment variable {name}: {message}")]
    Variable {
        /// The variable.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// A value is outside its range.
    #[error("{}: {key}: {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key, dotted.
        key: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A sink cannot be what it is said to be.
    #[error("{}: {key}: {problem}", path.display())]
    Sink {
        /// The file.
        path: PathBuf,
        /// The key, dotted, with the sink's place in its list.
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

impl Config {
    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let wrong = |key, problem: String| {
            Err(ConfigError::Value {
                path: path.into(),
                key,
                problem,
            })
        };
        for (key, ring) in [
            ("sensor.ring_bytes", self.sensor.ring_bytes),
            (
                "sensor.sheddable_ring_bytes",
                self.sensor.sheddable_ring_bytes,
            ),
        ] {
            if !ring.is_power_of_two() || !(16384..=1 << 30).contains(&ring) {
                let problem = format!("{ring} is not a power of two from 16384 to 1073741824");
                return wrong(key, problem);
            }
        }
        if self.sensor.cgroup_events_per_s > 0 && self.sensor.cgroup_burst == 0 {
            return wrong(
                "sensor.cgroup_burst",
                "0 would let nothing through; at least 1, or cgroup_events_per_s: 0".into(),
            );
        }
        if self.sensor.environment.len() > ENV_NAMES_MAX {
            return wrong(
                "sensor.environment",
                format!(
                    "{} names; at most {ENV_NAMES_MAX}",
                    self.sensor.environment.len()
                ),
            );
        }
        let is_name = |name: &String| !name.is_empty() && !name.contains(['=', '\0']);
        if let Some(name) = self.sensor.environment.iter().find(|name| !is_name(name)) {
            return wrong(
                "sensor.environment",
                format!("{name:?} is no variable's name"),
            );
        }
        if self.processes.max < 1024 {
            return wrong(
                "processes.max",
                format!(
                    "{} is too small for any node; at least 1024",
                    self.processes.max
                ),
            );
        }
        if let Err((key, problem)) = self.containers.check() {
            return wrong(key, problem);
        }
        if !(1..=3600).contains(&self.reload.poll_s) {
            let problem = format!("{} is not from 1 to 3600", self.reload.poll_s);
            return wrong("reload.poll_s", problem);
        }
        if let Err((key, problem)) = self.grpc.check() {
            return wrong(key, problem);
        }
        if let Err((key, problem)) = self.gpu.check() {
            return wrong(key, problem);
        }
        if let Err(error) = Redactor::new(&self.redact.patterns, &self.redact.replacement) {
            return wrong("redact.patterns", error.to_string());
        }
        if self.redact.replacement.is_empty() || self.redact.replacement.len() > 64 {
            return wrong(
                "redact.replacement",
                "not 1 to 64 bytes: an empty one would hide that something was there".into(),
            );
        }
        if let Err((key, problem)) = self.alerts.check() {
            return wrong(key, problem);
        }
        if let Err((key, problem)) = self.alert_log.check() {
            return wrong(key, problem);
        }
        if let Err((key, problem)) = self.sinks.check() {
            let path = path.into();
            return Err(ConfigError::Sink { path, key, problem });
        }
        if self.rules.instances_max.0 == 0 {
            return wrong(
                "rules.instances_max",
                "0 would drop every sequence; at least 1".into(),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("saker.yaml"), text, Vec::new()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_key_is_optional() {
        assert_eq!(parse(""), Ok(Config::default()));
        assert_eq!(parse("# nothing\n\n"), Ok(Config::default()));
        let config =
            parse("http: {listen: '[::1]:1'}\nrules:\n  matching: first\n").expect("it is right");
        assert_eq!(
            (config.http.listen.port(), config.rules.matching),
            (1, Matching::First)
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, parts: &[&str]| {
            let message = parse(text).expect_err(text);
            for part in ["saker.yaml"].iter().chain(parts) {
                assert!(message.contains(part), "{message:?} lacks {part:?}");
            }
        };
        check("sensor:\n  ring_byte: 1\n", &["ring_byte", "line 2"]);
        check("sensor:\n  ring_bytes: many\n", &["line 2"]);
        check(
            "sensor: {ring_bytes: 5000}",
            &["sensor.ring_bytes", "5000", "power of two"],
        );
        check(
            "sensor: {sheddable_ring_bytes: 5000}",
            &["sensor.sheddable_ring_bytes", "5000", "power of two"],
        );
        check("sensor: {cgroup_events_per_s: -1}", &["line 1"]);
        check(
            "sensor: {cgroup_burst: 0}",
            &["sensor.cgroup_burst", "at least 1"],
        );
        check("http: {listen: nowhere}", &["line 1"]);
        check("processes: {max: 1}", &["processes.max"]);
        check("reload: {poll_s: 0}", &["reload.poll_s"]);
        check(
            "grpc: {tcp: {listen: '0.0.0.0:9766'}}",
            &["grpc.tcp.listen", "0.0.0.0:9766", "grpc.tcp.tls"],
        );
        check("grpc: {limits: {stuck_s: 0}}", &["grpc.limits.stuck_s"]);
        check(
            "grpc: {unix: {path: here}}",
            &["grpc.unix.path", "absolute"],
        );
        check("containers: {hold_ms: 60000}", &["containers.hold_ms"]);
        check("containers: {poll_s: 0}", &["containers.poll_s"]);
        let containers = |text: &str, parts: &[&str]| {
            check(&format!("containers: {{{text}}}"), parts);
        };
        containers("max: 1", &["containers.max", "1 is not from 64 to 1048576"]);
        containers("max: 18446744073709551615", &["containers.max"]);
        containers("bytes_max: 0", &["containers.bytes_max", "0 is not from"]);
        containers("hold_events_max: 0", &["containers.hold_events_max"]);
        containers("hold_bytes_max: 1", &["containers.hold_bytes_max"]);
        containers("host_root: ''", &["containers.host_root", "absolute"]);
        containers("host_root: host", &["containers.host_root", "\"host\""]);
        containers("cri_sockets: ['']", &["containers.cri_sockets", "absolute"]);
        containers(
            "docker_sockets: [/run/a.sock, b.sock]",
            &["containers.docker_sockets", "\"b.sock\""],
        );
        let many = vec!["/a"; 17].join(", ");
        containers(
            &format!("cri_sockets: [{many}]"),
            &["containers.cri_sockets", "17 sockets"],
        );
        check(
            "redact: {patterns: ['ok', 'a(']}",
            &["redact.patterns", "pattern 2 (a()", "unclosed group"],
        );
        check(
            "sensor: {environment: ['A=B']}",
            &["sensor.environment", "A=B"],
        );
        check("redact: {replacement: ''}", &["redact.replacement"]);
        check("a: [", &["line"]);
    }
}
