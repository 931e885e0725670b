//! Alerts name the container and the pod, as a real containerd knows them.

use saker_tests::{
    Agent, Containerd,
    containerd::{Pod, Wanted},
    until,
};
use serde_json::Value;

/// Alerts for every program start in a container whose arguments hold a marker, with everything that is known of the container.
fn rules(folder: &std::path::Path) -> std::path::PathBuf {
    let fields = [
        "proc.args",
        "evt.num",
        "container.id",
        "container.full_id",
        "container.name",
        "container.type",
        "container.image",
        "container.image.repository",
        "container.image.tag",
        "container.image.digest",
        "container.image.id",
        "container.label.role",
        "container.labels",
        "container.mounts",
        "container.mount.dest[/etc]",
        "container.privileged",
        "container.read_only",
        "container.user",
        "container.gpus",
        "container.incomplete",
        "container.start_ts",
        "container.duration",
        "container.host_network",
        "container.host_pid",
        "k8s.ns.name",
        "k8s.pod.name",
        "k8s.pod.uid",
        "k8s.pod.id",
        "k8s.pod.label.app",
        "k8s.pod.labels",
        "k8s.pod.annotation.team",
        "k8s.pod.sandbox_id",
        "k8s.pod.full_sandbox_id",
    ];
    let output: Vec<_> = fields.iter().map(|field| format!("%{field}")).collect();
    let rule = format!(
        "- rule: Marked\n  desc: every marked start\n  condition: evt.type = execve and proc.args contains marked\n  \
         output: marked ({})\n  priority: DEBUG\n",
        output.join(" ")
    );
    let path = folder.join("marked.yaml");
    std::fs::write(&path, rule).expect("the rule is written");
    path
}

/// Loaded machines answer late: what must come out complete is given all the time that may be configured.
const PATIENT: &str = ", hold_ms: 10000";

/// An agent that knows no runtime but this one.
fn agent(containerd: &Containerd, folder: &std::path::Path, more: &str) -> Agent {
    let rules = rules(folder);
    let config = config(containerd, folder, more);
    Agent::start_with(&config, &["--rules", rules.to_str().expect("UTF-8")])
}

fn config(containerd: &Containerd, folder: &std::path::Path, more: &str) -> std::path::PathBuf {
    let config = folder.join("agent.yaml");
    let socket = containerd.socket();
    let text = format!(
        "http: {{listen: '127.0.0.1:0'}}\nalerts: {{window_s: 0}}\ncontainers: {{cri_sockets: ['{}'], docker_sockets: []{more}}}\n",
        socket.display()
    );
    std::fs::write(&config, text).expect("the configuration is written");
    config
}

fn marked(agent: &mut Agent, marker: &str) -> Value {
    let marker = format!("marked-{marker}");
    let alert = agent.await_alert(&marker, |alert| {
        alert["output_fields"]["proc.args"]
            .as_str()
            .is_some_and(|args| args.ends_with(&marker))
    });
    alert["output_fields"].clone()
}

/// What must be true of every alert of a container in this pod.
fn check(fields: &Value, pod: &Pod, id: &str, image: &str, digest: &str) {
    let (repository, tag) = image.rsplit_once(':').expect("a tag");
    let expected = [
        ("container.id", &id[..12]),
        ("container.full_id", id),
        ("container.type", "containerd"),
        ("container.image", image),
        ("container.image.repository", repository),
        ("container.image.tag", tag),
        ("container.image.digest", digest),
        ("k8s.ns.name", "ml"),
        ("k8s.pod.name", &pod.name),
        ("k8s.pod.uid", &pod.uid),
        ("k8s.pod.id", &pod.uid),
        ("k8s.pod.label.app", "train"),
        ("k8s.pod.annotation.team", "vision"),
        ("k8s.pod.full_sandbox_id", &pod.id),
        ("k8s.pod.sandbox_id", &pod.id[..12]),
    ];
    for (field, value) in expected {
        assert_eq!(fields[field], value, "{field} of {fields}");
    }
    assert_eq!(fields["container.incomplete"], false, "{fields}");
}

