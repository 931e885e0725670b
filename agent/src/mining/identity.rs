//! The families `process` and `lineage`: what a program is, and who started it.

use super::Evidence;
use crate::source::gpu::look::{is_cuda_runtime, is_integer_runtime};

/// What is known of a program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity<'a> {
    /// Its name: `comm`.
    pub name: &'a [u8],
    /// Its executable's path; empty where it is not known.
    pub exe: &'a [u8],
    /// Its arguments, joined by blanks.
    pub args: &'a [u8],
    /// Whether the executable was made by memfd_create.
    pub memfd: bool,
    /// Whether it has been removed.
    pub deleted: bool,
    /// Whether a framework's library is mapped, and which; `None` where that could not be seen.
    pub runtime: Option<Option<&'a str>>,
    /// Whether it has no executable at all, as threads of the kernel.
    pub is_kernel: bool,
}

/// Names of miners, whole, in lower case and as the kernel cuts them.
const MINERS: &[&str] = &[
    "xmrig",
    "xmrig-cuda",
    "xmrig-mo",
    "xmr-stak",
    "ethminer",
    "nbminer",
    "t-rex",
    "lolminer",
    "gminer",
    "teamredminer",
    "phoenixminer",
    "ccminer",
    "cgminer",
    "bfgminer",
    "nsfminer",
    "kawpowminer",
    "rigel",
    "bzminer",
    "srbminer",
    "srbminer-multi",
    "wildrig",
    "wildrig-multi",
    "nanominer",
    "onezerominer",
    "qubic-client",
    "qli-client",
    "minerd",
    "cpuminer",
    "claymore",
    "trexminer",
    "miniz",
    "cryptodredge",
    "danila-miner",
];

/// What a URL of a pool starts with; nothing but miners uses them.
const SCHEMES: &[&str] = &[
    "stratum+tcp://",
    "stratum+ssl://",
    "stratum+tls://",
    "stratum2+tcp://",
    "stratum1+tcp://",
    "ethproxy+tcp://",
    "ethstratum+tcp://",
    "ethstratum2+tcp://",
    "nicehash+tcp://",
    "stratum+udp://",
    "daemon+http://",
];

/// Algorithms of proof of work, as miners' options name them.
const ALGORITHMS: &[&str] = &[
    "ethash",
    "etchash",
    "kawpow",
    "kheavyhash",
    "karlsenhash",
    "autolykos2",
    "octopus",
    "randomx",
    "rx/0",
    "cryptonight",
    "progpow",
    "firopow",
    "evrprogpow",
    "blake3",
    "equihash",
    "zelhash",
    "beamhash",
    "cuckatoo32",
    "cuckoo29",
    "dynexsolve",
    "ghostrider",
    "heavyhash",
    "lyra2rev2",
    "x16rv2",
    "nexapow",
    "pyrinhash",
    "sha512_256d_radiant",
    "verthash",
    "ironfish",
    "xelishash",
];

/// Programs that hash on GPUs and mine nothing, as they call themselves.
const HASHERS: &[&str] = &["hashcat", "hashcat.bin", "john"];

const TEMPORARY: &[&str] = &[
    "/tmp/",
    "/var/tmp/",
    "/dev/shm/",
    "/run/shm/",
    "/dev/mqueue/",
];

/// Beginnings of names of the kernel's threads and of services that have no business on a GPU.
const DISGUISES: &[&str] = &[
    "kworker",
    "ksoftirqd",
    "kthreadd",
    "kswapd",
    "migration/",
    "rcu_",
    "watchdog",
    "kdevtmpfs",
    "khugepaged",
    "[",
    "irq/",
    "systemd",
    "sshd",
    "cron",
    "crond",
    "dbus-daemon",
    "rsyslogd",
    "agetty",
];

