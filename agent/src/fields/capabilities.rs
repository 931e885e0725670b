//! The names of capabilities, as `thread.cap_*` show them.

/// By number, as the kernel's `include/uapi/linux/capability.h` has them.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The names of a set's capabilities in the order of their numbers; one that is newer than the table has its number.
pub fn names(set: u64) -> impl Iterator<Item = Name> {
    (0..u64::BITS)
        .filter(move |number| set >> number & 1 == 1)
        .map(Name)
}

/// A capability, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name(u32);

impl std::fmt::Display for Name {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match NAMES.get(self.0 as usize) {
            Some(name) => write!(out, "CAP_{name}"),
            None => write!(out, "CAP_{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_named_by_their_bits() {
        let check = |set: u64, expected: &[&str]| {
            let found: Vec<_> = names(set).map(|name| name.to_string()).collect();
            assert_eq!(found, expected, "{set:#x}");
        };
        check(0, &[]);
        check(1 | 1 << 21, &["CAP_CHOWN", "CAP_SYS_ADMIN"]);
        check(1 << 39 | 1 << 40, &["CAP_BPF", "CAP_CHECKPOINT_RESTORE"]);
        check(1 << 63, &["CAP_63"]);
        assert_eq!(names(u64::MAX).count(), 64);
    }
}