const IMAGE: &str = "registry.internal/ml-trainer:v1";
const LABELS: &[(&str, &str)] = &[("app", "train"), ("tier", "gpu")];
const NOTES: &[(&str, &str)] = &[("team", "vision")];

#[test]
fn an_alert_names_container_image_and_pod() {
    let Some(containerd) = Containerd::start_or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let digest = containerd.import(IMAGE, &["/bin/sh"]);
    let mut agent = agent(&containerd, folder.path(), PATIENT);
    let pod = containerd.pod("trainer-0", LABELS, NOTES);
    let id = containerd.run(
        &pod,
        &Wanted {
            name: "main",
            image: IMAGE,
            command: &["/bin/sleep", "1000", "marked-first"],
            labels: &[("role", "worker")],
            mounts: &[("/etc", "/host/etc")],
            ..Wanted::default()
        },
    );
    // Of the machine's cgroup driver: with systemd a scope, else a folder with the bare id. The sandbox's own container stays.
    let cgroup = containerd.cgroup_of(&pod, &pod.id);
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let is_there = |root: &str| std::path::Path::new(&format!("{root}{cgroup}")).is_dir();
    assert!(roots.into_iter().any(is_there), "no cgroup {cgroup}");
    // busybox sleep refuses an argument that is no number, but it was started with it.
    let fields = marked(&mut agent, "first");
    check(&fields, &pod, &id, IMAGE, &digest);
    assert_eq!(fields["container.name"], "main");
    assert_eq!(fields["container.label.role"], "worker");
    assert_eq!(
        fields["container.mount.dest[/etc]"], "/host/etc",
        "{fields}"
    );
    assert_eq!(fields["container.privileged"], false);
    assert_eq!(fields["container.read_only"], false);
    assert_eq!(fields["container.user"], "0:0");
    assert_eq!(fields["container.host_network"], true);
    assert_eq!(fields["container.host_pid"], false);
    assert_eq!(fields["k8s.pod.labels"], "app:train, tier:gpu");
    assert_eq!(
        fields["container.image.id"].as_str().map(str::len),
        Some(64),
        "{fields}"
    );
    assert!(
        fields["container.start_ts"]
            .as_u64()
            .is_some_and(|at| at > 1_700_000_000_000_000_000),
        "{fields}"
    );
}

/// A container that nothing has happened in yet is known from the runtime's own notice of its making: nobody asked for it, and the
/// list of all containers comes once a day.
#[test]
fn a_runtime_that_tells_of_new_containers_is_listened_to() {
    let Some(containerd) = Containerd::start_newer_or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let digest = containerd.import(IMAGE, &["/bin/sh"]);
    let mut agent = agent(
        &containerd,
        folder.path(),
        ", hold_ms: 10000, poll_s: 86400",
    );
    let endpoint = agent.endpoint();
    let known = || endpoint.metric("saker_container_metadata", "");
    // The first list of all containers is through when it answers; from then on notices alone can tell.
    until("the runtime answers", || {
        endpoint.metric("saker_runtime_state", "state=\"answering\"") == Some(1.0)
    });
    let pod = containerd.pod("listener", LABELS, NOTES);
    let before = known().unwrap_or(0.0);
    let wanted = Wanted {
        name: "main",
        image: IMAGE,
        command: &["/bin/true", "marked-told"],
        ..Wanted::default()
    };
    let id = containerd.create(&pod, &wanted);
    until("the new container is known", || {
        known().is_some_and(|now| now > before)
    });
    containerd.start_container(&id);
    check(&marked(&mut agent, "told"), &pod, &id, IMAGE, &digest);
}

