//! Events to evaluate: prebuilt values, so that all contenders pay the same, and little, for reading a field.

use std::{fs, net::IpAddr, path::Path};

use saker_rules::{
    FieldArgRef, FieldSource,
    expr::FieldArg,
    fields::{self, FIELDS, Field, Resolved},
    json_event::JsonEvent,
    value::{FieldType, Value},
};

use crate::corpus::Random;

/// An event whose fields are read from an array.
pub struct BenchEvent {
    pub kind: Vec<u8>,
    plain: Vec<Option<Value<'static>>>,
    with_arg: Vec<(Field, FieldArg, Value<'static>)>,
}

impl FieldSource for BenchEvent {
    fn event_type(&self) -> Option<&[u8]> {
        Some(&self.kind)
    }

    #[inline]
    fn field<'a>(&'a self, field: Field, arg: FieldArgRef<'a>) -> Option<Value<'a>> {
        if arg == FieldArgRef::None {
            return self.plain[field as usize];
        }
        self.with_arg
            .iter()
            .find(|(f, a, _)| *f == field && FieldArgRef::from(a) == arg)
            .map(|(_, _, value)| *value)
    }
}

impl BenchEvent {
    fn new(kind: &str) -> Self {
        let mut event = Self {
            kind: kind.as_bytes().to_vec(),
            plain: vec![None; FIELDS.len()],
            with_arg: Vec::new(),
        };
        event.set("evt.type", kind);
        event
    }

    /// Sets a field from its text, by the field's type. What is set lives as long as the program.
    fn set(&mut self, name: &str, text: &str) {
        let Resolved::Field(field) = split(name) else {
            panic!("{name} is no field")
        };
        let value = match field.field.info().ty {
            FieldType::Str | FieldType::Path | FieldType::Bytes => {
                Value::Bytes(leak(text.as_bytes()))
            }
            FieldType::Uint | FieldType::Port | FieldType::RelTime | FieldType::AbsTime => {
                Value::Uint(text.parse().expect("a number"))
            }
            FieldType::Int => Value::Int(text.parse().expect("a number")),
            FieldType::Double => Value::Double(text.parse().expect("a number")),
            FieldType::Bool => Value::Bool(text == "true"),
            FieldType::Ip | FieldType::Net => {
                Value::Ip(text.parse::<IpAddr>().expect("an address"))
            }
        };
        self.put(field.field, field.arg, value);
    }

    fn put(&mut self, field: Field, arg: FieldArg, value: Value<'static>) {
        match arg {
            FieldArg::None => self.plain[field as usize] = Some(value),
            arg => self.with_arg.push((field, arg, value)),
        }
    }
}

fn leak(bytes: &[u8]) -> &'static [u8] {
    Box::leak(bytes.to_vec().into_boxed_slice())
}

fn split(name: &str) -> Resolved {
    match name.split_once('[') {
        Some((field, arg)) => fields::resolve(field, Some(arg.trim_end_matches(']'))),
        None => fields::resolve(name, None),
    }
}

/// Events of kinds that rules look at: those of the oracle sample, where it is there, and synthetic ones.
pub fn events(oracle: &Path) -> Vec<BenchEvent> {
    let mut events = recorded(oracle);
    events.retain(|event| {
        [&b"execve"[..], b"open", b"openat", b"connect"].contains(&&event.kind[..])
    });
    let taken = events.len();
    eprintln!("events: {taken} recorded, {SYNTHETIC} synthetic");
    let mut random = Random::new(3);
    events.extend((0..SYNTHETIC).map(|_| synthetic(&mut random)));
    events
}

const SYNTHETIC: usize = 240;

