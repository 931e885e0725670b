//! Every field that the table promises is supplied, with the value that a given event has.

mod container;
mod gpu;
mod network;
mod process;
mod python;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use bumpalo::Bump;
use saker::{
    context::{
        container::Owner,
        names::Names,
        outside::Outside,
        process::{File, Image, Layer, ProcessTable, Relatives, Seed, Start},
        resolved::Resolved,
        runtime::metadata::{self, Container, Mount, Pod},
    },
    event::{
        Argv, Body, Connect, DeviceOpen, DeviceType, Event, Exec, Exit, Fork, Internal, Lost, Open,
        OpenSyscall, Text,
    },
    fields::{Carried, Device, EventView, Python},
};
use saker_rules::{
    FieldArgRef, FieldSource as _,
    fields::{FIELDS, Field, Supply},
    value::Value,
};

const SECOND: u64 = 1_000_000_000;
const CONTAINER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn text(bytes: &[u8]) -> Text<'_> {
    Text { bytes, cut: false }
}

fn event(body: Body<'_>) -> Event<'_> {
    Event {
        ts_ns: 100 * SECOND,
        cpu: 3,
        tgid: 30,
        tid: 31,
        ppid: 20,
        start_ns: 90 * SECOND + 1,
        uid: 1000,
        gid: 1000,
        euid: 7,
        egid: 8,
        cgroup_id: 5,
        comm: b"python3",
        body,
    }
}

fn exec<'a>() -> Body<'a> {
    Body::Exec(Exec {
        exe: text(b"/usr/bin/python3.11"),
        filename: text(b"python3"),
        cwd: text(b"/srv"),
        argv: Argv {
            bytes: b"py\0-c\0a://b\0",
            argc: 3,
            total_bytes: 12,
            cut: false,
            unreadable: false,
        },
        parent_start_ns: 80 * SECOND,
        inode: 1,
        device: (8, 1),
        memfd: false,
        deleted: false,
        detached: false,
        loginuid: Some(7),
        audit_session: None,
        session_leader: Some(20),
        tty: 34816,
        ns_tgid: Some(4),
        mount_ns: None,
        pid_ns: None,
        pid_ns_start_ns: Some(SECOND),
        old_tid: 31,
        pgid: Some(30),
        ns_pgid: Some(4),
        exe_file: None,
        exe_upper_layer: None,
        exe_layer_known: false,
        capabilities: None,
        env: None,
    })
}

fn open(path: &[u8], flags: i32, res: i32) -> Body<'_> {
    Body::Open(Open {
        syscall: OpenSyscall::Openat,
        path: text(path),
        resolved: text(b""),
        flags: u64::try_from(flags).expect("flags are positive"),
        mode: 0o755,
        resolve: 0,
        dfd: libc::AT_FDCWD,
        res,
        path_unreadable: false,
        detached: false,
        how_unreadable: false,
    })
}

fn connect(addr: &str) -> Body<'static> {
    let addr: IpAddr = addr.parse().expect("an address");
    Body::Connect(Connect {
        addr,
        port: 443,
        is_inet6: addr.is_ipv6(),
        protocol: Some(6),
        socket_type: Some(1),
        res: -libc::EINPROGRESS,
    })
}

fn device() -> Body<'static> {
    Body::DeviceOpen(DeviceOpen {
        major: 195,
        minor: 0,
        read: true,
        write: false,
        mknod: false,
        dev_type: DeviceType::Character,
        path: Text {
            bytes: b"/tmp/innocent",
            cut: false,
        },
    })
}

