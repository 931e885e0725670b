//! `cargo xtask vm`: the sensor's tests on every kernel of the matrix, and one with containers under systemd, each in a guest.
//!
//! What guests are made of is fetched once into the user's cache: kernels and programs as Debian packages, unpacked and never
//! installed. What they said lies under `target/vm`, a folder a guest.

mod apt;
mod cpio;
mod kernels;
mod kit;
mod qemu;
mod report;
mod userland;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

pub use self::kit::{Contents, PLAIN_MAIN};
use self::{
    apt::{Apt, Debian, unpack},
    kernels::{Kernel, LINUX_5_10, LINUX_6_1, LINUX_6_12, LINUX_7_2},
    kit::{Kit, MATRIX, SYSTEMD},
    qemu::Guest,
    report::{Report, parse, problems, table},
};
use crate::process::{cache_dir, target_dir};

/// A guest that is not through by then hangs. The slowest takes ten to fifteen minutes on two cores that another guest shares.
const LIMIT: Duration = Duration::from_secs(1500);

/// What `cargo xtask vm` is asked to do.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these guests: a kernel, for example 5.10, or `systemd`.
    guests: Vec<String>,
    /// Say which guests there are, and start nothing.
    #[arg(long)]
    list: bool,
}

/// Runs the matrix and the guest with systemd, or some of them.
pub fn vm(args: &Args) -> Result<()> {
    if args.list {
        for job in GUESTS {
            let Kernel { series, suite } = job.kernel;
            println!(
                "{:8} Linux {series} of {suite}, {} tests",
                job.name, job.kit.name
            );
        }
        return Ok(());
    }
    let chosen = select(&args.guests)?;
    for skipped in run(&Place::find()?, &chosen)? {
        println!("  SKIP {skipped}");
    }
    Ok(())
}

/// All guests as a part of `cargo xtask test`: where none can be run, a skip. Skips are added to the file.
pub fn as_test(skips: &Path) -> Result<()> {
    let skipped = match Place::find() {
        Ok(place) => run(&place, &select(&[])?)?,
        Err(error) => vec![format!("kernel_matrix: {error:#}")],
    };
    let mut file = File::options().append(true).open(skips)?;
    for line in skipped {
        writeln!(file, "{line}")?;
    }
    Ok(())
}