fn recorded(path: &Path) -> Vec<BenchEvent> {
    let Ok(text) = fs::read_to_string(path) else {
        eprintln!("skipped: no recorded events at {}", path.display());
        return Vec::new();
    };
    let sample: serde_json::Value = serde_json::from_str(&text).expect("the sample is JSON");
    let lines = sample["events"].as_array().expect("the sample has events");
    lines
        .iter()
        .map(|line| {
            let parsed =
                JsonEvent::parse(&line.to_string()).expect("the sample's fields are known");
            let parsed: &'static JsonEvent = Box::leak(Box::new(parsed));
            let mut event = BenchEvent::new(line["evt.type"].as_str().unwrap_or("unknown"));
            // Fields that follow from others too: whatever the recorded event can supply.
            for index in 0..FIELDS.len() {
                let Some(field) = Field::from_index(index) else {
                    continue;
                };
                if let Some(value) = parsed.field(field, FieldArgRef::None) {
                    event.put(field, FieldArg::None, value);
                }
            }
            for name in line
                .as_object()
                .expect("an object")
                .keys()
                .filter(|name| name.contains('[') || name.starts_with("evt.arg."))
            {
                if let Resolved::Field(field) = split(name)
                    && field.arg != FieldArg::None
                {
                    let arg: &'static FieldArg = Box::leak(Box::new(field.arg.clone()));
                    if let Some(value) = parsed.field(field.field, arg.into()) {
                        event.put(field.field, field.arg, value);
                    }
                }
            }
            event
        })
        .collect()
}

fn synthetic(random: &mut Random) -> BenchEvent {
    let (name, exe, cmdline, parent) = random.pick(&[
        ("bash", "/usr/bin/bash", "bash -c /usr/local/bin/entrypoint.sh --workers 4", "containerd-shim"),
        ("python3", "/opt/conda/bin/python3", "python3 -m torch.distributed.run --nproc_per_node=8 /workspace/train.py --config configs/llama.yaml", "bash"),
        ("sh", "/usr/bin/dash", "sh -c curl -fsSL https://example.com/install.sh | sh", "python3"),
        ("curl", "/usr/bin/curl", "curl -s -o /tmp/weights.bin https://models.internal/v1/checkpoint-00012", "sh"),
        ("nginx", "/usr/sbin/nginx", "nginx: worker process", "nginx"),
        ("java", "/usr/lib/jvm/java-17/bin/java", "java -Xmx4g -jar -Dconfig=/etc/app/app.conf /srv/app/service.jar", "systemd"),
        ("node", "/usr/local/bin/node", "node --max-old-space-size=4096 /usr/src/app/dist/main.js", "dumb-init"),
        ("runc", "/usr/sbin/runc", "runc --root /run/containerd/runc/k8s.io --log /run/containerd/io.containerd.runtime.v2.task/k8s.io/0a1b/log.json exec", "containerd"),
        ("dpkg", "/usr/bin/dpkg", "dpkg --print-foreign-architectures", "apt"),
        ("nvidia-smi", "/usr/bin/nvidia-smi", "nvidia-smi --query-gpu=utilization.gpu --format=csv", "dcgm-exporter"),
        ("ps", "/usr/bin/ps", "ps aux", "bash"),
        ("sshd", "/usr/sbin/sshd", "sshd -D -R", "sshd"),
        ("crond", "/usr/sbin/cron", "crond -f", "tini"),
        ("git", "/usr/bin/git", "git clone --depth 1 https://github.com/org/repository.git /workspace/src", "bash"),
    ]);
    let kind = random.pick(&[
        "execve", "execve", "execve", "execve", "openat", "openat", "openat", "open", "connect",
        "connect",
    ]);
    let mut event = BenchEvent::new(kind);
    let is_container = random.below(3) > 0;
    let args = cmdline.split_once(' ').map_or("", |(_, args)| args);
    let uid = random.pick(&["0", "0", "1000", "33"]);
    for (field, value) in [
        ("evt.dir", "<"),
        ("evt.num", "4711"),
        ("proc.name", name),
        ("proc.exe", exe),
        ("proc.exepath", exe),
        ("proc.cmdline", cmdline),
        ("proc.args", args),
        ("proc.pname", parent),
        ("proc.pexe", "/usr/bin/parent"),
        ("proc.pexepath", "/usr/bin/parent"),
        ("proc.pcmdline", "/usr/bin/parent --config /etc/parent.conf"),
        ("proc.aname[1]", parent),
        ("proc.aname[2]", "containerd-shim"),
        ("proc.aname[3]", "systemd"),
        ("proc.pid", "4242"),
        ("proc.vpid", "17"),
        ("proc.ppid", "4200"),
        ("proc.tty", "0"),
        ("proc.duration", "120000000"),
        ("proc.cwd", "/workspace/"),
        ("proc.is_exe_upper_layer", "false"),
        ("proc.is_exe_from_memfd", "false"),
        ("user.uid", uid),
        ("user.name", if uid == "0" { "root" } else { "app" }),
        ("user.loginuid", "-1"),
        ("group.gid", uid),
        (
            "container.id",
            if is_container { "3ad7b26ded6d" } else { "host" },
        ),
        (
            "container.name",
            if is_container { "trainer" } else { "host" },
        ),
        ("evt.res", "SUCCESS"),
        ("evt.rawres", "0"),
        ("evt.failed", "false"),
    ] {
        event.set(field, value);
    }
    if is_container {
        event.set("container.image.repository", "registry.internal/ml/trainer");
        event.set("container.privileged", "false");
        event.set("k8s.ns.name", "training");
        event.set("k8s.pod.name", "trainer-0");
    }
    match kind {
        "openat" | "open" => open(&mut event, random),
        "connect" => connect(&mut event, random),
        _ => {}
    }
    event
}

