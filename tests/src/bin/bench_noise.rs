//! How quiet the shipped rules are on a healthy node, and whether each attack is told.
//!
//! `cargo xtask bench noise` builds the release agent and runs this. Every part of the ordinary work runs in a cgroup like a container's of its own,
//! so that nothing else on the machine counts. A part that this machine cannot do is named; one that fails ends the run.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use clap::Parser;
use saker_tests::{
    Agent, Cgroup,
    agent::{alarms, is_alarm},
    python::{libraries, script},
    scenario::SCENARIOS,
};

#[derive(Parser)]
struct Cli {
    /// The agent's binary.
    #[arg(long)]
    agent: PathBuf,
    /// Only parts whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Further arguments of `saker run`.
    #[arg(last = true)]
    args: Vec<String>,
}

/// A part of the ordinary work.
struct Part {
    name: &'static str,
    /// What there has to be.
    needs: &'static [&'static str],
    commands: fn(&Place) -> Vec<Command>,
}

/// Where the work is done, and with what.
struct Place {
    folder: PathBuf,
    python: PathBuf,
    /// Where that Python's libraries are.
    libraries: PathBuf,
}

impl Place {
    fn new(folder: &Path, python: PathBuf) -> Self {
        let asked = Command::new(&python)
            .args([
                "-c",
                "import torch, os; print(os.path.dirname(os.path.dirname(torch.__file__)))",
            ])
            .output()
            .expect("Python starts");
        let libraries = String::from_utf8_lossy(&asked.stdout).trim().into();
        Self {
            folder: folder.to_owned(),
            python,
            libraries,
        }
    }

    fn run(&self, program: impl AsRef<Path>, args: &[&str]) -> Command {
        let mut command = Command::new(program.as_ref());
        command.args(args).current_dir(&self.folder);
        command
    }

    /// The environment that the first part makes, which also sees the libraries that models are made with.
    fn work(&self, part: &str) -> Vec<Command> {
        let mut command = self.run(self.folder.join("venv/bin/python"), &[]);
        command
            .arg(script("healthy_work.py"))
            .args([part, "."])
            .env("PYTHONPATH", &self.libraries);
        vec![command]
    }
}

const PARTS: &[Part] = &[
    Part {
        name: "pip: a virtual environment, wheels, a package that is compiled",
        needs: &["gcc"],
        commands: |place| {
            let pip = place.folder.join("venv/bin/pip");
            let listed = script("noise-requirements.txt");
            let listed = listed.to_string_lossy().into_owned();
            vec![
                place.run(&place.python, &["-m", "venv", "venv"]),
                place.run(
                    &pip,
                    &[
                        "install",
                        "--quiet",
                        "--no-cache-dir",
                        "--no-binary",
                        "simplejson",
                        "-r",
                        &listed,
                    ],
                ),
                place.run(&pip, &["list", "--outdated"]),
            ]
        },
    },
    Part {
        name: "torch: training with worker processes, checkpoints, TorchScript",
        needs: &[],
        commands: |place| place.work("train"),
    },
    Part {
        name: "scikit-learn: a search with joblib's worker processes",
        needs: &[],
        commands: |place| place.work("search"),
    },
    Part {
        name: "models of every library saved and loaded",
        needs: &[],
        commands: |place| {
            let mut command = place.run(&place.python, &[]);
            command.arg(script("ordinary_models.py")).arg(".");
            vec![command]
        },
    },
    Part {
        name: "a Jupyter kernel with shell commands in cells",
        needs: &[],
        commands: |place| place.work("notebook"),
    },
    Part {
        name: "a FastAPI model server under load",
        needs: &[],
        commands: |place| place.work("serve"),
    },
    Part {
        name: "git: init, commit, clone, gc",
        needs: &["git"],
        commands: |place| {
            let author = [
                "-c",
                "user.name=Somebody",
                "-c",
                "user.email=somebody@example.com",
            ];
            vec![
                place.run("git", &["init", "--quiet", "repository"]),
                place.run(
                    "git",
                    &[
                        &author[..],
                        &[
                            "-C",
                            "repository",
                            "commit",
                            "--quiet",
                            "--allow-empty",
                            "-m",
                            "one",
                        ],
                    ]
                    .concat(),
                ),
                place.run("git", &["clone", "--quiet", "repository", "clone"]),
                place.run("git", &["-C", "clone", "gc", "--quiet"]),
                place.run("git", &["-C", "clone", "log"]),
            ]
        },
    },
    Part {
        name: "apt: update, install, remove",
        needs: &["apt-get"],
        commands: |place| {
            let apt = |args: &[&str]| {
                let mut command = place.run("apt-get", &[&["-qq", "-y"], args].concat());
                command.env("DEBIAN_FRONTEND", "noninteractive");
                command
            };
            vec![
                apt(&["update"]),
                apt(&["install", "hello"]),
                apt(&["purge", "hello"]),
            ]
        },
    },
];

