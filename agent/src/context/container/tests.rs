//! Whose a cgroup is: every layout, borrowed names, and what is remembered.

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OUTER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

#[test]
fn every_runtime_and_driver_is_recognised() {
    let check = |path: &str| {
        let is_nested = path.contains("/OUTER/");
        let is_rootless = path.contains("user@");
        let path = path.replace("ID", ID).replace("OUTER", OUTER);
        let owner = owner_of_path(path.as_bytes());
        let expected = if is_nested {
            Owner::Nested {
                id: ID.into(),
                outer: OUTER.into(),
            }
        } else if is_rootless {
            Owner::Rootless(ID.into())
        } else {
            Owner::Container(ID.into())
        };
        assert_eq!(owner, expected, "{path}");
        assert_eq!(owner.id(), Some("0123456789ab"));
        let runtime_id = owner.runtime_id().map(|id| &**id);
        let known = if is_nested { OUTER } else { ID };
        assert_eq!(runtime_id, (!is_rootless).then_some(known), "{path}");
    };
    // Docker: cgroupfs, systemd, a parent of one's own, rootless.
    check("/docker/ID");
    check("/system.slice/docker-ID.scope");
    check("/my.slice/docker-ID.scope");
    check("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope");
    // containerd under a kubelet: cgroupfs, systemd, each quality of service, and as containerd says it when it has no systemd.
    check("/kubepods/pod1ad2/ID");
    check("/kubepods/burstable/pod1ad2/ID");
    check("/kubepods/besteffort/pod1ad2-34/ID");
    check("/kubepods.slice/kubepods-pod1.slice/cri-containerd-ID.scope");
    check(
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-ID.scope",
    );
    check("/kubepods-burstable-pod7.slice:cri-containerd:ID");
    check("/system.slice/containerd.service/kubepods-burstable-pod7.slice:cri-containerd:ID");
    check("/k8s.io/ID");
    // What runs in cgroups of its own inside (systemd, a container with cgroup delegation).
    check("/kubepods.slice/kubepods-pod1.slice/cri-containerd-ID.scope/init.scope");
    check("/kubepods.slice/kubepods-pod1.slice/cri-containerd-ID.scope/system.slice/sshd.service");
    // nerdctl, ECS.
    check("/system.slice/nerdctl-ID.scope");
    check("/default/ID");
    check("/ecs/0f1e2d3c4b5a69788796a5b4c3d2e1f0/ID");
    // CRI-O: both drivers, and crun's container folder.
    check("/kubepods.slice/kubepods-pod1.slice/crio-ID.scope");
    check("/kubepods.slice/kubepods-pod1.slice/crio-ID.scope/container");
    check("/kubepods/besteffort/pod1/crio-ID");
    // Podman: root, rootless, split.
    check("/machine.slice/libpod-ID.scope");
    check("/machine.slice/libpod-ID.scope/container");
    check("/libpod_parent/libpod-ID");
    check("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope");
    check("/system.slice/web.service/libpod-payload-ID");
    // Nested: Docker in Docker, kind.
    check("/docker/OUTER/docker/ID");
    check("/docker/OUTER/kubepods/besteffort/pod9/ID");
    check(
        "/docker/OUTER/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1.slice/cri-containerd-ID.scope",
    );
    check("/kubepods/burstable/podX/OUTER/system.slice/docker-ID.scope");
    // A conmon inside a container is that container's.
    check("/docker/ID/machine.slice/libpod-conmon-OUTER.scope");
}