/// Programs that others reach over the network and that have no reason to start a shell that starts something on a GPU: whole names, without
/// versions. The kernel knows their first 15 bytes.
const SERVICES: &[&str] = &[
    "nginx",
    "apache",
    "httpd",
    "lighttpd",
    "caddy",
    "php-fpm",
    "php-cgi",
    "gunicorn",
    "uvicorn",
    "hypercorn",
    "uwsgi",
    "tomcat",
    "jupyter",
    "jupyter-lab",
    "jupyter-labhub",
    "jupyter-notebook",
    "jupyter-nbclassic",
    "jupyter-server",
    "jupyter-kernel",
    "jupyter-kernelgateway",
    "jupyterhub",
    "jupyterhub-singleuser",
    "code-server",
    "openvscode-server",
    "rserver",
    "rsession",
    "rstudio-server",
    "zeppelin",
    "marimo",
    "streamlit",
    "tritonserver",
    "vllm",
    "sglang",
    "ollama",
    "text-generation-launcher",
    "text-generation-router",
    "text-generation-server",
    "torchserve",
    "tensorflow_model_server",
    "mlflow",
    "ray",
    "raylet",
    "dask",
    "dask-worker",
    "dask-scheduler",
    "airflow",
    "redis-server",
    "postgres",
];
/// Modules that Python runs, or packages of them, beside the names above.
const MODULES: &[&str] = &[
    "ipykernel",
    "ipykernel_launcher",
    "jupyterlab",
    "jupyter_server",
    "jupyter_client",
    "notebook",
    "nbclassic",
    "kernel_gateway",
    "flask",
    "gradio",
    "text_generation_server",
    "distributed",
];
/// Beginnings of the classes that Java runs.
const CLASSES: &[&str] = &[
    "org.apache.zeppelin.",
    "org.apache.catalina.",
    "org.apache.livy.",
    "org.pytorch.serve.",
    "org.eclipse.jetty.",
];
/// Of an interpreter's arguments so many are looked at.
const WORDS_MAX: usize = 256;
const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "zsh", "ksh", "busybox"];

/// What the program says.
pub fn evidence(about: &Identity<'_>, found: &mut Vec<Evidence>) {
    let name = lower(about.name);
    let file = about
        .exe
        .rsplit(|byte| *byte == b'/')
        .next()
        .unwrap_or_default();
    let file = lower(file);
    let args = lower(about.args);
    for known in [&name, &file] {
        if MINERS.contains(&known.as_str()) {
            found.push(Evidence::of("process.miner-name", known.clone()));
            break;
        }
    }
    for known in [&name, &file] {
        if HASHERS.contains(&known.as_str()) {
            found.push(Evidence::of("process.hash-tool", known.clone()));
            break;
        }
    }
    if let Some(what) = flags(&args) {
        found.push(Evidence::of("process.miner-flags", what));
    }
    if let Some(coin) = args_of(about.args).find_map(wallet) {
        // The address itself would be taken for a secret, and is in the command line.
        found.push(Evidence::of(
            "process.wallet",
            format!("shaped like one of {coin}"),
        ));
    }
    if about.memfd {
        found.push(Evidence::of(
            "process.memfd",
            format!("{file} exists in memory only"),
        ));
    } else if about.deleted {
        found.push(Evidence::of(
            "process.deleted",
            format!("{file} was removed"),
        ));
    }
    let exe = String::from_utf8_lossy(about.exe);
    if TEMPORARY.iter().any(|folder| exe.starts_with(folder)) {
        found.push(Evidence::of("process.temporary", exe.into_owned()));
    }
    let is_disguise = |disguise: &&&str| name.starts_with(**disguise);
    if let Some(disguise) = DISGUISES.iter().find(is_disguise)
        && !about.is_kernel
        && !is_system_path(about.exe)
    {
        let what = format!("calls itself {name}, like {disguise}");
        found.push(Evidence::of("process.disguised", what));
    }
    match about.runtime {
        // Miners link it into themselves as often as they load it, and so does everybody else.
        Some(Some(library)) if is_cuda_runtime(library) => {}
        Some(Some(library)) if is_integer_runtime(library) => {
            found.push(Evidence::of("process.integer-runtime", library.to_owned()));
        }
        Some(Some(library)) => {
            found.push(Evidence::of("process.runtime", library.to_owned()));
        }
        Some(None) => {
            found.push(Evidence::of(
                "process.no-runtime",
                "none is mapped".to_owned(),
            ));
        }
        None => {}
    }
}