/// What runtimes answered while a capture was made is in it, and so are the users that containers know.
#[test]
fn a_replay_names_containers_without_a_runtime() {
    let Some(containerd) = Containerd::start_or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let capture = folder.path().join("capture");
    let digest = containerd.import(IMAGE, &["/bin/sh"]);
    let rules = rules(folder.path());
    let rules = ["--rules", rules.to_str().expect("UTF-8")];
    let config = config(&containerd, folder.path(), PATIENT);
    let mut agent = Agent::record(&capture, Some(&config), &rules);
    let pod = containerd.pod("recorded", LABELS, NOTES);
    let wanted = Wanted {
        name: "main",
        image: IMAGE,
        command: &["/bin/true", "marked-recorded"],
        ..Wanted::default()
    };
    let id = containerd.run(&pod, &wanted);
    check(&marked(&mut agent, "recorded"), &pod, &id, IMAGE, &digest);
    let stopped = agent.stop();
    drop(containerd);
    let output = std::process::Command::new(saker_tests::program("saker"))
        .arg("replay")
        .arg(&capture)
        .args(rules)
        .output()
        .expect("it starts");
    let stdout = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let replayed: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    assert_eq!(replayed, stopped.alerts);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("no answer"), "{stderr}");
}

#[test]
fn a_container_that_lived_for_a_moment_gets_its_names() {
    let Some(containerd) = Containerd::start_or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let digest = containerd.import(IMAGE, &["/bin/sh"]);
    let mut agent = agent(&containerd, folder.path(), "");
    for round in 0..10 {
        // A pod of its own each time: nothing is known of it beforehand.
        let pod = containerd.pod(&format!("brief-{round}"), LABELS, NOTES);
        let marker = format!("marked-brief-{round}");
        let id = containerd.run(
            &pod,
            &Wanted {
                name: "brief",
                image: IMAGE,
                command: &["/bin/true", &marker],
                ..Wanted::default()
            },
        );
        let fields = marked(&mut agent, &format!("brief-{round}"));
        check(&fields, &pod, &id, IMAGE, &digest);
    }
}

#[test]
fn two_hundred_containers_at_once_all_get_their_names() {
    let Some(containerd) = Containerd::start_or_skip() else {
        return;
    };
    const COUNT: usize = 200;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let digest = containerd.import(IMAGE, &["/bin/sh"]);
    let mut agent = agent(&containerd, folder.path(), PATIENT);
    let wanted = Wanted {
        name: "many",
        image: IMAGE,
        command: &["/bin/true", "marked-many"],
        ..Wanted::default()
    };
    let pod = |number| containerd.pod(&format!("crowd-{number}"), LABELS, NOTES);
    let made = containerd.run_many(pod, COUNT, 8, &wanted);
    for (number, (pod, id)) in made.iter().enumerate() {
        let args = format!("marked-many {number}");
        let alert = agent.await_alert(&args, |alert| alert["output_fields"]["proc.args"] == *args);
        let fields = &alert["output_fields"];
        check(fields, pod, id, IMAGE, &digest);
        assert_eq!(fields["container.name"], format!("many-{number}"));
    }
    let stopped = agent.stop();
    saker_tests::agent::assert_books_close(&stopped);
}

#[test]
fn exec_and_new_containers_are_named_also_after_a_restart() {
    let Some(mut containerd) = Containerd::start_or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let digest = containerd.import(IMAGE, &["/bin/sh"]);
    let pod = containerd.pod("lasting", LABELS, NOTES);
    let wanted = Wanted {
        name: "main",
        image: IMAGE,
        command: &["/bin/sleep", "1000"],
        ..Wanted::default()
    };
    let id = containerd.run(&pod, &wanted);
    let mut agent = agent(&containerd, folder.path(), PATIENT);
    containerd.exec(&id, &["/bin/true", "marked-exec"]);
    check(&marked(&mut agent, "exec"), &pod, &id, IMAGE, &digest);

    containerd.restart();
    containerd.exec(&id, &["/bin/true", "marked-after"]);
    check(&marked(&mut agent, "after"), &pod, &id, IMAGE, &digest);
    let later = Wanted {
        name: "later",
        command: &["/bin/true", "marked-later"],
        ..wanted
    };
    let second = containerd.run(&pod, &later);
    check(&marked(&mut agent, "later"), &pod, &second, IMAGE, &digest);
}