#[test]
fn the_host_is_not_a_container() {
    let check = |path: &[u8]| {
        assert_eq!(
            owner_of_path(path),
            Owner::Host,
            "{}",
            String::from_utf8_lossy(path)
        );
    };
    for path in [
        "/",
        "",
        "/user.slice/user-1000.slice/session-1.scope",
        "/system.slice/sshd.service",
        "/system.slice/containerd.service",
        "/system.slice/docker.service",
        "/kubepods/burstable/pod1ad2",
        "/kubepods.slice/kubepods-pod1ad2.slice",
        "/docker",
        "/docker/buildkit/0123456789abcdefghijklmno",
        "/ecs/0f1e2d3c4b5a69788796a5b4c3d2e1f0",
        "/lxc/web",
    ] {
        check(path.as_bytes());
    }
    for path in [
        "/kubepods.slice/crio-conmon-ID.scope",
        "/kubepods/pod1/crio-conmon-ID",
        "/machine.slice/libpod-conmon-ID.scope",
        "/docker/IDa",
        "/docker/ID.service",
        "/docker/ID ",
        "/docker/-ID-",
        "/docker/docker-ID.scope.scope",
    ] {
        check(path.replace("ID", ID).as_bytes());
    }
    check(format!("/docker/{}", &ID[1..]).as_bytes());
    check(format!("/docker/{}", ID.to_uppercase()).as_bytes());
    check(format!("/docker/{}", ID.replace('0', "g")).as_bytes());
    check(&[b"/docker/".as_slice(), &[0xff; 64]].concat());
    check(&vec![b'/'; 1 << 20]);
    check(&vec![b'a'; 1 << 20]);
    check(format!("/{}{ID}", "x".repeat(1 << 20)).as_bytes());
}

#[test]
fn v1_controllers_are_told_from_named_hierarchies() {
    let check = |mounts: &str, expected| {
        assert_eq!(has_v1_controllers(mounts.as_bytes()), expected, "{mounts}");
    };
    check("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n", false);
    check(
        "cgroup /sys/fs/cgroup/pids cgroup rw,relatime,pids 0 0\n",
        true,
    );
    check(
        "cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,name=systemd 0 0\n",
        false,
    );
    check(
        "cgroup2 /x cgroup2 rw 0 0\ncgroup /y cgroup rw,cpu,cpuacct 0 0\n",
        true,
    );
    check("", false);
    check("cgroup", false);
}

/// A stand-in for `/proc` with one process.
fn proc_with(tgid: u32, cgroups: &str) -> tempfile::TempDir {
    let proc = tempfile::tempdir().expect("a temporary folder");
    let folder = proc.path().join(tgid.to_string());
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("cgroup"), cgroups.replace("ID", ID)).expect("a file");
    proc
}

#[test]
fn a_process_tells_its_cgroups_in_every_layout() {
    let check = |cgroups: &str, expected: Owner| {
        let proc = proc_with(7, cgroups);
        assert_eq!(
            owner_of_process(proc.path(), 7),
            Some(expected),
            "{cgroups}"
        );
    };
    let container = || Owner::Container(ID.into());
    check("0::/docker/ID\n", container());
    check(
        "12:pids:/docker/ID\n1:name=systemd:/docker/ID\n0::/\n",
        container(),
    );
    check(
        "12:pids:/kubepods/pod1/ID\n0::/system.slice/containerd.service\n",
        container(),
    );
    check("0::/system.slice/a:b:c.service\n", Owner::Host);
    check("12:pids:/\n0::/\n", Owner::Host);
    check("nonsense\n::\n", Owner::Host);
    let proc = proc_with(7, "");
    assert_eq!(owner_of_process(proc.path(), 7), None);
    assert_eq!(owner_of_process(proc.path(), 8), None);
}

#[test]
fn what_nobody_asks_for_is_forgotten_and_the_rest_stays() {
    let mut owners = Generations::new(100);
    for key in 0..10_000_u64 {
        owners.put(key, Owner::Host);
        assert!(owners.get(&0).is_some(), "0 is asked for all the time");
        assert!(owners.len() <= 200);
    }
    assert!(owners.get(&1).is_none());
    assert!(owners.get(&9_999).is_some());
}

#[test]
fn a_cgroup_that_nobody_knows_is_asked_of_the_process() {
    let proc = proc_with(7, "0::/docker/ID\n");
    let mut containers = Containers::with(None, false, proc.path());
    let process = |tgid| ProcessKey { tgid, start_ns: 1 };
    // A process that is gone says nothing, and the next one of the same cgroup is asked again.
    assert_eq!(
        containers.resolve(&Outside::machine(), 5, process(8), false),
        Owner::Unknown
    );
    assert_eq!(
        containers.resolve(&Outside::machine(), 5, process(7), false),
        Owner::Container(ID.into())
    );
    assert_eq!(
        containers.resolve(&Outside::machine(), 5, process(8), false),
        Owner::Container(ID.into())
    );
    assert_eq!(containers.len(), 1);
}

