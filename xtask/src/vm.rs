//! `cargo xtask vm`: the sensor's tests on every kernel of the matrix, each in a guest of its own.
//!
//! What guests are made of is fetched once into the user's cache: kernels and programs as Debian packages, unpacked and never
//! installed. What they said lies under `target/vm`, a folder a guest.

mod apt;
mod cpio;
mod kernels;
mod qemu;
mod report;
mod userland;

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::{BufReader, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::Message;

use self::{
    apt::Debian,
    cpio::Archive,
    kernels::{KERNELS, Kernel, select},
    qemu::Guest,
    report::{Report, parse, problems, table},
    userland::PLAIN,
};
use crate::process::{cargo, target_dir};

/// The test binaries of the agent that run in every guest.
const SUITES: &[&str] = &["kernel", "kernel_offsets"];

/// Tests that stay outside of guests, and why.
const LEFT_OUT: &[(&str, &str)] = &[(
    "ten_thousand_short_processes_are_ten_thousand_events",
    "ten thousand processes take minutes on an emulated processor",
)];

/// A guest that is not through by then hangs. Ten times what one takes on two cores.
const LIMIT: Duration = Duration::from_secs(900);

/// What `cargo xtask vm` is asked to do.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these kernels, for example 5.10.
    kernels: Vec<String>,
    /// Say which kernels there are, and start nothing.
    #[arg(long)]
    list: bool,
}

/// Runs the matrix, or a part of it.
pub fn vm(args: &Args) -> Result<()> {
    if args.list {
        for kernel in KERNELS {
            println!("{:5} {}", kernel.series, kernel.suite);
        }
        return Ok(());
    }
    let chosen = select(&args.kernels)?;
    let place = Place::find()?;
    for skipped in matrix(&place, &chosen)? {
        println!("  SKIP {skipped}");
    }
    Ok(())
}

/// The matrix as a part of `cargo xtask test`: where guests cannot be run, a skip. Skips are added to the file.
pub fn as_test(skips: &Path) -> Result<()> {
    let skipped = match Place::find() {
        Ok(place) => matrix(&place, &select(&[])?)?,
        Err(error) => vec![format!("kernel_matrix: {error:#}")],
    };
    let mut file = File::options().append(true).open(skips)?;
    for line in skipped {
        writeln!(file, "{line}")?;
    }
    Ok(())
}

/// A machine on which guests can run.
struct Place {
    debian: Debian,
    cache: PathBuf,
    /// Held while anything may be fetched: two runs share the cache.
    lock: File,
}

impl Place {
    fn find() -> Result<Self> {
        let debian = Debian::of_this_machine()?;
        let cache = env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))
            .context("neither XDG_CACHE_HOME nor HOME is set")?
            .join("saker/vm");
        fs::create_dir_all(&cache)?;
        let lock = File::create(cache.join("lock"))?;
        lock.lock()?;
        qemu::ensure(&debian, &cache)?;
        Ok(Self {
            debian,
            cache,
            lock,
        })
    }
}

/// Boots these kernels, prints what each said, and returns the tests that were skipped inside.
fn matrix(place: &Place, chosen: &[&Kernel]) -> Result<Vec<String>> {
    let userland = PLAIN.folder(&place.debian, &place.cache)?;
    let images = chosen
        .iter()
        .map(|kernel| kernel.image(&place.debian, &place.cache))
        .collect::<Result<Vec<_>>>()?;
    place.lock.unlock()?;

    let logs = target_dir()?.join("vm");
    fs::create_dir_all(&logs)?;
    let archive = logs.join("matrix.cpio");
    write_archive(&archive, &userland)?;
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    println!("vm: {} kernels, {at_once} at once", chosen.len());
    for (test, why) in LEFT_OUT {
        println!("vm: not in guests: {test} ({why})");
    }
    let next = AtomicUsize::new(0);
    let take = || {
        let index = next.fetch_add(1, Ordering::Relaxed);
        Some((index, *chosen.get(index)?, images.get(index)?))
    };
    let guests = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..at_once.min(chosen.len()) {
            scope.spawn(|| {
                while let Some((index, kernel, image)) = take() {
                    let outcome = boot(kernel, image, &archive, &logs);
                    let mut guests = guests.lock().expect("no guest panics");
                    guests.insert(index, (kernel.series, outcome));
                }
            });
        }
    });
    let guests = guests.into_inner().expect("no guest panics");
    judge(guests.into_values().collect())
}