#[test]
fn a_runtime_that_hangs_delays_events_and_hides_none() {
    let Some(containerd) = Containerd::start_or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let digest = containerd.import(IMAGE, &["/bin/sh"]);
    let pod = containerd.pod("waiting", LABELS, NOTES);
    let id = containerd.run(
        &pod,
        &Wanted {
            name: "main",
            image: IMAGE,
            command: &[
                "/bin/sh",
                "-c",
                "n=0; while true; do n=$((n+1)); /bin/true marked-$n; usleep 50000; done",
            ],
            ..Wanted::default()
        },
    );
    containerd.signal(libc::SIGSTOP);
    let mut agent = agent(&containerd, folder.path(), ", hold_ms: 200");
    let of_this = |alert: &Value| alert["output_fields"]["container.full_id"] == *id;
    let incomplete = agent.await_alert("an event without metadata", of_this);
    let fields = &incomplete["output_fields"];
    assert_eq!(fields["container.incomplete"], true, "{fields}");
    for unknown in [
        "container.name",
        "container.image.repository",
        "k8s.pod.name",
    ] {
        assert!(fields[unknown].is_null(), "{unknown} of {fields}");
    }
    agent.await_log("does not answer");
    containerd.signal(libc::SIGCONT);
    let complete = agent.await_alert("an event with metadata", |alert| {
        of_this(alert) && alert["output_fields"]["container.incomplete"] == false
    });
    check(&complete["output_fields"], &pod, &id, IMAGE, &digest);
    agent.await_log("answers again");

    // One container's events keep their order, also where some of them waited.
    let stopped = agent.stop();
    let numbers: Vec<u64> = stopped
        .alerts
        .iter()
        .filter(|alert| of_this(alert))
        .filter_map(|alert| alert["output_fields"]["evt.num"].as_u64())
        .collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    saker_tests::agent::assert_books_close(&stopped);
}

#[test]
fn events_wait_for_a_runtime_that_answers_late() {
    let Some(containerd) = Containerd::start_or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let digest = containerd.import(IMAGE, &["/bin/sh"]);
    let pod = containerd.pod("patient", LABELS, NOTES);
    let id = containerd.run(
        &pod,
        &Wanted {
            name: "main",
            image: IMAGE,
            command: &[
                "/bin/sh",
                "-c",
                "while true; do /bin/true marked-late; usleep 50000; done",
            ],
            ..Wanted::default()
        },
    );
    containerd.signal(libc::SIGSTOP);
    // It starts while nobody answers, so whatever it sees of the container first has to wait.
    let mut agent = agent(&containerd, folder.path(), PATIENT);
    agent.await_log("does not answer");
    containerd.signal(libc::SIGCONT);
    check(&marked(&mut agent, "late"), &pod, &id, IMAGE, &digest);
    let stopped = agent.stop();
    let incomplete = stopped.alerts.iter().find(|alert| {
        alert["output_fields"]["container.incomplete"] == true
            && alert["output_fields"]["container.full_id"] == *id
    });
    assert!(incomplete.is_none(), "{incomplete:?}");
    saker_tests::agent::assert_books_close(&stopped);
}