/// A process that another comes from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ancestor<'a> {
    /// Its name: `comm`.
    pub name: &'a [u8],
    /// Its arguments, joined by blanks; empty where they are not known.
    pub args: &'a [u8],
}

/// What a process's ancestors, nearest first, say.
pub fn lineage(ancestors: &[Ancestor<'_>], found: &mut Vec<Evidence>) {
    let mut shell = None;
    for ancestor in ancestors.iter().take(32) {
        let name = lower(ancestor.name);
        if shell.is_none() && SHELLS.contains(&name.as_str()) {
            shell = Some(name);
        } else if let Some(shell) = &shell
            && let Some(service) = service(&name, ancestor.args)
        {
            let what = if service == name {
                format!("{shell} under {name}")
            } else {
                format!("{shell} under {name}, which is {service}")
            };
            found.push(Evidence::of("lineage.service-shell", what));
            return;
        }
    }
}

/// The service that a program of this name is, or that an interpreter runs.
fn service(name: &str, args: &[u8]) -> Option<&'static str> {
    /// What fits into `comm`.
    const COMM_BYTES: usize = 15;
    let known = |name: &str| {
        let is_it = |service: &&&str| {
            **service == name || name.len() == COMM_BYTES && service.starts_with(name)
        };
        SERVICES.iter().find(is_it).copied()
    };
    // `gunicorn: worker`, `ray::IDLE`, `airflow scheduler` and `(httpd)` name themselves first, then what they do.
    let bare = name.trim_start_matches(['(', '[', '-']);
    let bare = bare.split([':', ' ', ')', ']']).next().unwrap_or_default();
    if let Some(service) = known(name).or_else(|| known(unversioned(bare))) {
        return Some(service);
    }
    let mut words = args
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty())
        .take(WORDS_MAX)
        .filter_map(|word| std::str::from_utf8(word).ok());
    match unversioned(bare) {
        "python" | "pypy" => {
            let run = ran_by_python(&mut words)?.to_lowercase();
            let run = run.strip_suffix(".py").unwrap_or(&run);
            let package = run.split('.').next().unwrap_or_default();
            let module = MODULES.iter().find(|module| **module == package);
            known(package).or(module.copied())
        }
        "node" => {
            let script = words.find(|word| !word.starts_with('-'))?.to_lowercase();
            let mut parts = script.split('/').map(unversioned);
            parts.find_map(known)
        }
        "java" => words.find_map(|word| {
            let is_it = |class: &&&str| word.starts_with(**class);
            CLASSES.iter().find(is_it).copied()
        }),
        _ => None,
    }
}

/// A name without the version behind it: `php-fpm8.2`, `python3.11`, `code-server-4.96.2`.
fn unversioned(name: &str) -> &str {
    let is_version = |char: char| char.is_ascii_digit() || char == '.';
    let bare = name.trim_end_matches(is_version);
    if bare.len() == name.len() {
        return name;
    }
    bare.trim_end_matches(['-', '_'])
}

/// The module or the file that Python runs.
fn ran_by_python<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<&'a str> {
    while let Some(word) = words.next() {
        match word {
            "-m" => return words.next(),
            // Their values are words of their own.
            "-W" | "-X" => {
                words.next();
            }
            "-c" => return None,
            _ if word.starts_with('-') => {}
            file => return file.rsplit('/').next(),
        }
    }
    None
}

fn flags(args: &str) -> Option<String> {
    if let Some(scheme) = SCHEMES.iter().find(|scheme| args.contains(**scheme)) {
        return Some((*scheme).to_owned());
    }
    let words: Vec<&str> = args.split([' ', '=']).collect();
    let after = |options: &[&str]| {
        let at = words.iter().position(|word| options.contains(word))?;
        words.get(at + 1).copied()
    };
    let algorithm = after(&["--algo", "-a", "--algorithm", "--coin", "--dag-algo"])?;
    let pool = after(&[
        "--pool", "-o", "--url", "--server", "-p", "-s", "--wallet", "-u", "--user",
    ])?;
    let is_known = ALGORITHMS.contains(&algorithm) && !pool.is_empty();
    is_known.then(|| format!("algorithm {algorithm} beside a pool or a wallet"))
}