fn main() -> ExitCode {
    let cli = Cli::parse();
    let python = libraries().expect("cargo xtask setup installs the libraries");
    let folder = tempfile::Builder::new()
        .prefix("saker-noise-")
        .tempdir()
        .expect("a temporary folder");
    let place = Place::new(folder.path(), python);
    let args: Vec<&str> = cli.args.iter().map(String::as_str).collect();
    let mut agent = Agent::start_from(&cli.agent, &args);

    let mut done = Vec::new();
    for (number, part) in PARTS.iter().enumerate() {
        // Later parts use the environment that the first one makes.
        let is_wanted = cli
            .only
            .as_ref()
            .is_none_or(|only| part.name.contains(only.as_str()));
        if number > 0 && !is_wanted {
            continue;
        }
        if let Some(missing) = part.needs.iter().find(|need| !is_there(need)) {
            eprintln!("SKIP {}: no {missing} here", part.name);
            continue;
        }
        let cgroup = Cgroup::like_a_container().expect("a cgroup");
        let began = Instant::now();
        for mut command in (part.commands)(&place) {
            cgroup.enter(&mut command);
            let output = command
                .stdin(Stdio::null())
                .output()
                .unwrap_or_else(|error| panic!("{command:?}: {error}"));
            assert!(
                output.status.success(),
                "{command:?} ended with {}:\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        eprintln!("{} ({:.0} s)", part.name, began.elapsed().as_secs_f64());
        done.push((part.name, cgroup));
    }

    let acts = folder.path().join("attacks");
    fs::create_dir(&acts).expect("a folder");
    let mut missing = 0;
    for scenario in SCENARIOS.iter().filter(|_| cli.only.is_none()) {
        match (scenario.act)(&acts) {
            Ok(marker) => {
                let alert = agent.await_rule(scenario.rule, &marker);
                eprintln!("{}: {}", scenario.what, alert["priority"]);
            }
            Err(error) => {
                missing += 1;
                eprintln!("{} could not be acted out: {error}", scenario.what);
            }
        }
    }

    let stopped = agent.stop();
    println!("{:<70}{:>10}{:>10}", "healthy work", "WARNING+", "below");
    let mut noise = 0;
    for (name, cgroup) in &done {
        let loud = alarms(&stopped.alerts, cgroup);
        let id = cgroup.short_id();
        let of_it = stopped
            .alerts
            .iter()
            .filter(|alert| alert["output_fields"]["container.id"] == id);
        let quiet = of_it.clone().filter(|alert| !is_alarm(alert)).count();
        println!("{name:<70}{:>10}{quiet:>10}", loud.len());
        noise += loud.len();
        let mut rules: BTreeMap<(&str, &str), (usize, &str)> = BTreeMap::new();
        for alert in of_it {
            let text = |key: &str| alert[key].as_str().unwrap_or_default();
            let entry = rules.entry((text("priority"), text("rule")));
            entry.or_insert((0, text("output"))).0 += 1;
        }
        for ((priority, rule), (count, output)) in rules {
            println!("  {count} x {priority} {rule}\n      {output}");
        }
    }
    let attacks = if cli.only.is_none() {
        SCENARIOS.len()
    } else {
        0
    };
    println!(
        "{noise} alerts at WARNING or above for {} kinds of healthy work; {} of {attacks} attacks raised theirs",
        done.len(),
        attacks - missing
    );
    if noise + missing == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).exists())
}