#[test]
fn the_seed_rule_tells_an_approved_image_from_another() {
    let Some(seed) = saker_tests::shared("seed-falco-ml-rules.yaml") else {
        return;
    };
    let Some(containerd) = Containerd::start_or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    containerd.import(IMAGE, &["/bin/sh"]);
    let digest = containerd.import("registry.internal/web:v1", &["/bin/sh"]);
    let node = folder.path().join("gpu");
    saker_tests::make_device(&node, 195, 0);
    let node = node.to_str().expect("UTF-8");
    let config = config(&containerd, folder.path(), PATIENT);
    let marked_rules = rules(folder.path());
    let paths = [&seed, &marked_rules].map(|path| path.to_str().expect("UTF-8"));
    let mut agent = Agent::start_with(&config, &["--rules", paths[0], "--rules", paths[1]]);
    let pod = containerd.pod("gpus", LABELS, NOTES);
    for (name, image) in [
        ("approved", IMAGE),
        ("stranger", "registry.internal/web:v1"),
    ] {
        let marker = format!("marked-{name}");
        let wanted = Wanted {
            name,
            image,
            command: &[
                "/bin/sh",
                "-c",
                "cat /dev/nvidia0; exec /bin/sleep 1000",
                &marker,
            ],
            devices: &[(node, "/dev/nvidia0")],
            ..Wanted::default()
        };
        containerd.run(&pod, &wanted);
        let fields = marked(&mut agent, name);
        assert_eq!(
            fields["container.gpus"],
            serde_json::json!(["/dev/nvidia0"]),
            "{fields}"
        );
    }
    let rule = "GPU Device Access by Non-ML Container";
    let alert = agent.await_rule(rule, "container=stranger");
    assert_eq!(alert["output_fields"]["fd.name"], "/dev/nvidia0");
    let fields = marked(&mut agent, "stranger");
    assert_eq!(fields["container.image.digest"], digest);
    let stopped = agent.stop();
    let of_approved = stopped.alerts.iter().filter(|alert| {
        alert["rule"] == rule && alert["output_fields"]["container.name"] == "approved"
    });
    assert_eq!(of_approved.count(), 0);
}

#[test]
fn broken_runtimes_beside_a_working_one_hurt_nobody() {
    let Some(containerd) = Containerd::start_or_skip() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let digest = containerd.import(IMAGE, &["/bin/sh"]);
    let garbage = folder.path().join("garbage.sock");
    let silent = folder.path().join("silent.sock");
    let closing = folder.path().join("closing.sock");
    serve(&garbage, |mut stream| {
        let junk = [0xff; 4096];
        while std::io::Write::write_all(&mut stream, &junk).is_ok() {}
    });
    serve(&silent, |mut stream| {
        // Takes everything, says nothing.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    serve(&closing, drop);
    let config = folder.path().join("agent.yaml");
    let text = format!(
        "http: {{listen: '127.0.0.1:0'}}\nalerts: {{window_s: 0}}\ncontainers: {{cri_sockets: ['{0}', '{1}', '{2}', '{3}'], docker_sockets: ['{0}', '{1}', '{2}']{PATIENT}}}\n",
        garbage.display(),
        silent.display(),
        closing.display(),
        containerd.socket().display()
    );
    std::fs::write(&config, text).expect("the configuration is written");
    let rules = rules(folder.path());
    let mut agent = Agent::start_with(&config, &["--rules", rules.to_str().expect("UTF-8")]);
    let pod = containerd.pod("sane", LABELS, NOTES);
    let wanted = Wanted {
        name: "main",
        image: IMAGE,
        command: &["/bin/true", "marked-sane"],
        ..Wanted::default()
    };
    let id = containerd.run(&pod, &wanted);
    check(&marked(&mut agent, "sane"), &pod, &id, IMAGE, &digest);
    for broken in [&garbage, &silent, &closing] {
        agent.await_log(&format!("{} does not answer", broken.display()));
    }
    assert!(agent.stop().status.success());
}

/// A socket on which every connection is given to `talk`, in a thread of its own, until the test ends.
fn serve(path: &std::path::Path, talk: fn(std::os::unix::net::UnixStream)) {
    let listener = std::os::unix::net::UnixListener::bind(path).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || talk(stream));
        }
    });
}