/// A container that has everything that a runtime can say.
fn container() -> Container {
    let mut image = metadata::Image::parse("registry.internal:5000/ml/trainer:v1@sha256:12");
    image.id = "34".into();
    let pairs = |pairs: &[(&str, &str)]| metadata::pairs(pairs.iter().copied(), &mut false);
    let mount = |source: &str, destination: &str, writable| Mount {
        source: source.into(),
        destination: destination.into(),
        mode: "z".into(),
        writable,
        propagation: "private".into(),
    };
    Container {
        id: CONTAINER.into(),
        kind: "containerd",
        name: "main".into(),
        image,
        labels: pairs(&[("role", "worker"), ("app", "train")]),
        mounts: vec![mount("/a", "/b", true), mount("/etc", "/host/etc", false)],
        privileged: Some(true),
        read_only: Some(true),
        user: "7:8".into(),
        created_ns: 1_700_000_000_000_000_000 + 50 * SECOND,
        started_ns: 1_700_000_000_000_000_000 + 60 * SECOND,
        host_network: Some(true),
        host_pid: Some(false),
        host_ipc: Some(false),
        ip: "10.0.0.7".into(),
        gpus: vec!["/dev/nvidia0".into(), "nvidia.com/gpu=1".into()],
        healthcheck: "true".into(),
        cni: "{}".into(),
        pod: Some(Pod {
            name: "trainer-0".into(),
            namespace: "ml".into(),
            uid: "uid-1".into(),
            labels: pairs(&[("tier", "gpu"), ("app", "train")]),
            annotations: pairs(&[("app", "note")]),
            sandbox_id: CONTAINER.replace('0', "f").into(),
            ip: "10.0.0.7".into(),
            cni: "{}".into(),
        }),
        is_sandbox: false,
        cut: false,
    }
}