/// The arguments one by one; a wallet has no blanks, and a worker's name may follow it.
fn args_of(args: &[u8]) -> impl Iterator<Item = &str> {
    args.split(|byte| matches!(byte, b' ' | b'=' | b'/' | b'.' | b'+'))
        .filter_map(|word| std::str::from_utf8(word).ok())
}

/// The coin whose addresses look like this.
fn wallet(word: &str) -> Option<&'static str> {
    let is_base58 = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() && !matches!(byte, b'0' | b'O' | b'I' | b'l'))
    };
    let is_bech32 = |text: &str| {
        text.bytes().all(|byte| {
            matches!(byte, b'a'..=b'z' | b'0'..=b'9') && !matches!(byte, b'1' | b'b' | b'i' | b'o')
        })
    };
    // A hash of 40 digits is common; one with 0x before it and both cases within is an address.
    let is_mixed = |text: &str| {
        text.bytes().any(|byte| byte.is_ascii_lowercase())
            && text.bytes().any(|byte| byte.is_ascii_uppercase())
    };
    if let Some(digits) = word.strip_prefix("0x") {
        let is_address = digits.len() == 40 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        return is_address.then_some("Ethereum");
    }
    if let Some(rest) = word.strip_prefix("kaspa:") {
        return (rest.len() >= 61 && is_bech32(rest)).then_some("Kaspa");
    }
    if let Some(rest) = word.strip_prefix("bc1") {
        return (matches!(rest.len(), 39 | 59) && is_bech32(rest)).then_some("Bitcoin");
    }
    let is_monero =
        matches!(word.len(), 95 | 106) && word.starts_with(['4', '8']) && is_base58(word);
    if is_monero {
        return Some("Monero");
    }
    let is_raven = word.len() == 34 && word.starts_with('R') && is_base58(word) && is_mixed(word);
    is_raven.then_some("Ravencoin")
}

fn is_system_path(exe: &[u8]) -> bool {
    [&b"/usr/"[..], b"/lib/", b"/sbin/", b"/bin/"]
        .iter()
        .any(|folder| exe.starts_with(folder))
}