#[test]
fn a_cgroup_that_was_seen_coming_needs_no_look_up() {
    let mut containers = Containers::with(None, false, Path::new("/nowhere"));
    let process = ProcessKey {
        tgid: 8,
        start_ns: 1,
    };
    let mut check = |path: &str, is_cut, expected| {
        containers.made(5, path.as_bytes(), is_cut);
        let owner = containers.resolve(&Outside::machine(), 5, process, false);
        assert_eq!(owner, expected, "{path}");
    };
    let path = format!("/kubepods.slice/cri-containerd-{ID}.scope");
    check(&path, true, Owner::Unknown);
    check(&path, false, Owner::Container(ID.into()));
    // The number of a cgroup that is gone, used again.
    check("/system.slice", false, Owner::Host);
}

#[test]
fn owners_from_a_capture_are_checked() {
    let check = |text: &str, expected: Option<Owner>| {
        assert_eq!(Owner::try_from(text.to_owned()).ok(), expected, "{text}");
    };
    check("host", Some(Owner::Host));
    check("unknown", Some(Owner::Unknown));
    check(ID, Some(Owner::Container(ID.into())));
    check(&format!("user/{ID}"), Some(Owner::Rootless(ID.into())));
    let nested = Owner::Nested {
        id: ID.into(),
        outer: OUTER.into(),
    };
    check(&format!("{OUTER}/{ID}"), Some(nested.clone()));
    for text in [
        "",
        "äöüäöüäöüäöü",
        &ID[1..],
        &format!("docker-{ID}.scope"),
        "user/",
        &format!("{ID}/"),
        &format!("a/{ID}"),
    ] {
        check(text, None);
    }
    for owner in [
        Owner::Host,
        Owner::Unknown,
        Owner::Container(ID.into()),
        nested,
        Owner::Rootless(ID.into()),
    ] {
        check(&String::from(owner.clone()), Some(owner));
    }
}

#[test]
fn a_borrowed_id_gets_no_names() {
    let check = |path: &str, shown: &str, asked: Option<&str>| {
        let path = path.replace("ID", ID).replace("OUTER", OUTER);
        let owner = owner_of_path(path.as_bytes());
        assert_eq!(owner.full_id(), Some(shown), "{path}");
        assert_eq!(owner.runtime_id().map(|id| &**id), asked, "{path}");
    };
    // A container that makes a cgroup, and names it like another container.
    check("/kubepods/pod1/OUTER/evil-ID", ID, Some(OUTER));
    check("/kubepods/pod1/OUTER/a/b/docker/ID", ID, Some(OUTER));
    check("/kubepods/pod1/ID/ID", ID, Some(ID));
    // A user who does.
    let below = "/user.slice/user-1000.slice/user@1000.service";
    check(&format!("{below}/x-ID.scope"), ID, None);
    check(&format!("{below}/app.slice/OUTER/ID"), ID, None);
    // A container in which users have such a service, and one that only looks like it.
    check(
        "/docker/OUTER/user.slice/user@7.service/ID",
        ID,
        Some(OUTER),
    );
    check("/user@x.service/ID", ID, Some(ID));
    check("/user@.service/ID", ID, Some(ID));
}

#[test]
fn a_cgroup_of_v1_is_not_one_of_v2() {
    let proc = proc_with(7, "4:memory:/docker/ID\n0::/\n");
    let mut containers = Containers::with(None, false, proc.path());
    let mut owner = |cgroup_id, tgid| {
        let process = ProcessKey { tgid, start_ns: 1 };
        containers.resolve(&Outside::machine(), cgroup_id, process, false)
    };
    assert_eq!(owner(CGROUP_OF_V1 | 5, 8), Owner::Unknown);
    assert_eq!(owner(CGROUP_OF_V1 | 5, 7), Owner::Container(ID.into()));
    assert_eq!(owner(CGROUP_OF_V1 | 5, 8), Owner::Container(ID.into()));
    assert_eq!(owner(5, 8), Owner::Unknown);
}