/// A shell (20) in session of init (1) started the acting process (30).
struct World {
    table: ProcessTable,
    owner: Owner,
    container: Container,
    python: Python,
    names: Names,
    outside: Outside,
    resolved: Resolved,
    unit: saker::context::gpu::Unit,
    arena: Bump,
    /// Holds `etc` and what `/proc` has of the acting process.
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let mut table = ProcessTable::new(1000, 1 << 20);
        let seed = |tgid, ppid, start_s: u64, name: &str, argv: &str| Seed {
            tgid,
            ppid,
            start_ns: start_s * SECOND + 1,
            image: Arc::new(Image::new(&Start {
                name: name.as_bytes(),
                exe_path: format!("/bin/{name}").as_bytes(),
                argv: argv.as_bytes(),
                cwd: b"/srv",
                env: format!("LD_PRELOAD=/{name}.so\0WHO={name}\0").as_bytes(),
                env_truncated: Some(false),
                file: Some(File {
                    inode: 77,
                    ctime_ns: Some(1_700_000_005 * SECOND),
                    mtime_ns: Some(1_600_000_000 * SECOND),
                    is_writable: Some(true),
                    layer: Layer::Upper,
                }),
                ..Start::default()
            })),
            uid: 1000,
            gid: 1000,
            loginuid: 7,
            sid: 20,
            tty: 34816,
            vpid: Some(4),
            pgid: tgid.max(20),
            vpgid: Some(4),
            pid_ns_start_ns: Some(SECOND),
            capabilities: Some([1 | 1 << 21, 1, 0]),
            ..Seed::default()
        };
        table.add(seed(1, 0, 1, "init", "/sbin/init\0"), 0);
        table.add(seed(20, 1, 80, "bash", "-bash\0"), 0);
        let acting = table.add(seed(30, 20, 90, "python3", "py\0-c\0a://b\0"), 0);
        let image = Image::clone(&table.get(acting).expect("it lives").image);
        table.set_image(acting, image, 0);
        let etc = tempfile::tempdir().expect("a temporary folder");
        let write = |file: &str, text: &str| {
            let path = etc.path().join(file);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
            std::fs::write(path, text).expect("it is written");
        };
        write("etc/passwd", "ann:x:7:8::/srv/ann:/bin/zsh\n");
        write("etc/group", "ml:x:8:\n");
        let stat = "30 (python3) S 20 30 20 34816 30 0 55 0 66 0 1 2 0 0 20 0 3 0 9000";
        write("30/stat", stat);
        write("30/task/31/stat", stat);
        write("30/task/31/schedstat", "123456 7 8\n");
        write("30/task/31/cgroup", "4:cpu,cpuacct:/a\n0::/b c\n");
        write(
            "30/status",
            "Name:\tpython3\nVmSize:\t 2000 kB\nVmRSS:\t 1000 kB\nVmSwap:\t 0 kB\nThreads:\t3\n",
        );
        write(
            "30/limits",
            "Limit  Soft  Hard\nMax open files  1024  4096  files\n",
        );
        std::fs::create_dir(etc.path().join("30/fd")).expect("a folder");
        for (number, target) in [(0, "/dev/null"), (1, "pipe:[5]"), (2, "/log")] {
            std::os::unix::fs::symlink(target, etc.path().join(format!("30/fd/{number}")))
                .expect("a link");
        }
        let mut names = Names::new(etc.path(), etc.path());
        names.refresh(std::time::Instant::now());
        Self {
            table,
            owner: Owner::Container(CONTAINER.into()),
            container: container(),
            python: Python {
                version: Some("3.13t".into()),
                model_file: Some(b"/models/m.pkl".as_slice().into()),
            },
            names,
            outside: Outside::machine(),
            resolved: network::resolved(),
            unit: gpu::unit(),
            arena: Bump::new(),
            folder: etc,
        }
    }

    fn view<'e>(&'e self, event: &'e Event<'e>) -> EventView<'e> {
        EventView {
            event,
            number: 12,
            epoch_offset_ns: 1_700_000_000 * SECOND as i64,
            hostname: "node",
            process: self.table.live(30).and_then(|slot| self.table.get(slot)),
            relatives: Relatives::Now(&self.table),
            folder: None,
            python: matches!(event.body, Body::Pickle(_)).then_some(&self.python),
            device: matches!(event.body, Body::DeviceOpen(_)).then_some(Device {
                name: "/dev/nvidia0",
                major: 195,
                minor: 0,
            }),
            gpu: gpu::facts(event, &self.unit),
            carried: Carried::of(event).map(|carried| &*self.arena.alloc(carried)),
            resolved: &self.resolved,
            owner: &self.owner,
            container: (self.owner != Owner::Host).then_some(&self.container),
            incomplete: false,
            names: &self.names,
            proc: self.folder.path(),
            outside: &self.outside,
            redactor: None,
            arena: &self.arena,
        }
    }

    /// All fields have these values; those that have not are shown together.
    fn check_all(&self, body: Body<'_>, values: &[(&str, &str)]) {
        let wrong: Vec<_> = values
            .iter()
            .map(|(field, expected)| (*field, self.show(body, field), *expected))
            .filter(|(_, shown, expected)| shown != expected)
            .collect();
        assert!(wrong.is_empty(), "field, shown, expected: {wrong:#?}");
    }

    /// The field as text, in the way that outputs show it.
    fn show(&self, body: Body<'_>, field: &str) -> String {
        let event = event(body);
        let view = self.view(&event);
        let template =
            saker_rules::template::Template::parse(&format!("%{field}")).expect("a placeholder");
        template.render(&view)
    }
}

