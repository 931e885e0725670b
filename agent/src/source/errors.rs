//! Why the sensor cannot start. Every message says what to do about it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::btf::BtfError;

/// The sensor cannot start.
#[derive(Debug, Error)]
pub enum SensorError {
    /// Capabilities are missing.
    #[error(
        "loading kernel programs needs {missing}: run saker as root, or give its container these capabilities"
    )]
    NotPermitted {
        /// The missing capabilities.
        missing: String,
    },
    /// The capabilities are there and the kernel refuses all the same.
    #[error(
        "the kernel refuses BPF although the capabilities are there: look for lockdown, a seccomp profile, or kernel.unprivileged_bpf_disabled set by a sandbox"
    )]
    Refused {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel's type information is not there.
    #[error(
        "the kernel's type information is not at {}: use a kernel built with CONFIG_DEBUG_INFO_BTF=y, or name a BTF file of this very kernel", path.display()
    )]
    NoBtf {
        /// Where it was looked for.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The type information cannot be read.
    #[error(
        "{} cannot be read as type information ({source}): name a BTF file of this very kernel", path.display()
    )]
    BadBtf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BtfError,
    },
    /// There is no cgroup v2 hierarchy, mounted or to be mounted.
    #[error(
        "there is no cgroup v2 hierarchy, by which containers are told apart: mount one (mount -t cgroup2 none /sys/fs/cgroup/unified), or boot with systemd.unified_cgroup_hierarchy=1"
    )]
    NoCgroup2 {
        /// What mounting one privately said.
        #[source]
        source: io::Error,
    },
    /// The kernel lacks something that nothing can stand in for.
    #[error("this kernel has no {lacking}: saker needs Linux {needs} or newer")]
    OldKernel {
        /// What is lacking.
        lacking: String,
        /// The first version that has it.
        needs: &'static str,
    },
    /// No hook of any wanted kind could be attached.
    #[error(
        "no hook could be attached ({first_reason}): `saker doctor` lists each with its reason"
    )]
    NoHook {
        /// Why the first one could not.
        first_reason: String,
    },
    /// The ring buffer was refused.
    #[error("the kernel refused a ring buffer of {bytes} bytes: {advice}")]
    RingRefused {
        /// Size asked for.
        bytes: u32,
        /// What to do.
        advice: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The memory that maps may lock cannot be raised.
    #[error(
        "the limit on locked memory cannot be raised: run saker with `ulimit -l unlimited`, or use Linux 5.11 or newer, which does not count maps against it"
    )]
    Memlock {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel object inside the program is not the one it was built with.
    #[error("the kernel object is damaged ({found}): install saker again")]
    ObjectDamaged {
        /// What was found in it.
        found: String,
    },
    /// Something that the kernel should allow went wrong.
    #[error("{attempt} failed: {reason}")]
    Kernel {
        /// What was attempted.
        attempt: &'static str,
        /// What came back.
        reason: String,
    },
}