/// Boots a kernel of the matrix with these contents, an instruction a nanosecond, and returns what their script said.
pub fn count(series: &str, contents: &Contents<'_>, limit: Duration) -> Result<String> {
    let of_series = |job: &&Job| job.kernel.series == series && job.kit.name == MATRIX.name;
    let Some(job) = GUESTS.iter().find(of_series) else {
        bail!("no kernel {series} is in the matrix: `cargo xtask vm --list`");
    };
    let place = Place::find()?;
    let image = job.kernel.image(&place.debian, &place.cache)?;
    let userland = job.kit.userland.folder(&place.debian, &place.cache)?;
    place.lock.unlock()?;
    let folder = target_dir()?.join("vm/counted");
    fs::create_dir_all(&folder)?;
    let archive = folder.join("counted.cpio");
    contents.archive(&userland, &archive)?;
    let guest = Guest {
        kernel: &image,
        archive: &archive,
        console: &folder.join("console.log"),
        report: &folder.join("report.log"),
        limit,
        is_counted: true,
    };
    let ran = guest.run();
    let said = fs::read(guest.report).unwrap_or_default();
    ran.with_context(|| format!("the guest, see {}", folder.display()))?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// The suite whose containerd streams what happens to containers; this machine's does not.
const NEWER_CONTAINERD: &str = "trixie";

/// A newer containerd than this machine's, from the cache or fetched: the folder with its programs.
pub fn newer_containerd() -> Result<PathBuf> {
    let debian = Debian::of_this_machine()?;
    let folder = cache_dir()?.join("containerd");
    let programs = folder.join("usr/bin");
    fs::create_dir_all(&folder)?;
    let lock = File::create(folder.with_extension("lock"))?;
    lock.lock()?;
    let stamp = folder.join("complete");
    if stamp.exists() {
        return Ok(programs);
    }
    println!(
        "setup: fetching containerd of {NEWER_CONTAINERD} into {}",
        folder.display()
    );
    let apt = Apt::update(&debian, &[NEWER_CONTAINERD], &folder.join("apt"))?;
    unpack(&apt.download("containerd")?, &folder)?;
    fs::remove_dir_all(folder.join("apt"))?;
    // Last: a fetch that was cut short is begun again.
    fs::write(&stamp, NEWER_CONTAINERD)?;
    Ok(programs)
}

/// A guest: a kernel, and what runs on it.
#[derive(Debug)]
struct Job {
    name: &'static str,
    kernel: &'static Kernel,
    kit: &'static Kit,
}

/// Every guest there is. The one that takes longest is not the last to start.
const GUESTS: &[Job] = &[
    on(&LINUX_5_10),
    on(&LINUX_6_1),
    on(&LINUX_6_12),
    on(&LINUX_7_2),
    Job {
        name: "systemd",
        kernel: &LINUX_6_1,
        kit: &SYSTEMD,
    },
];

const fn on(kernel: &'static Kernel) -> Job {
    Job {
        name: kernel.series,
        kernel,
        kit: &MATRIX,
    }
}

/// The guests of these names, or all.
fn select(names: &[String]) -> Result<Vec<&'static Job>> {
    if names.is_empty() {
        return Ok(GUESTS.iter().collect());
    }
    let find = |name: &String| {
        GUESTS.iter().find(|job| job.name == name).with_context(|| {
            let known: Vec<_> = GUESTS.iter().map(|job| job.name).collect();
            format!("no guest {name}; there are {}", known.join(", "))
        })
    };
    names.iter().map(find).collect()
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
        let cache = cache_dir()?.join("vm");
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

/// Runs these guests, prints what each said, and returns the tests that were skipped inside.
fn run(place: &Place, chosen: &[&Job]) -> Result<Vec<String>> {
    let logs = target_dir()?.join("vm");
    fs::create_dir_all(&logs)?;
    let archive = |kit: &Kit| logs.join(format!("{}.cpio", kit.name));
    let mut images = Vec::new();
    for job in chosen {
        images.push(job.kernel.image(&place.debian, &place.cache)?);
    }
    for kit in [&MATRIX, &SYSTEMD] {
        if chosen.iter().any(|job| job.kit.name == kit.name) {
            let userland = kit.userland.folder(&place.debian, &place.cache)?;
            kit.archive(&userland, &archive(kit))?;
            println!("vm: {} leaves out {}", kit.name, kit.left_out);
        }
    }
    place.lock.unlock()?;

    let at_once = thread::available_parallelism().map_or(1, usize::from);
    println!("vm: {} guests, {at_once} at once", chosen.len());
    let next = AtomicUsize::new(0);
    let take = || {
        let index = next.fetch_add(1, Ordering::Relaxed);
        Some((index, *chosen.get(index)?, images.get(index)?))
    };
    let outcomes = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..at_once.min(chosen.len()) {
            scope.spawn(|| {
                while let Some((index, job, image)) = take() {
                    let outcome = boot(job, image, &archive(job.kit), &logs.join(job.name));
                    let mut outcomes = outcomes.lock().expect("no guest panics");
                    outcomes.insert(index, (job.name, outcome));
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().expect("no guest panics");
    judge(outcomes.into_values().collect())
}

/// One guest's report, and what is wrong with it.
type Outcome = (Report, Vec<String>);

fn boot(job: &Job, image: &Path, archive: &Path, folder: &Path) -> Outcome {
    let guest = Guest {
        kernel: image,
        archive,
        console: &folder.join("console.log"),
        report: &folder.join("report.log"),
        limit: LIMIT,
        is_counted: false,
    };
    let mut wrong = Vec::new();
    let ran = fs::create_dir_all(folder)
        .map_err(Into::into)
        .and_then(|()| guest.run());
    let said = fs::read(guest.report).unwrap_or_default();
    let report = parse(&String::from_utf8_lossy(&said));
    match ran {
        Ok(took) => println!("vm: {} took {} s", job.name, took.as_secs()),
        Err(error) => wrong.push(format!("the guest {error:#}")),
    }
    wrong.extend(problems(&report, &[&["doctor"], job.kit.suites].concat()));
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
    for (name, (report, problems)) in guests {
        let inside = |line: &String| format!("kernel_matrix {name} {line}");
        skipped.extend(report.skipped.iter().map(inside));
        wrong.extend(problems.iter().map(|problem| format!("{name}: {problem}")));
        reports.push((name, report));
    }
    print!("{}", table(&reports));
    if wrong.is_empty() {
        return Ok(skipped);
    }
    bail!("guests failed:\n  {}", wrong.join("\n  "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_guest_is_refused_with_those_there_are() {
        assert_eq!(select(&[]).expect("all").len(), GUESTS.len());
        let one = select(&["6.1".to_owned()]).expect("known");
        assert_eq!((one.len(), one[0].kernel.suite), (1, "bookworm"));
        let error = select(&["4.19".to_owned()]).expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "no guest 4.19; there are 5.10, 6.1, 6.12, 7.2, systemd"
        );
    }
}