#[test]
fn every_live_field_is_supplied_by_some_event() {
    let world = World::new();
    let bodies = [
        exec(),
        Body::Fork(Fork {
            child_tgid: 40,
            child_tid: 40,
            child_ppid: 30,
            child_start_ns: 0,
            child_cgroup_id: 5,
            child_ns_tgid: None,
            child_comm: b"x",
            session_leader: None,
            pgid: None,
            child_ns_pgid: None,
        }),
        Body::Exit(Exit { wait_status: 0 }),
        open(b"/etc/passwd", libc::O_RDONLY, 3),
        device(),
        connect("10.0.0.1"),
        network::sendto(),
        network::dns(),
        network::tls(),
        container::cgroup_mkdir(),
        python::pickle(b"os", b"system"),
        Body::Lost(Lost {
            count: 3,
            cause: "ring_full",
        }),
        Body::Internal(Internal {
            what: "reload_failed",
            text: "a.yaml:1: no such field",
        }),
        gpu::body(&world.unit),
    ];
    let mut missing = BTreeSet::new();
    for (index, info) in FIELDS.iter().enumerate() {
        let (Supply::Live(_), Some(field)) = (info.supply, Field::from_index(index)) else {
            continue;
        };
        let supplied = bodies.iter().any(|body| {
            let mut event = event(*body);
            if field == Field::ThreadVtid {
                // The number of a process's first thread alone is known.
                event.tid = event.tgid;
            }
            let view = world.view(&event);
            let args = [
                FieldArgRef::None,
                FieldArgRef::Index(1),
                FieldArgRef::Key("name"),
                FieldArgRef::Key("res"),
                FieldArgRef::Key("app"),
                FieldArgRef::Key("WHO"),
                FieldArgRef::Key("cpu"),
                FieldArgRef::Key("5m"),
            ];
            args.into_iter().any(|arg| view.field(field, arg).is_some())
        });
        if !supplied {
            missing.insert(info.name);
        }
    }
    assert!(
        missing.is_empty(),
        "marked as live in rules/src/fields.rs and never supplied: {missing:?}"
    );
}

#[test]
fn a_field_that_is_not_live_is_never_supplied() {
    let world = World::new();
    for (index, info) in FIELDS.iter().enumerate() {
        let (Supply::Recorded(_), Some(field)) = (info.supply, Field::from_index(index)) else {
            continue;
        };
        for body in [
            exec(),
            open(b"/x", 0, 3),
            device(),
            connect("10.0.0.1"),
            network::dns(),
            network::tls(),
        ] {
            let event = event(body);
            assert_eq!(
                world.view(&event).field(field, FieldArgRef::None),
                None,
                "{}",
                info.name
            );
        }
    }
}

#[test]
fn values_are_what_the_event_says() {
    let world = World::new();
    let check = |body: Body<'_>, field: &str, expected: &str| {
        assert_eq!(world.show(body, field), expected, "{field}");
    };
    world.check_all(exec(), process::VALUES);
    check(
        open(b"/etc/passwd", libc::O_RDONLY, 3),
        "fd.name",
        "/etc/passwd",
    );
    check(
        open(b"/etc/passwd", libc::O_RDONLY, 3),
        "fd.directory",
        "/etc",
    );
    check(
        open(b"/etc/passwd", libc::O_RDONLY, 3),
        "fd.filename",
        "passwd",
    );
    check(open(b"/x", libc::O_RDONLY, 3), "fd.directory", "/");
    check(open(b"a/b", libc::O_RDONLY, 3), "fd.name", "/srv/a/b");
    check(open(b"./a/../../b/", libc::O_RDONLY, 3), "fd.name", "/b");
    check(
        open(b"//etc/./shadow", libc::O_RDONLY, 3),
        "fd.name",
        "/etc/shadow",
    );
    check(open(b"../../..", libc::O_RDONLY, 3), "fd.name", "/");
    check(open(b"a/b", libc::O_RDONLY, 3), "fd.nameraw", "a/b");
    check(
        open(b"/x", libc::O_RDWR | libc::O_CREAT, 3),
        "evt.is_open_read",
        "true",
    );
    check(
        open(b"/x", libc::O_RDWR | libc::O_CREAT, 3),
        "evt.is_open_write",
        "true",
    );
    check(
        open(b"/x", libc::O_RDWR | libc::O_CREAT, 3),
        "evt.is_open_exec",
        "true",
    );
    check(open(b"/x", libc::O_RDONLY, 3), "evt.is_open_exec", "false");
    check(
        open(b"/x", libc::O_WRONLY | libc::O_TRUNC | libc::O_CREAT, 3),
        "evt.arg.flags",
        "O_WRONLY|O_CREAT|O_TRUNC",
    );
    check(
        open(b"/x", libc::O_RDONLY, -libc::ENOENT),
        "evt.res",
        "ENOENT",
    );
    check(open(b"/x", libc::O_RDONLY, -libc::ENOENT), "fd.num", "-1");
    check(device(), "fd.name", "/dev/nvidia0");
    check(device(), "fd.dev.major", "195");
    check(device(), "fd.dev.given", "true");
    check(device(), "fd.nameraw", "/tmp/innocent");
    check(device(), "fs.path.nameraw", "/tmp/innocent");
    check(device(), "evt.is_open_read", "true");
    check(device(), "evt.is_open_write", "false");
    check(connect("10.1.2.3"), "fd.name", "10.1.2.3:443");
    check(connect("::1"), "fd.name", "[::1]:443");
    check(connect("10.1.2.3"), "fd.sip", "10.1.2.3");
    check(connect("10.1.2.3"), "fd.l4proto", "tcp");
    check(connect("10.1.2.3"), "evt.res", "EINPROGRESS");
}

