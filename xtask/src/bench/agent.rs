//! The agent under measurement: built for release, started with all rules, watched, stopped.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::process::{build_agent, cargo, command, output, root, run, target_dir};

/// How long the agent may take to start and to stop on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Programs that a benchmark starts.
pub struct Programs {
    /// The agent, built for release.
    pub saker: PathBuf,
    /// The folder of the actors.
    pub actors: PathBuf,
    /// For files of the benchmark.
    pub folder: PathBuf,
}

impl Programs {
    /// Builds them.
    pub fn build() -> Result<Self> {
        let saker = build_agent()?;
        run(cargo().args(["build", "--package", "saker-tests", "--bins"]))?;
        let target = target_dir()?;
        let folder = target.join("bench");
        fs::create_dir_all(&folder)?;
        Ok(Self {
            saker,
            actors: target.join("debug"),
            folder,
        })
    }

    /// An actor.
    pub fn actor(&self, name: &str) -> Command {
        Command::new(self.actors.join(name))
    }

    /// Falco's three rule files and every pack, compiled to one bundle; says how many rules they are.
    pub fn all_rules(&self) -> Result<PathBuf> {
        let bundle = self.folder.join("all.bundle");
        let mut compile = command(&self.saker.to_string_lossy());
        compile.args(["rules", "compile", "-o"]).arg(&bundle);
        let falco = root().join("../shared/falco/rules");
        for name in ["falco", "falco-incubating", "falco-sandbox"] {
            let file = falco.join(format!("{name}_rules.yaml"));
            if file.exists() {
                compile.arg(file);
            } else {
                println!("bench: without {name}_rules.yaml, which is not beside the repository");
            }
        }
        compile.args(packs()?);
        println!("{}", output(&mut compile)?);
        Ok(bundle)
    }
}

/// Every shipped pack, in the order of its name.
fn packs() -> Result<Vec<PathBuf>> {
    let mut packs = Vec::new();
    for topic in fs::read_dir(root().join("rules/packs"))? {
        let topic = topic?.path();
        if topic.is_dir() {
            for file in fs::read_dir(topic)? {
                let file = file?.path();
                let name = file.to_string_lossy();
                if name.ends_with(".yaml") && !name.ends_with("_test.yaml") {
                    packs.push(file);
                }
            }
        }
    }
    packs.sort();
    Ok(packs)
}

/// A running agent.
pub struct Agent {
    child: Child,
    log: Receiver<String>,
    /// Its alerts, line by line, unless they go elsewhere.
    pub alerts: Receiver<String>,
    lines: Vec<String>,
}

impl Agent {
    /// Starts `saker` and waits until it detects.
    pub fn start(programs: &Programs, config: &str, args: &[&str]) -> Result<Self> {
        let file = programs.folder.join("saker.yaml");
        fs::write(&file, config)?;
        let (verb, args) = args.split_first().context("a command")?;
        let mut child = Command::new(&programs.saker)
            .arg(verb)
            .arg("--config")
            .arg(file)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("the agent does not start")?;
        let alerts = lines(child.stdout.take().context("stdout is piped")?);
        let log = lines(child.stderr.take().context("stderr is piped")?);
        let mut agent = Self {
            child,
            log,
            alerts,
            lines: Vec::new(),
        };
        agent.await_line("watching")?;
        Ok(agent)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn await_line(&mut self, text: &str) -> Result<String> {
        loop {
            let Ok(line) = self.log.recv_timeout(PATIENCE) else {
                bail!("no {text:?} from the agent:\n{}", self.lines.join("\n"));
            };
            self.lines.push(line.clone());
            if line.contains(text) {
                return Ok(line);
            }
        }
    }

    /// Bytes of memory that it occupies, and those of them that are the rings.
    pub fn memory(&self) -> Result<Memory> {
        Memory::of(self.pid())
    }

    /// Seconds of processor time so far.
    pub fn cpu_s(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let columns = stat.rsplit(')').next().unwrap_or_default();
        let ticks = |column: usize| -> f64 {
            let column = columns.split_whitespace().nth(column - 3);
            column.and_then(|ticks| ticks.parse().ok()).unwrap_or(0.0)
        };
        Ok((ticks(14) + ticks(15)) / 100.0)
    }

    /// Stops it, and returns the line with its books.
    pub fn stop(mut self) -> Result<String> {
        let pid = i32::try_from(self.pid())?;
        // SAFETY: kill takes two numbers; the child was not waited for, so the pid is its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let books = self.await_line("stopped: ")?;
        let status = self.child.wait()?;
        if !status.success() {
            self.lines.extend(self.log.try_iter());
            bail!("the agent ended with {status}:\n{}", self.lines.join("\n"));
        }
        Ok(books)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Memory of a process.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Resident bytes, all of them.
    pub resident: u64,
    /// Those that are maps of kernel programs: the rings, which the kernel maps twice.
    pub rings: u64,
}

impl Memory {
    fn of(pid: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
        let mut memory = Self {
            resident: 0,
            rings: 0,
        };
        let mut is_ring = false;
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("Rss:") {
                let kib = rest.split_whitespace().next().unwrap_or_default();
                let bytes = kib.parse::<u64>()? * 1024;
                memory.resident += bytes;
                memory.rings += if is_ring { bytes } else { 0 };
            } else if line
                .split(' ')
                .next()
                .is_some_and(|range| range.contains('-'))
            {
                is_ring = line.contains("bpf-map") || line.contains("bpf_map");
            }
        }
        Ok(memory)
    }

    /// In MB, without the rings.
    pub fn own_mb(self) -> f64 {
        (self.resident - self.rings) as f64 / 1e6
    }
}

/// A number of the line with the books.
pub fn number(books: &str, name: &str) -> Result<u64> {
    let found = books
        .split_whitespace()
        .find_map(|word| word.strip_prefix(&format!("{name}=")));
    let found = found.with_context(|| format!("no {name} in {books:?}"))?;
    Ok(found.parse()?)
}

/// Reads lines as they come, so that nobody waits for the reader.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// What stands in front of every report.
pub fn machine() -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    format!(
        "Linux {}, {cores} cores, {model}; load before: {}",
        read("/proc/sys/kernel/osrelease").trim(),
        load.split(' ').next().unwrap_or_default()
    )
}

/// Makes the process run on this CPU alone.
pub fn pin(command: &mut Command, cpu: usize) {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: between fork and exec only a system call is made, on a value of the closure's own.
    unsafe {
        command.pre_exec(move || {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            if libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}