fn lower(text: &[u8]) -> String {
    String::from_utf8_lossy(text).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(about: &Identity<'_>) -> Vec<&'static str> {
        let mut found = Vec::new();
        evidence(about, &mut found);
        found.iter().map(|evidence| evidence.signal.name).collect()
    }

    #[test]
    fn miners_show_by_name_arguments_and_place() {
        let check = |name: &str, exe: &str, args: &str, expected: &[&str]| {
            let about = Identity {
                name: name.as_bytes(),
                exe: exe.as_bytes(),
                args: args.as_bytes(),
                ..Identity::default()
            };
            assert_eq!(names(&about), expected, "{name} {exe} {args}");
        };
        check("python3", "/usr/bin/python3.11", "train.py --lr 0.1", &[]);
        check("t-rex", "/opt/t-rex", "", &["process.miner-name"]);
        check("x", "/opt/lolMiner", "", &["process.miner-name"]);
        check(
            "x",
            "/x",
            "-o stratum+ssl://p.example:443",
            &["process.miner-flags"],
        );
        check(
            "x",
            "/x",
            "--algo KAWPOW --pool p.example:1",
            &["process.miner-flags"],
        );
        check("x", "/x", "--algo ppo --url http://tracking", &[]);
        check("nginx", "/usr/sbin/nginx", "-p /srv", &[]);
        check(
            "x",
            "/x",
            "-w 0x52908400098527886E0F7030069857D2E4169EE7.rig",
            &["process.wallet"],
        );
        check(
            "x",
            "/x",
            "--commit 52908400098527886e0f7030069857d2e4169ee7",
            &[],
        );
        check("x", "/dev/shm/.x/x", "", &["process.temporary"]);
        check("kworker/0:1", "/opt/a", "", &["process.disguised"]);
        check("systemd", "/usr/lib/systemd/systemd", "", &[]);
    }

    #[test]
    fn executables_that_are_gone_show() {
        let about = |memfd, deleted| Identity {
            memfd,
            deleted,
            ..Identity::default()
        };
        assert_eq!(names(&about(true, true)), ["process.memfd"]);
        assert_eq!(names(&about(false, true)), ["process.deleted"]);
        let runtime = |runtime| Identity {
            runtime: Some(runtime),
            ..Identity::default()
        };
        assert_eq!(names(&runtime(None)), ["process.no-runtime"]);
        assert_eq!(names(&runtime(Some("libtorch.so"))), ["process.runtime"]);
        assert_eq!(
            names(&runtime(Some("libggml-cuda.so"))),
            ["process.integer-runtime"]
        );
    }

    #[test]
    fn a_shell_counts_only_under_a_service() {
        let check = |ancestors: &[&str], expected: usize| {
            // A name, and behind a bar its arguments.
            let ancestors: Vec<_> = ancestors
                .iter()
                .map(|text| {
                    let (name, args) = text.split_once('|').unwrap_or((text, ""));
                    Ancestor {
                        name: name.as_bytes(),
                        args: args.as_bytes(),
                    }
                })
                .collect();
            let mut found = Vec::new();
            lineage(&ancestors, &mut found);
            assert_eq!(found.len(), expected, "{ancestors:?}");
        };
        check(&[], 0);
        check(&["bash", "sshd", "systemd"], 0);
        check(&["python3", "nginx"], 0);
        check(&["nohup", "sh", "python3", "jupyter-lab", "bash"], 1);
        check(&["dash", "php-fpm", "php-fpm"], 1);
        check(&["jupyter-lab", "bash"], 0);
    }

    #[test]
    fn services_are_known_by_what_the_kernel_and_their_interpreters_show() {
        let check = |name: &str, args: &str, expected: Option<&str>| {
            assert_eq!(service(name, args.as_bytes()), expected, "{name} {args}");
        };
        check("jupyterhub-sing", "", Some("jupyterhub-singleuser"));
        check("jupyter-server", "", Some("jupyter-server"));
        check("jupyter-noteboo", "", Some("jupyter-notebook"));
        check("text-generation", "", Some("text-generation-launcher"));
        check("php-fpm8.2", "", Some("php-fpm"));
        check("php-fpm7", "", Some("php-fpm"));
        check("apache2", "", Some("apache"));
        check("nginx: worker", "", Some("nginx"));
        check("gunicorn: worke", "", Some("gunicorn"));
        check("ray::idle", "", Some("ray"));
        check("ray::trainer.st", "", Some("ray"));
        check("airflow schedul", "", Some("airflow"));
        check("rserver", "", Some("rserver"));
        check("dask-worker", "", Some("dask-worker"));
        check("python3", "-m jupyterlab --port 8888", Some("jupyterlab"));
        check("python3.11", "-X dev -m jupyter lab", Some("jupyter"));
        check(
            "python3",
            "-m ipykernel_launcher -f /run/kernel-1.json",
            Some("ipykernel_launcher"),
        );
        check("python", "/opt/conda/bin/jupyter-lab", Some("jupyter-lab"));
        check(
            "python3",
            "-m vllm.entrypoints.openai.api_server --model m",
            Some("vllm"),
        );
        check(
            "node",
            "/usr/lib/code-server-4.96.2/out/node/entry",
            Some("code-server"),
        );
        check(
            "java",
            "-Xmx1g -cp /z org.apache.zeppelin.server.ZeppelinServer",
            Some("org.apache.zeppelin."),
        );
        // What merely mentions one is none, and neither is what begins like one.
        check("python3", "train.py --logger mlflow", None);
        check("python3", "-c 'import jupyterlab'", None);
        check("python3", "-W ignore train.py", None);
        check("rayon-test", "", None);
        check("nginx-exporter", "", None);
        check("php-fpm_exporte", "", None);
        check("node", "/srv/app/main.js --name code-server", None);
        check("7", "", None);
        check("", "", None);
    }
}