#[test]
fn a_processs_first_thread_has_the_id_that_its_process_has_inside() {
    let world = World::new();
    let mut event = event(exec());
    event.tid = event.tgid;
    let view = world.view(&event);
    let shown = view.field(Field::ThreadVtid, FieldArgRef::None);
    assert_eq!(shown, Some(Value::Int(4)));
}

#[test]
fn the_lineage_is_the_processes_own_key_and_its_ancestors() {
    let world = World::new();
    let event = event(exec());
    let view = world.view(&event);
    let Some(Value::List(lineage)) = view.field(Field::ProcLineage, FieldArgRef::None) else {
        panic!("a list")
    };
    let keys: Vec<_> = [30, 20, 1]
        .iter()
        .map(|tgid| {
            Value::Uint(
                world
                    .table
                    .live(*tgid)
                    .and_then(|slot| world.table.get(slot))
                    .expect("it lives")
                    .id,
            )
        })
        .collect();
    assert_eq!(lineage, keys);
}

#[test]
fn a_container_has_the_values_that_its_runtime_gave() {
    let world = World::new();
    world.check_all(device(), container::VALUES);
}

#[test]
fn every_field_of_processes_and_containers_has_an_expected_value() {
    // The longest name that the text starts with: what follows is an argument.
    let name = |text: &str| {
        FIELDS
            .iter()
            .map(|field| field.name)
            .filter(|name| {
                text.strip_prefix(name)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']))
            })
            .max_by_key(|name| name.len())
    };
    let shown: BTreeSet<&str> = process::VALUES
        .iter()
        .chain(container::VALUES)
        .filter(|(_, value)| *value != "<NA>")
        .filter_map(|(field, _)| name(field))
        // These have tests of their own.
        .chain(["proc.lineage", "thread.vtid"])
        .collect();
    let families = ["proc.", "thread.", "user.", "group.", "container.", "k8s."];
    let missing: Vec<_> = FIELDS
        .iter()
        .filter(|field| matches!(field.supply, Supply::Live(_)))
        .filter(|field| families.iter().any(|family| field.name.starts_with(family)))
        .map(|field| field.name)
        .filter(|name| !shown.contains(name))
        .collect();
    assert!(missing.is_empty(), "without a value here: {missing:?}");
}

#[test]
fn outside_containers_only_id_name_and_type_have_a_value() {
    let world = World {
        owner: Owner::Host,
        ..World::new()
    };
    for field in ["container.id", "container.name", "container.type"] {
        assert_eq!(world.show(device(), field), "host", "{field}");
    }
    assert_eq!(world.show(device(), "container.incomplete"), "false");
    let event = event(device());
    let view = world.view(&event);
    for (index, info) in FIELDS.iter().enumerate() {
        let Some(field) = Field::from_index(index) else {
            continue;
        };
        let family = info.name.starts_with("container.") || info.name.starts_with("k8s.");
        let has_value = [
            "container.id",
            "container.name",
            "container.type",
            "container.incomplete",
        ];
        if family && !has_value.contains(&info.name) {
            for arg in [
                FieldArgRef::None,
                FieldArgRef::Index(0),
                FieldArgRef::Key("app"),
            ] {
                assert_eq!(view.field(field, arg), None, "{}", info.name);
            }
        }
    }
}
