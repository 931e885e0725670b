//! The sampler over the stand-in library, which is loaded as NVIDIA's is: what it reads, and what goes wrong and is survived.
//!
//! One test, because a process has one environment, and the library is told its scenario by that.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use saker::{
    event::gpu::{GpuSample, GpuState, Health},
    source::gpu::{Driver, Sampler, SamplerConfig},
};
use saker_nvml_stand_in::{
    scenario::{self, Fault, Gpu, Instance, Process, Scenario},
    workload::{Play, Workload},
};

const DEADLINE: Duration = Duration::from_secs(60);

struct Stage {
    folder: tempfile::TempDir,
    second: f64,
    sampler: Sampler,
}

impl Stage {
    fn play(&self, scenario: &Scenario) {
        write(
            &self.folder.path().join("scenario"),
            &serde_json::to_string(scenario).expect("it is JSON"),
        );
    }

    /// Lets time go on until a look fits.
    fn await_look(&mut self, what: &str, fits: impl Fn(&[GpuState]) -> bool) -> GpuSample {
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < DEADLINE {
            self.second += 1.0;
            write(&self.folder.path().join("clock"), &self.second.to_string());
            if let Some(sample) = self.sampler.take() {
                if fits(&sample.gpus) {
                    return sample;
                }
                last = Some(sample);
            }
            std::thread::yield_now();
        }
        panic!("no look with {what}; the last: {last:#?}");
    }

    fn await_driver(&mut self, state: Driver) {
        let begun = Instant::now();
        while self.sampler.watch() != state {
            assert!(
                begun.elapsed() < DEADLINE,
                "the driver is {:?}, not {state:?}",
                self.sampler.watch()
            );
            while self.sampler.take().is_some() {}
            std::thread::yield_now();
        }
    }
}

/// In one step: the reader must not find half of it.
fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("it is written");
    fs::rename(&new, path).expect("it is moved");
}

fn scenario(gpus: Vec<Gpu>, faults: Vec<Fault>) -> Scenario {
    Scenario {
        driver: "550.54.15".into(),
        gpus,
        faults,
    }
}

fn gpu(uuid: &str, workload: Workload) -> Gpu {
    Gpu {
        uuid: uuid.into(),
        processes: vec![Process {
            pid: std::process::id(),
            play: Play::of(workload, 1),
            from_s: 0.0,
            until_s: None,
            instance: None,
            graphics: false,
        }],
        ..Gpu::default()
    }
}

fn fault(call: &str, gpu: Option<usize>, code: u32, hang: bool) -> Fault {
    Fault {
        call: call.into(),
        gpu,
        code,
        hang,
        from_s: 0.0,
        until_s: None,
    }
}

/// The library, without these functions.
fn library(folder: &Path, missing: &[&str]) -> PathBuf {
    let folder_of_tests = saker_tests::bin_dir();
    let name = "libsaker_nvml_stand_in.so";
    let built = [
        folder_of_tests.join(name),
        folder_of_tests.join("deps").join(name),
    ];
    let built = built
        .iter()
        .find(|path| path.exists())
        .expect("the stand-in is built with the tests");
    let mut bytes = fs::read(built).expect("it can be read");
    for function in missing {
        // A name that is another in the table of names is not found under the old one.
        let name = [b"\0", function.as_bytes(), b"\0"].concat();
        let at: Vec<usize> = memchr::memmem::find_iter(&bytes, &name).collect();
        assert!(!at.is_empty(), "{function} is exported");
        for at in at {
            bytes[at + 1] = b'x';
        }
    }
    let path = folder.join(format!("nvml{}.so", missing.len()));
    fs::write(&path, bytes).expect("it is written");
    path
}

fn start(library: PathBuf) -> Sampler {
    let config = SamplerConfig {
        interval: Duration::from_millis(2),
        retry: Duration::from_millis(5),
        patience: Duration::from_millis(300),
        library: Some(library),
    };
    Sampler::start(config, || {}).expect("a thread can be started")
}

/// Threads of this process that ask drivers.
fn threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("our own threads");
    tasks
        .flatten()
        .filter(|task| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "gpu")
        })
        .count()
}

