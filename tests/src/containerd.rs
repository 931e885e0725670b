//! A real containerd of the test's own, driven through CRI as a kubelet would: its own root, state and socket below a temporary
//! folder, and every process and cgroup gone at the end.

mod cri;
pub mod kubelet;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{agent::DEADLINE, image, skip};
use cri::Runtime;

/// What every pod's cgroup is below, so that it can be found and removed.
const CGROUP_PARENT: &str = "saker-test";

/// The daemon.
#[derive(Debug)]
pub struct Containerd {
    daemon: Child,
    folder: tempfile::TempDir,
    program: PathBuf,
    cgroup: String,
    runtime: Arc<Runtime>,
}

/// A pod that runs.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The sandbox's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its unique id.
    pub uid: String,
    config: cri::PodSandboxConfig,
}

/// What is asked of a container.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'a> {
    /// Name within the pod.
    pub name: &'a str,
    /// An image that was imported.
    pub image: &'a str,
    /// Program and arguments.
    pub command: &'a [&'a str],
    /// Device nodes: on the host, in the container.
    pub devices: &'a [(&'a str, &'a str)],
    /// Labels.
    pub labels: &'a [(&'a str, &'a str)],
    /// Mounts: from, to.
    pub mounts: &'a [(&'a str, &'a str)],
    /// All privileges.
    pub privileged: bool,
}

impl Containerd {
    /// Debian's containerd, or `None` after recording a skip where it is not installed or this process is not root.
    pub fn start_or_skip() -> Option<Self> {
        // Copies layers for each container, which works on any file system.
        Self::start_or_skip_with("native")
    }

    /// The same with another of its snapshotters: `overlayfs` has containers of one image share their files.
    pub fn start_or_skip_with(snapshotter: &str) -> Option<Self> {
        if !crate::root_or_skip() {
            return None;
        }
        for program in [
            "/usr/bin/containerd",
            "/usr/bin/ctr",
            "/usr/sbin/runc",
            "/bin/busybox",
        ] {
            if !Path::new(program).exists() {
                skip(&format!("{program} is not installed (cargo xtask setup)"));
                return None;
            }
        }
        Some(Self::start(Path::new("/usr/bin/containerd"), snapshotter))
    }

    /// A containerd that streams what happens to containers (1.7 and newer), or `None` after recording a skip where
    /// `cargo xtask test` has fetched none.
    pub fn start_newer_or_skip() -> Option<Self> {
        if !crate::root_or_skip() {
            return None;
        }
        let program = std::env::var_os("SAKER_NEWER_CONTAINERD")
            .map(|folder| PathBuf::from(folder).join("containerd"))
            .filter(|program| program.exists());
        let Some(program) = program else {
            skip("no containerd that streams events: cargo xtask test fetches one");
            return None;
        };
        Some(Self::start(&program, "native"))
    }

    /// Starts this containerd and waits until CRI answers; imports the pause image.
    pub fn start(program: &Path, snapshotter: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("saker-cd")
            .tempdir()
            .expect("a temporary folder");
        let cgroup = format!(
            "/{CGROUP_PARENT}-{}",
            folder.path().file_name().expect("a name").display()
        );
        write_config(folder.path(), snapshotter).expect("the configuration is written");
        let daemon = spawn(program, folder.path());
        let runtime = Arc::new(Runtime::new(&folder.path().join("containerd.sock")));
        let mut containerd = Self {
            daemon,
            folder,
            program: program.into(),
            cgroup,
            runtime,
        };
        containerd.await_ready();
        containerd.import("localhost/pause:1", &["/bin/sleep", "1000000"]);
        containerd
    }

