//! `gpu.*` and `mining.*`

use saker::{
    context::gpu::{GpuFacts, Gpus, Unit},
    event::{
        Body, Event, Gpu,
        gpu::{Connections, GpuProcess, GpuSample, GpuState, Libraries, Look, Made, Pipes},
    },
    mining::{About, Identity, judge},
};

use super::{SECOND, World};

/// A GPU that a process hashed on for ten minutes.
pub fn unit() -> Unit {
    let process = GpuProcess {
        pid: 30,
        mem_used: Some(6 << 30),
        sm: Some(98.0),
        mem_util: Some(88.0),
        graphics: false,
        look: Some(Look {
            start_ns: 90 * SECOND,
            libraries: Some(Libraries::default()),
            deleted: false,
            connections: Some(Connections {
                count: 1,
                made: vec![Made {
                    remote: "198.51.100.7:443".into(),
                    bytes: None,
                }],
                is_called: false,
                calls: true,
            }),
            holds: None,
        }),
    };
    let state = GpuState {
        index: 3,
        uuid: "GPU-a".into(),
        name: "NVIDIA H100".into(),
        minor: Some(3),
        instance: Some(2),
        util: Some(100.0),
        mem_util: Some(88.0),
        mem_used: Some(7 << 30),
        mem_total: Some(80 << 30),
        power: Some(350.0),
        power_cap: Some(700.0),
        temperature: Some(61),
        clock_sm: Some(1_755),
        clock_mem: Some(2_619),
        pcie_rx: Some(1_000_000),
        pcie_tx: Some(500_000),
        nvlink: Some(0),
        ecc_uncorrected: Some(0),
        encoder: Some(0.0),
        decoder: Some(0.0),
        pipes: Some(Pipes {
            sm: 98.5,
            integer: 44.0,
            dram: 90.0,
            ..Pipes::default()
        }),
        processes: vec![process],
        ..GpuState::default()
    };
    let mut gpus = Gpus::default();
    for look in 0..=120 {
        gpus.learn(&GpuSample {
            taken_ns: (1_000 + look * 5) * SECOND,
            gpus: vec![state.clone()],
            openers: Vec::new(),
        });
    }
    let used = gpus.used_mut("GPU-a", 30).expect("it is there");
    let about = About {
        identity: Identity {
            name: b"worker",
            exe: b"/opt/worker",
            runtime: Some(None),
            ..Identity::default()
        },
        pool: Some(("eu1.ethermine.org", "DNS")),
        ..About::default()
    };
    used.verdict = judge(&used.series, &about, 300 * SECOND);
    gpus.into_unit("GPU-a").expect("it is there")
}

/// The event of its process.
pub fn body(unit: &Unit) -> Body<'_> {
    Body::Gpu(Gpu {
        state: &unit.state,
        process: unit.state.processes.first(),
    })
}

/// What is known beyond the event.
pub fn facts<'e>(event: &Event<'_>, unit: &'e Unit) -> Option<GpuFacts<'e>> {
    matches!(event.body, Body::Gpu(_)).then_some(GpuFacts {
        unit,
        used: unit.uses.get(&30),
    })
}

#[test]
fn a_look_at_a_process_on_a_gpu() {
    let world = World::new();
    world.check_all(
        body(&world.unit),
        &[
            ("evt.type", "gpu"),
            ("gpu.index", "3"),
            ("gpu.uuid", "GPU-a"),
            ("gpu.util", "100.0"),
            ("gpu.power.ratio", "50.0"),
            ("gpu.integer", "44.0"),
            ("gpu.tensor", "0.0"),
            ("gpu.util.mean[5m]", "100.0"),
            ("gpu.util.stddev[10m]", "0.0"),
            ("gpu.util.mean[1h]", "<NA>"),
            ("gpu.proc.util", "98.0"),
            ("gpu.proc.seen", "driver"),
            ("proc.name", "python3"),
            ("mining.suspected", "true"),
            ("mining.score", "13"),
            ("mining.certainty", "near certain"),
            ("mining.families", "(gpu,process,network)"),
        ],
    );
    let evidence = world.show(body(&world.unit), "mining.evidence");
    for part in [
        "+4 gpu.integer: integer 44 %, tensor 0.0 %",
        "+1 gpu.memory-hard: 90 %",
        "+4 network.pool-name: eu1.ethermine.org by DNS",
        "+1 process.no-runtime",
    ] {
        assert!(evidence.contains(part), "{part} in {evidence}");
    }
}