fn open(event: &mut BenchEvent, random: &mut Random) {
    let path = random.pick(&[
        "/etc/ld.so.cache",
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/usr/lib/python3/dist-packages/torch/lib/libtorch_cuda.so",
        "/proc/self/status",
        "/proc/4242/cmdline",
        "/etc/passwd",
        "/etc/shadow",
        "/tmp/tmp8x2k/checkpoint.pt",
        "/var/log/nginx/access.log",
        "/home/app/.cache/huggingface/hub/models--org--model/blobs/0a1b2c3d",
        "/workspace/data/shard-00017.tar",
        "/dev/null",
        "/usr/share/zoneinfo/UTC",
        "/etc/ssl/certs/ca-certificates.crt",
        "/root/.ssh/known_hosts",
        "/sys/fs/cgroup/memory.max",
    ]);
    let slash = path.rfind('/').unwrap_or(0);
    let is_write = random.below(5) == 0;
    event.set("fd.name", path);
    event.set("fd.nameraw", path);
    event.set(
        "fd.directory",
        if slash == 0 { "/" } else { &path[..slash] },
    );
    event.set("fd.filename", &path[slash + 1..]);
    event.set("fd.typechar", "f");
    event.set("fd.type", "file");
    event.set("fd.num", if random.below(6) == 0 { "-1" } else { "7" });
    event.set("evt.is_open_write", if is_write { "true" } else { "false" });
    event.set("evt.is_open_read", if is_write { "false" } else { "true" });
}

fn connect(event: &mut BenchEvent, random: &mut Random) {
    let (address, port) = random.pick(&[
        ("10.3.7.9", "443"),
        ("10.200.14.2", "6443"),
        ("142.250.74.78", "443"),
        ("127.0.0.1", "5432"),
        ("169.254.169.254", "80"),
        ("172.17.3.200", "8080"),
        ("192.168.1.4", "29500"),
    ]);
    for (field, value) in [
        ("fd.sip", address),
        ("fd.rip", address),
        ("fd.snet", address),
        ("fd.rnet", address),
        ("fd.cip", "10.3.7.2"),
        ("fd.lip", "10.3.7.2"),
        ("fd.sport", port),
        ("fd.rport", port),
        ("fd.cport", "48122"),
        ("fd.lport", "48122"),
        ("fd.typechar", "4"),
        ("fd.type", "ipv4"),
        ("fd.l4proto", "tcp"),
        ("fd.sockfamily", "ip"),
        ("fd.num", "9"),
        ("evt.res", "EINPROGRESS"),
    ] {
        event.set(field, value);
    }
    event.set(
        "fd.name",
        leak_str(&format!("10.3.7.2:48122->{address}:{port}")),
    );
}

fn leak_str(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}