/// One guest's report, and what is wrong with it.
type Outcome = (Report, Vec<String>);

fn boot(kernel: &Kernel, image: &Path, archive: &Path, logs: &Path) -> Outcome {
    let folder = logs.join(kernel.series);
    let guest = Guest {
        kernel: image,
        archive,
        console: &folder.join("console.log"),
        report: &folder.join("report.log"),
        limit: LIMIT,
    };
    let mut wrong = Vec::new();
    let ran = fs::create_dir_all(&folder)
        .map_err(Into::into)
        .and_then(|()| guest.run());
    let said = fs::read(guest.report).unwrap_or_default();
    let report = parse(&String::from_utf8_lossy(&said));
    match ran {
        Ok(took) => println!("vm: {} took {} s", kernel.series, took.as_secs()),
        Err(error) => wrong.push(format!("the guest {error:#}")),
    }
    wrong.extend(problems(&report, &[&["doctor"], SUITES].concat()));
    if !wrong.is_empty() {
        wrong.push(format!("see {}", folder.display()));
    }
    (report, wrong)
}

/// Prints the table and returns what was skipped, or an error with everything that went wrong.
fn judge(guests: Vec<(&str, Outcome)>) -> Result<Vec<String>> {
    let mut skipped = Vec::new();
    let mut wrong = Vec::new();
    let mut reports = Vec::new();
    for (series, (report, problems)) in guests {
        let inside = format!("kernel_matrix {series}");
        skipped.extend(report.skipped.iter().map(|s| format!("{inside} {s}")));
        wrong.extend(problems.iter().map(|p| format!("{series}: {p}")));
        reports.push((series, report));
    }
    print!("{}", table(&reports));
    if wrong.is_empty() {
        return Ok(skipped);
    }
    bail!("the matrix is not green:\n  {}", wrong.join("\n  "));
}

/// Writes what every guest of the matrix unpacks: the programs, the agent, and its tests.
fn write_archive(path: &Path, userland: &Path) -> Result<()> {
    let binaries = build()?;
    let mut archive = Archive::create(path)?;
    archive.tree(userland)?;
    // The kernel opens it for the first program before anything is mounted.
    archive.character_device(Path::new("dev/console"), 5, 1)?;
    archive.file(Path::new("init"), 0o755, include_bytes!("vm/guest/init.sh"))?;
    archive.folder(Path::new("saker"))?;
    let main = include_bytes!("vm/guest/matrix.sh");
    archive.file(Path::new("saker/main"), 0o755, main)?;
    let left_out: String = LEFT_OUT
        .iter()
        .map(|(test, _)| format!("{test}\n"))
        .collect();
    archive.file(Path::new("saker/left-out"), 0o644, left_out.as_bytes())?;
    archive.folder(Path::new("saker/tests"))?;
    for (name, binary) in binaries {
        let content = fs::read(&binary).with_context(|| format!("reading {}", binary.display()))?;
        archive.file(Path::new(&name), 0o755, &content)?;
    }
    archive.finish()?;
    Ok(())
}

/// Builds the agent and its test binaries; each with its name in the guest.
fn build() -> Result<Vec<(String, PathBuf)>> {
    let mut build = cargo();
    build.args(["test", "--no-run", "--quiet", "--package", "saker"]);
    for suite in SUITES {
        build.args(["--test", suite]);
    }
    let mut build = build
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let messages = BufReader::new(build.stdout.take().context("no pipe")?);
    let mut binaries = Vec::new();
    for message in Message::parse_stream(messages) {
        let Message::CompilerArtifact(artifact) = message? else {
            continue;
        };
        let Some(binary) = artifact.executable else {
            continue;
        };
        let name = match artifact.target.name.as_str() {
            "saker" => "saker/saker".to_owned(),
            suite if SUITES.contains(&suite) => format!("saker/tests/{suite}"),
            _ => continue,
        };
        binaries.push((name, binary.into_std_path_buf()));
    }
    if !build.wait()?.success() {
        bail!("the agent and its tests could not be built");
    }
    if binaries.len() != SUITES.len() + 1 {
        bail!(
            "cargo built {} of the {} programs for guests",
            binaries.len(),
            SUITES.len() + 1
        );
    }
    Ok(binaries)
}
