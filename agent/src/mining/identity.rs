//! The families `process` and `lineage`: what a program is, and who started it.

use super::Evidence;
use crate::source::gpu::look::is_cuda_runtime;

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

/// Programs that others reach over the network and that have no reason to start a shell that starts something on a GPU.
const SERVICES: &[&str] = &[
    "nginx",
    "apache2",
    "httpd",
    "php-fpm",
    "gunicorn",
    "uvicorn",
    "uwsgi",
    "tomcat",
    "jupyter",
    "jupyter-lab",
    "jupyter-noteboo",
    "jupyterhub",
    "tritonserver",
    "vllm",
    "ollama",
    "text-generation",
    "torchserve",
    "mlflow",
    "ray::",
    "redis-server",
    "postgres",
];
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

/// What a process's ancestors, nearest first, say.
pub fn lineage(ancestors: &[&[u8]], found: &mut Vec<Evidence>) {
    let mut shell = None;
    for ancestor in ancestors.iter().take(32) {
        let name = lower(ancestor);
        if shell.is_none() && SHELLS.contains(&name.as_str()) {
            shell = Some(name);
        } else if let Some(shell) = &shell
            && SERVICES
                .iter()
                .any(|service| name == *service || name.starts_with(&format!("{service}:")))
        {
            found.push(Evidence::of(
                "lineage.service-shell",
                format!("{shell} under {name}"),
            ));
            return;
        }
    }
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
    }

    #[test]
    fn a_shell_counts_only_under_a_service() {
        let check = |ancestors: &[&str], expected: usize| {
            let names: Vec<&[u8]> = ancestors.iter().map(|name| name.as_bytes()).collect();
            let mut found = Vec::new();
            lineage(&names, &mut found);
            assert_eq!(found.len(), expected, "{ancestors:?}");
        };
        check(&[], 0);
        check(&["bash", "sshd", "systemd"], 0);
        check(&["python3", "nginx"], 0);
        check(&["nohup", "sh", "python3", "jupyter-lab", "bash"], 1);
        check(&["dash", "php-fpm", "php-fpm"], 1);
        check(&["jupyter-lab", "bash"], 0);
    }
}