    /// The socket that it listens on.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("containerd.sock")
    }

    /// The daemon's pid.
    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.daemon.id()).expect("a pid is a positive i32");
        // SAFETY: kill takes two numbers; the child was not waited for, so the pid is still its own.
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0, "{}", io::Error::last_os_error());
    }

    /// Kills the daemon and starts it again; containers live on.
    pub fn restart(&mut self) {
        self.signal(libc::SIGKILL);
        self.daemon.wait().expect("it ends");
        self.daemon = spawn(&self.program, self.folder.path());
        self.runtime = Arc::new(Runtime::new(&self.socket()));
        self.await_ready();
    }

    /// Imports an image of this name (`repository:tag`), with its digest; returns the digest.
    pub fn import(&self, name: &str, entrypoint: &[&str]) -> String {
        let archive = image::archive(self.folder.path(), name, entrypoint).expect("an archive");
        self.import_archive(name, &archive)
    }

    /// Imports an image with more files than busybox's, which `fill` puts below its root.
    pub fn import_with(&self, name: &str, fill: &dyn Fn(&Path) -> io::Result<()>) -> String {
        let archive = image::archive_with(self.folder.path(), name, &["/bin/sh"], fill);
        self.import_archive(name, &archive.expect("an archive"))
    }

    /// Imports an archive that somebody else made, with an image of this name (`repository:tag`); returns its digest.
    pub fn import_archive(&self, name: &str, archive: &Path) -> String {
        let repository = name.rsplit_once(':').expect("a tag").0;
        self.ctr(&[
            "image",
            "import",
            "--digests",
            "--base-name",
            repository,
            archive.to_str().expect("UTF-8"),
        ]);
        // CRI takes notice of an import by an event.
        self.until("the image is known to CRI", || {
            self.runtime.image(name).is_some()
        });
        let listed = self.ctr(&["image", "ls", "-q"]);
        let start = format!("{repository}@");
        let digest = listed.lines().find_map(|line| line.strip_prefix(&start));
        digest.expect("the import made a digest").to_owned()
    }

    /// Starts a pod.
    pub fn pod(&self, name: &str, labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> Pod {
        self.try_pod(name, labels, annotations)
            .expect("the pod starts")
    }

    fn try_pod(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        annotations: &[(&str, &str)],
    ) -> Result<Pod, String> {
        let uid = format!("uid-{name}");
        let parent = self.pod_cgroup(&uid);
        let config = cri::pod_config(name, &uid, &parent, labels, annotations);
        self.start_pod(name, &uid, config)
    }

    fn start_pod(
        &self,
        name: &str,
        uid: &str,
        config: cri::PodSandboxConfig,
    ) -> Result<Pod, String> {
        let id = self.runtime.run_pod(&config)?;
        Ok(Pod {
            id,
            name: name.into(),
            uid: uid.into(),
            config,
        })
    }

    /// Where a pod's containers go, as a kubelet names it for the cgroup driver of this machine.
    fn pod_cgroup(&self, uid: &str) -> String {
        if systemd_runs() {
            // A hyphen in a slice's name stands for a slice within a slice.
            let uid = uid.replace('-', "_");
            format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice")
        } else {
            format!("{}/kubepods/burstable/pod{uid}", self.cgroup)
        }
    }

    /// The cgroup that a container of this pod must be in, from the root of a hierarchy.
    pub fn cgroup_of(&self, pod: &Pod, container: &str) -> String {
        let parent = self.pod_cgroup(&pod.uid);
        if systemd_runs() {
            format!("{parent}/cri-containerd-{container}.scope")
        } else {
            format!("{parent}/{container}")
        }
    }

    /// Makes a container without starting it; returns its id.
    pub fn create(&self, pod: &Pod, wanted: &Wanted<'_>) -> String {
        self.runtime
            .create(&pod.id, &pod.config, cri::container_config(wanted))
            .expect("the container is made")
    }

    /// Starts a container.
    pub fn start_container(&self, id: &str) {
        if let Err(why) = self.runtime.start(id) {
            panic!(
                "container {id} does not start: {why}; containerd's log:\n{}",
                self.log()
            );
        }
    }

    /// Makes and starts a container; returns its id.
    pub fn run(&self, pod: &Pod, wanted: &Wanted<'_>) -> String {
        let id = self.create(pod, wanted);
        self.start_container(&id);
        id
    }

    /// Makes and starts this many containers, `at_once` at a time, as fast as the daemon does it; each gets `command` and its number as
    /// the last argument. `pod` makes pods of different names: one for each of those at once, and as a kubelet does, another one where
    /// a sandbox has died under its containers. Returns each container's pod and id, in order.
    pub fn run_many(
        &self,
        pod: impl Fn(usize) -> Pod + Sync,
        count: usize,
        at_once: usize,
        wanted: &Wanted<'_>,
    ) -> Vec<(Pod, String)> {
        let next = AtomicUsize::new(0);
        let pods = AtomicUsize::new(0);
        let new_pod = || pod(pods.fetch_add(1, Ordering::Relaxed));
        let made = std::sync::Mutex::new(vec![None; count]);
        thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    let mut pod = new_pod();
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= count {
                            return;
                        }
                        let (name, number) = (format!("{}-{n}", wanted.name), n.to_string());
                        let command: Vec<&str> = wanted
                            .command
                            .iter()
                            .copied()
                            .chain([number.as_str()])
                            .collect();
                        let wanted = Wanted {
                            name: &name,
                            command: &command,
                            ..wanted.clone()
                        };
                        let mut id = self.create(&pod, &wanted);
                        if let Err(why) = self.runtime.start(&id) {
                            // The sandbox's process is gone.
                            assert!(why.contains("lstat /proc/0/"), "{why}:\n{}", self.log());
                            pod = new_pod();
                            id = self.run(&pod, &wanted);
                        }
                        made.lock().expect("no thread panicked")[n] = Some((pod.clone(), id));
                    }
                });
            }
        });
        let made = made.into_inner().expect("no thread panicked");
        let made = made.into_iter().map(|made| made.expect("each was made"));
        made.collect()
    }

    /// Runs a program in a running container and returns what it wrote.
    pub fn exec(&self, container: &str, command: &[&str]) -> String {
        self.runtime
            .exec(container, command)
            .expect("the program runs")
    }

    /// The same where the program may fail; an error holds what it said.
    pub fn try_exec(&self, container: &str, command: &[&str]) -> Result<String, String> {
        self.runtime.try_exec(container, command)
    }

    /// Removes a container, whatever state it is in. Where it ends by itself at that moment containerd says that its shim is gone; it is asked
    /// again, as a kubelet does.
    pub fn remove(&self, container: &str) {
        self.until("the container is removed", || {
            let outcome = self.runtime.remove(container);
            if let Err(error) = &outcome {
                println!("not removed yet: {error}");
            }
            outcome.is_ok()
        });
    }

    fn ctr(&self, args: &[&str]) -> String {
        let mut command = Command::new("/usr/bin/ctr");
        command
            .arg("--address")
            .arg(self.socket())
            .args(["-n", "k8s.io"])
            .args(args);
        image::output(&mut command).expect("ctr succeeds")
    }

    fn await_ready(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while !self.runtime.is_ready() {
            let ended = self.daemon.try_wait().expect("the child is ours");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "containerd does not answer ({ended:?}):\n{}",
                self.log()
            );
            thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !is_so() {
            assert!(
                Instant::now() < deadline,
                "not in time: {what}; containerd's log:\n{}",
                self.log()
            );
            thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// The end of the daemon's log.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(40).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let (Ok(None), Ok(pid)) = (self.daemon.try_wait(), i32::try_from(self.daemon.id())) {
            // It may have been stopped, and a stopped daemon answers nobody.
            // SAFETY: kill takes two numbers; the child was not waited for, so the pid is still its own.
            unsafe { libc::kill(pid, libc::SIGCONT) };
            self.runtime.remove_all();
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        clean_up(self.folder.path(), self.cgroup.trim_start_matches('/'));
    }
}