#[test]
fn what_is_there_is_read_and_what_goes_wrong_is_survived() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // SAFETY: this is the only test of the program, and nothing else reads the environment meanwhile.
    unsafe {
        std::env::set_var(scenario::FILE, folder.path().join("scenario"));
        std::env::set_var(scenario::CLOCK, folder.path().join("clock"));
    }
    write(&folder.path().join("clock"), "0");
    let later = folder.path().join("later.so");
    let sampler = start(later.clone());
    let mut stage = Stage {
        folder,
        second: 0.0,
        sampler,
    };

    // No library, then one without a driver, then both: nothing is restarted for that.
    stage.await_driver(Driver::Absent);
    fs::copy(library(stage.folder.path(), &[]), &later).expect("it is copied");
    stage.await_driver(Driver::Absent);
    stage.play(&scenario(
        vec![
            gpu("GPU-a", Workload::Ethash),
            gpu("GPU-b", Workload::Training),
        ],
        vec![],
    ));
    let look = stage.await_look("counters of both", |gpus| {
        gpus.len() == 2 && gpus.iter().all(|gpu| gpu.pipes.is_some())
    });
    stage.await_driver(Driver::Answers);
    let [miner, trainer] = &look.gpus[..] else {
        panic!("two GPUs")
    };
    let pipes = miner.pipes.expect("awaited");
    assert!(
        pipes.tensor == 0.0 && pipes.integer > 30.0 && pipes.dram > 80.0,
        "{pipes:?}"
    );
    assert!(
        trainer.pipes.is_some_and(|pipes| pipes.tensor > 2.0),
        "{trainer:?}"
    );
    assert_eq!(
        (&*miner.uuid, miner.minor, miner.mem_total),
        ("GPU-a", Some(0), Some(80 << 30))
    );
    assert!(
        miner.power.is_some_and(|watts| watts > 300.0) && miner.power_cap == Some(700.0),
        "{miner:?}"
    );
    assert!(
        miner.pcie_rx.is_some_and(|rate| rate < 5_000_000),
        "{miner:?}"
    );
    assert!(
        trainer.pcie_rx.is_some_and(|rate| rate > 100_000_000),
        "{trainer:?}"
    );
    let [process] = &miner.processes[..] else {
        panic!("one process")
    };
    assert_eq!(process.pid, std::process::id());
    assert!(process.sm.is_some_and(|sm| sm > 95.0), "{process:?}");
    let shown = process.look.as_ref().expect("it runs");
    assert!(
        shown
            .libraries
            .as_ref()
            .is_some_and(|libraries| libraries.runtime.is_none())
    );

    // One falls off the bus; the other goes on.
    stage.play(&scenario(
        vec![
            gpu("GPU-a", Workload::Ethash),
            gpu("GPU-b", Workload::Training),
        ],
        vec![fault("*", Some(0), 15, false)],
    ));
    let look = stage.await_look("a lost GPU beside another", |gpus| {
        gpus.len() == 2 && gpus[0].health == Health::Lost && gpus[1].util.is_some()
    });
    // It is known which one that is.
    assert_eq!(&*look.gpus[0].uuid, "GPU-a");

    // A part that is not supported is absent, and nothing else is.
    stage.play(&scenario(
        vec![gpu("GPU-a", Workload::Ethash)],
        vec![fault("nvmlDeviceGetPowerUsage", None, 3, false)],
    ));
    stage.await_look("no power", |gpus| {
        gpus.len() == 1 && gpus[0].power.is_none() && gpus[0].util.is_some()
    });

    // Two share a card, of which one does nothing: the driver has no sample of that.
    let mut shared = gpu("GPU-a", Workload::Ethash);
    let mut idle = shared.processes[0].clone();
    (idle.pid, idle.play.cap) = (1, Some(0.0));
    shared.processes.push(idle.clone());
    stage.play(&scenario(vec![shared], vec![]));
    let look = stage.await_look("two processes", |gpus| {
        gpus.len() == 1 && gpus[0].processes.len() == 2
    });
    assert!(look.gpus[0].processes[0].sm.is_some_and(|sm| sm > 95.0));
    assert_eq!(look.gpus[0].processes[1].sm, Some(0.0));
    // And nobody does anything: it has none at all, which is an error of its own.
    let mut all_idle = gpu("GPU-a", Workload::Ethash);
    all_idle.processes = vec![idle];
    stage.play(&scenario(vec![all_idle], vec![]));
    stage.await_look("an idle process", |gpus| {
        let alone = gpus[0].processes.first();
        alone.is_some_and(|process| process.pid == 1 && process.sm == Some(0.0))
    });
    // One that the driver does not name is looked at where that is asked for.
    stage.sampler.also(vec![std::process::id(), u32::MAX]);
    let begun = Instant::now();
    let opener = loop {
        let look = stage.await_look("any", |_| true);
        if let [opener] = &look.openers[..] {
            break opener.clone();
        }
        assert!(begun.elapsed() < DEADLINE, "{:?}", look.openers);
    };
    assert_eq!(opener.pid, std::process::id());
    assert_eq!(opener.look.holds, Some(vec![]));
    stage.sampler.also(Vec::new());

    // A divided card.
    let mut divided = gpu("GPU-a", Workload::Kheavyhash);
    divided.mig = vec![
        Instance {
            uuid: "MIG-1".into(),
            id: 7,
            memory: 20 << 30,
        },
        Instance {
            uuid: "MIG-2".into(),
            id: 9,
            memory: 20 << 30,
        },
    ];
    divided.processes[0].instance = Some(9);
    stage.play(&scenario(vec![divided], vec![]));
    let look = stage.await_look("counters of an instance", |gpus| {
        gpus.len() == 3 && gpus[2].pipes.is_some()
    });
    assert_eq!((look.gpus[0].util, look.gpus[0].processes.len()), (None, 0));
    assert_eq!(
        (look.gpus[1].instance, look.gpus[1].processes.len()),
        (Some(7), 0)
    );
    assert_eq!(
        (&*look.gpus[2].uuid, look.gpus[2].instance),
        ("MIG-2", Some(9))
    );
    let process = &look.gpus[2].processes[0];
    assert_eq!((process.pid, process.sm), (std::process::id(), None));
    assert!(look.gpus[2].pipes.is_some_and(|pipes| pipes.integer > 60.0));

    // It is divided otherwise while it runs: what was there before is not told any more, what is new is, and has counters of its own.
    let mut anew = gpu("GPU-a", Workload::Kheavyhash);
    anew.mig = vec![Instance {
        uuid: "MIG-3".into(),
        id: 9,
        memory: 40 << 30,
    }];
    anew.processes[0].instance = Some(9);
    stage.play(&scenario(vec![anew], vec![]));
    stage.await_look("counters of the new instance", |gpus| {
        gpus.len() == 2 && &*gpus[1].uuid == "MIG-3" && gpus[1].pipes.is_some()
    });

    // The driver hangs: it is told, no thread is added, and it goes on when it answers again.
    stage.play(&scenario(
        vec![gpu("GPU-a", Workload::Ethash)],
        vec![fault("nvmlDeviceGetUtilizationRates", None, 0, true)],
    ));
    stage.await_driver(Driver::Hangs);
    assert!(stage.sampler.trouble().contains("is open for more than"));
    assert_eq!(threads(), 1);
    stage.play(&scenario(vec![gpu("GPU-a", Workload::Ethash)], vec![]));
    stage.await_driver(Driver::Answers);
    stage.await_look("a GPU again", |gpus| {
        gpus.len() == 1 && gpus[0].util.is_some()
    });

    // The driver is replaced under the library.
    stage.play(&scenario(
        vec![gpu("GPU-a", Workload::Ethash)],
        vec![fault("nvmlDeviceGetCount_v2", None, 18, false)],
    ));
    stage.await_driver(Driver::Failing);
    let trouble = stage.sampler.trouble();
    assert!(trouble.contains("version mismatch"), "{trouble}");
    stage.play(&scenario(vec![gpu("GPU-a", Workload::Ethash)], vec![]));
    stage.await_driver(Driver::Answers);
    assert_eq!((threads(), stage.sampler.trouble().as_str()), (1, ""));

    // An older library: no counters, no newest list of processes.
    let old = library(
        stage.folder.path(),
        &[
            "nvmlGpmQueryDeviceSupport",
            "nvmlDeviceGetComputeRunningProcesses_v3",
            "nvmlDeviceGetMemoryInfo_v2",
            "nvmlDeviceGetMigMode",
        ],
    );
    stage.sampler = start(old);
    let look = stage.await_look("processes without counters", |gpus| {
        gpus.len() == 1 && gpus[0].processes.len() == 1
    });
    assert_eq!(look.gpus[0].pipes, None);
    assert!(look.gpus[0].util.is_some_and(|util| util > 95.0));
    assert!(look.gpus[0].pcie_rx.is_some(), "by the older function");

    // One that cannot even tell how many there are.
    stage.sampler = start(library(stage.folder.path(), &["nvmlDeviceGetCount_v2"]));
    stage.await_driver(Driver::Failing);
}