/// Ends whatever else a daemon with this folder left behind: shims, mounts, and its cgroups in every hierarchy.
pub(crate) fn clean_up(folder: &Path, cgroup: &str) {
    // It belongs to that daemon alone: its folder is on the command line.
    for pid in processes_of(folder) {
        // SAFETY: kill takes two numbers.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    let _ = unmount_below(folder);
    let mut hierarchies: Vec<PathBuf> = vec!["/sys/fs/cgroup".into()];
    let inner = fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten();
    hierarchies.extend(inner.map(|entry| entry.path()));
    for hierarchy in hierarchies {
        remove_cgroups(&hierarchy.join(cgroup));
    }
}

/// Is systemd this machine's first program? Then cgroups are its own, and containers must be its scopes.
fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").exists()
}

fn spawn(program: &Path, folder: &Path) -> Child {
    let log = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(folder.join("log"))
        .expect("a log file");
    // Its shim stands beside it.
    let mut path = program.parent().expect("a folder").as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    Command::new(program)
        .env("PATH", path)
        .arg("--config")
        .arg(folder.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("containerd starts")
}

fn write_config(folder: &Path, snapshotter: &str) -> io::Result<()> {
    let at = folder.display();
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    // Without the first of CRI's options the pause program cannot start where root may not lower its OOM score.
    let text = format!(
        "version = 2\nroot = '{at}/root'\nstate = '{at}/state'\n\
         disabled_plugins = ['io.containerd.internal.v1.tracing', 'io.containerd.tracing.processor.v1.otlp']\n\
         [grpc]\naddress = '{at}/containerd.sock'\n\
         [ttrpc]\naddress = '{at}/containerd.sock.ttrpc'\n\
         [plugins.'io.containerd.internal.v1.opt']\npath = '{at}/opt'\n\
         [{cri}]\nrestrict_oom_score_adj = true\ndisable_apparmor = true\nsandbox_image = 'localhost/pause:1'\n\
         disable_tcp_service = true\nstream_server_address = '127.0.0.1'\nstream_server_port = '0'\n\
         [{cri}.containerd]\nsnapshotter = '{snapshotter}'\n\
         [{cri}.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'\n\
         [{cri}.containerd.runtimes.runc.options]\nSystemdCgroup = {}\n\
         [{cri}.cni]\nbin_dir = '{at}/cni'\nconf_dir = '{at}/cni'\n",
        systemd_runs()
    );
    fs::write(folder.join("config.toml"), text)
}

fn processes_of(folder: &Path) -> Vec<i32> {
    let needle = folder.as_os_str().as_encoded_bytes();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(needle.len()).any(|window| window == needle)
    })
    .collect()
}

fn unmount_below(folder: &Path) -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let points = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(Path::new);
    let mut points: Vec<_> = points.filter(|point| point.starts_with(folder)).collect();
    points.reverse();
    for point in points {
        let point = std::ffi::CString::new(point.as_os_str().as_encoded_bytes())?;
        // SAFETY: the path is NUL-terminated and outlives the call.
        unsafe { libc::umount2(point.as_ptr(), libc::MNT_DETACH) };
    }
    Ok(())
}

/// Removes a tree of cgroups, waiting a moment for the kernel to let go of the last processes.
fn remove_cgroups(root: &Path) {
    let inner = fs::read_dir(root).into_iter().flatten().flatten();
    for entry in inner.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroups(&entry.path());
    }
    let deadline = Instant::now() + Duration::from_secs(2);
    while let Err(error) = fs::remove_dir(root) {
        if error.kind() == io::ErrorKind::NotFound || Instant::now() > deadline {
            return;
        }
        thread::yield_now();
    }
}
