//! THE probe table: for each event kind the hooks that can supply it, the preferred one first.
//!
//! The loader walks it, `saker doctor` prints it. Adding a hook is adding a row here and a program to `agent-ebpf`.

use saker_ebpf::config::Group;
use saker_ebpf::wire::Kind;

/// An event kind and the hooks that can supply it.
#[derive(Debug)]
pub struct Probe {
    /// What it reports.
    pub kind: Kind,
    /// In order of preference: the first that attaches is used.
    pub hooks: &'static [Hook],
    /// What an agent without this kind does not see.
    pub lost_without: &'static str,
}

/// One way to supply an event kind.
#[derive(Debug)]
pub struct Hook {
    /// Short stable name, for reports and for `disabled_hooks`.
    pub name: &'static str,
    /// Programs that work together. The hook is attached when all the required ones are.
    pub programs: &'static [ProgramRow],
    /// What the machine must offer, for people.
    pub needs: &'static str,
    /// The kernel struct fields it cannot do without.
    pub fields: &'static [Group],
    /// What is lost by using this hook rather than the preferred one; empty for that one.
    pub lost: &'static str,
}

/// A kernel program and where it goes.
#[derive(Debug)]
pub struct ProgramRow {
    /// Its name in the object.
    pub name: &'static str,
    /// What it is attached to.
    pub attach: Attach,
    /// Empty: the hook is useless without it. Else what is lost without it.
    pub optional: &'static str,
    /// The kernel struct fields it cannot do without, beside those of its hook.
    pub fields: &'static [Group],
}

/// What a program is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// A tracepoint with its raw arguments; where kernels name it differently, its names: the first that is there counts.
    RawTracepoint(&'static [&'static str]),
    /// A tracepoint of the category `syscalls`.
    Syscall(&'static str),
    /// Device access in the root cgroup.
    CgroupDevice,
    /// connect or its kin in the root cgroup.
    CgroupAddress,
    /// Packets that sockets of the root cgroup receive.
    CgroupIngress,
    /// Packets that sockets of the root cgroup send.
    CgroupEgress,
    /// The end of a kernel function.
    FunctionEnd(&'static str),
    /// Instructions of files that are found while the agent runs: the program is loaded, and attached by `python`.
    Uprobe,
}

/// The hook of devices by their numbers. Where it cannot be, opens stand in for it, and the programs of opens have to be told so.
pub const DEVICE_HOOK: &str = "cgroup_device";

/// The hook whose programs also serve other kinds.
pub const CONNECT_HOOK: &str = "cgroup/connect";

const REQUIRED: &str = "";

const fn row(name: &'static str, attach: Attach, optional: &'static str) -> ProgramRow {
    ProgramRow {
        name,
        attach,
        optional,
        fields: &[],
    }
}

/// The programs that see opens through io_uring: the end first, as with calls.
const URING_OPENS: &str = "files opened through io_uring (Linux 6.0)";
const URING_COMPLETE: ProgramRow = row_uring("saker_uring_complete", &["io_uring_complete"]);
const URING_SUBMIT: ProgramRow = row_uring(
    "saker_uring_submit",
    &["io_uring_submit_req", "io_uring_submit_sqe"],
);
const fn row_uring(name: &'static str, tracepoints: &'static [&'static str]) -> ProgramRow {
    ProgramRow {
        fields: &[Group::Uring],
        ..row(name, Attach::RawTracepoint(tracepoints), URING_OPENS)
    }
}

/// What only programs at functions see of opens.
const OPENS_32: &str = "files opened by 32-bit calls, on kernels that have them";
const fn row32(name: &'static str, function: &'static str) -> ProgramRow {
    ProgramRow {
        fields: &[Group::Registers32],
        ..row(name, Attach::FunctionEnd(function), OPENS_32)
    }
}

const OPEN_FUNCTION_PROGRAMS: &[ProgramRow] = &[
    URING_COMPLETE,
    URING_SUBMIT,
    row(
        "saker_function_openat",
        Attach::FunctionEnd("__x64_sys_openat"),
        REQUIRED,
    ),
    row(
        "saker_function_open",
        Attach::FunctionEnd("__x64_sys_open"),
        REQUIRED,
    ),
    row(
        "saker_function_creat",
        Attach::FunctionEnd("__x64_sys_creat"),
        REQUIRED,
    ),
    row(
        "saker_function_openat2",
        Attach::FunctionEnd("__x64_sys_openat2"),
        REQUIRED,
    ),
    row32("saker_function_open32", "__ia32_compat_sys_open"),
    row32("saker_function_creat32", "__ia32_sys_creat"),
    row32("saker_function_openat32", "__ia32_compat_sys_openat"),
    row32("saker_function_openat2_32", "__ia32_sys_openat2"),
];

const OPEN_END_PROGRAMS: &[ProgramRow] = &[
    URING_COMPLETE,
    URING_SUBMIT,
    row(
        "saker_end_openat",
        Attach::Syscall("sys_exit_openat"),
        REQUIRED,
    ),
    row(
        "saker_end_openat2",
        Attach::Syscall("sys_exit_openat2"),
        "opens by openat2 (Linux 5.6)",
    ),
    row(
        "saker_end_open",
        Attach::Syscall("sys_exit_open"),
        "opens by open, where the machine has that call",
    ),
    row(
        "saker_end_creat",
        Attach::Syscall("sys_exit_creat"),
        "opens by creat, where the machine has that call",
    ),
];

const OPEN_PROGRAMS: &[ProgramRow] = &[
    URING_COMPLETE,
    URING_SUBMIT,
    // Ends before entries: an entry whose end nobody watches would stay in its map.
    row(
        "saker_exit_openat",
        Attach::Syscall("sys_exit_openat"),
        REQUIRED,
    ),
    row(
        "saker_enter_openat",
        Attach::Syscall("sys_enter_openat"),
        REQUIRED,
    ),
    row(
        "saker_exit_openat2",
        Attach::Syscall("sys_exit_openat2"),
        "opens by openat2 (Linux 5.6)",
    ),
    row(
        "saker_enter_openat2",
        Attach::Syscall("sys_enter_openat2"),
        "opens by openat2 (Linux 5.6)",
    ),
    row(
        "saker_exit_open",
        Attach::Syscall("sys_exit_open"),
        "opens by open, where the machine has that call",
    ),
    row(
        "saker_enter_open",
        Attach::Syscall("sys_enter_open"),
        "opens by open, where the machine has that call",
    ),
    row(
        "saker_exit_creat",
        Attach::Syscall("sys_exit_creat"),
        "opens by creat, where the machine has that call",
    ),
    row(
        "saker_enter_creat",
        Attach::Syscall("sys_enter_creat"),
        "opens by creat, where the machine has that call",
    ),
];

const PICKLE_PROGRAMS: &[ProgramRow] = &[
    row("saker_pickle_wstr", Attach::Uprobe, REQUIRED),
    row("saker_pickle", Attach::Uprobe, REQUIRED),
    row("saker_pickle_free", Attach::Uprobe, REQUIRED),
    row("saker_pickle_free_wide", Attach::Uprobe, REQUIRED),
    row("saker_audit_wstr", Attach::Uprobe, REQUIRED),
    row("saker_audit", Attach::Uprobe, REQUIRED),
    row("saker_audit_free", Attach::Uprobe, REQUIRED),
    row("saker_audit_free_wide", Attach::Uprobe, REQUIRED),
];

/// The hook of opens that costs other calls nothing.
pub const OPEN_FUNCTION_HOOK: &str = "fexit/open*";

/// The hook of opens that needs no program at their entry.
pub const OPEN_END_HOOK: &str = "syscalls/open* (end)";

/// Who asked is known from the hooks of connections.
const WHO_ASKED: &str = "the process that asked";

const DNS_PROGRAMS: &[ProgramRow] = &[
    row("saker_connect4", Attach::CgroupAddress, WHO_ASKED),
    row("saker_connect6", Attach::CgroupAddress, WHO_ASKED),
    row("saker_sendmsg4", Attach::CgroupAddress, WHO_ASKED),
    row("saker_sendmsg6", Attach::CgroupAddress, WHO_ASKED),
    row("saker_dns", Attach::CgroupIngress, REQUIRED),
];

/// Most first bytes are sent by the thread that runs.
const WHO_CONNECTED: &str = "the process whose first bytes wait, and sockets that connect again";

const TLS_PROGRAMS: &[ProgramRow] = &[
    row("saker_connect4", Attach::CgroupAddress, WHO_CONNECTED),
    row("saker_connect6", Attach::CgroupAddress, WHO_CONNECTED),
    row("saker_tls", Attach::CgroupEgress, REQUIRED),
];

/// The table.
pub const PROBES: &[Probe] = &[
    Probe {
        kind: Kind::Fork,
        hooks: &[Hook {
            name: "raw_tp/sched_process_fork",
            programs: &[row(
                "saker_fork",
                Attach::RawTracepoint(&["sched_process_fork"]),
                REQUIRED,
            )],
            needs: "Linux 5.8, BTF",
            fields: &[Group::Header, Group::Fork],
            lost: "",
        }],
        lost_without: "parents of processes that never exec",
    },
    Probe {
        kind: Kind::Exec,
        hooks: &[Hook {
            name: "raw_tp/sched_process_exec",
            programs: &[row(
                "saker_exec",
                Attach::RawTracepoint(&["sched_process_exec"]),
                REQUIRED,
            )],
            needs: "Linux 5.8, BTF",
            fields: &[Group::Header, Group::Exec],
            lost: "",
        }],
        lost_without: "started programs, and with them nearly every rule",
    },
    Probe {
        kind: Kind::Exit,
        hooks: &[Hook {
            name: "raw_tp/sched_process_exit",
            programs: &[row(
                "saker_exit",
                Attach::RawTracepoint(&["sched_process_exit"]),
                REQUIRED,
            )],
            needs: "Linux 5.8, BTF",
            fields: &[Group::Header, Group::Exit],
            lost: "",
        }],
        lost_without: "ends of processes; the process table is pruned by age alone",
    },
    Probe {
        kind: Kind::CgroupMkdir,
        hooks: &[Hook {
            name: "raw_tp/cgroup_mkdir",
            programs: &[row(
                "saker_cgroup_mkdir",
                Attach::RawTracepoint(&["cgroup_mkdir"]),
                REQUIRED,
            )],
            needs: "Linux 5.8, BTF",
            fields: &[Group::Header, Group::Cgroup],
            lost: "",
        }],
        lost_without: "the container of a cgroup that is removed before its first event is read",
    },
    Probe {
        kind: Kind::DeviceOpen,
        hooks: &[
            Hook {
                name: DEVICE_HOOK,
                programs: &[row("saker_device", Attach::CgroupDevice, REQUIRED)],
                needs: "cgroup v2, CONFIG_CGROUP_BPF",
                fields: &[Group::Header],
                lost: "",
            },
            Hook {
                name: "syscalls/open* on device paths",
                programs: OPEN_PROGRAMS,
                needs: "tracefs, BTF",
                fields: &[Group::Header, Group::Exec, Group::Descriptor],
                lost: "devices opened under another name, by a relative path or through io_uring; \
                       device numbers (the events are of kind open)",
            },
        ],
        lost_without: "use of accelerators",
    },
    Probe {
        kind: Kind::Connect,
        hooks: &[
            Hook {
                name: CONNECT_HOOK,
                programs: &[
                    row("saker_connect4", Attach::CgroupAddress, REQUIRED),
                    row("saker_connect6", Attach::CgroupAddress, "IPv6 connections"),
                ],
                needs: "cgroup v2, CONFIG_CGROUP_BPF",
                fields: &[Group::Header],
                lost: "",
            },
            Hook {
                name: "syscalls/connect",
                programs: &[
                    row(
                        "saker_exit_connect",
                        Attach::Syscall("sys_exit_connect"),
                        REQUIRED,
                    ),
                    row(
                        "saker_enter_connect",
                        Attach::Syscall("sys_enter_connect"),
                        REQUIRED,
                    ),
                ],
                needs: "tracefs",
                fields: &[Group::Header],
                lost: "connections through io_uring, the protocol, certainty of the address \
                       (it is read from the caller's memory), and a little of every system call's speed",
            },
        ],
        lost_without: "outgoing connections",
    },
    Probe {
        kind: Kind::Sendto,
        hooks: &[Hook {
            name: "cgroup/sendmsg",
            programs: &[
                row("saker_sendmsg4", Attach::CgroupAddress, REQUIRED),
                row("saker_sendmsg6", Attach::CgroupAddress, REQUIRED),
            ],
            needs: "cgroup v2, CONFIG_CGROUP_BPF",
            fields: &[Group::Header],
            lost: "",
        }],
        lost_without: "datagrams of sockets that are not connected",
    },
    Probe {
        kind: Kind::Dns,
        hooks: &[Hook {
            name: "cgroup_skb/ingress",
            programs: DNS_PROGRAMS,
            needs: "cgroup v2, CONFIG_CGROUP_BPF, BTF",
            fields: &[Group::Header],
            lost: "",
        }],
        lost_without: "DNS answers, and with them the names of addresses",
    },
    Probe {
        kind: Kind::Tls,
        hooks: &[Hook {
            name: "cgroup_skb/egress",
            programs: TLS_PROGRAMS,
            needs: "cgroup v2, CONFIG_CGROUP_BPF, BTF",
            fields: &[Group::Header],
            lost: "",
        }],
        lost_without: "server names of TLS connections",
    },
    Probe {
        kind: Kind::Pickle,
        hooks: &[Hook {
            name: "uprobe/pickle.find_class",
            programs: PICKLE_PROGRAMS,
            needs: "uprobes (CONFIG_UPROBE_EVENTS), Linux 5.8, BTF",
            fields: &[Group::Header, Group::Pickle],
            lost: "",
        }],
        lost_without: "what pickles load inside Python",
    },
    Probe {
        kind: Kind::Open,
        hooks: &[
            Hook {
                name: OPEN_FUNCTION_HOOK,
                programs: OPEN_FUNCTION_PROGRAMS,
                needs: "Linux 5.12, x86-64, BPF trampolines (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS), BTF",
                fields: &[
                    Group::Header,
                    Group::Exec,
                    Group::Descriptor,
                    Group::Registers,
                    Group::Recursion,
                ],
                lost: "",
            },
            Hook {
                name: OPEN_END_HOOK,
                programs: OPEN_END_PROGRAMS,
                needs: "Linux 5.15, x86-64, tracefs, BTF",
                fields: &[
                    Group::Header,
                    Group::Exec,
                    Group::Descriptor,
                    Group::Registers,
                ],
                lost: "a little of every system call's speed; files opened by 32-bit calls",
            },
            Hook {
                name: "syscalls/open*",
                programs: OPEN_PROGRAMS,
                needs: "tracefs, BTF",
                fields: &[Group::Header, Group::Exec, Group::Descriptor],
                lost: "a little of every system call's and more of every open's speed; files opened by 32-bit calls; \
                       opens that started before the agent did",
            },
        ],
        lost_without: "opened files",
    },
];

/// The table's row of a kind.
pub fn probe(kind: Kind) -> &'static Probe {
    PROBES
        .iter()
        .find(|probe| probe.kind == kind)
        .unwrap_or_else(|| unreachable!("a test holds that every kind has a row"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_row_with_a_hook() {
        for kind in Kind::ALL {
            let rows: Vec<_> = PROBES.iter().filter(|probe| probe.kind == kind).collect();
            assert_eq!(rows.len(), 1, "{kind:?}");
            assert!(!rows[0].hooks.is_empty(), "{kind:?}");
            assert_eq!(
                rows[0].hooks[0].lost, "",
                "{kind:?}: the first hook loses nothing"
            );
        }
    }

    #[test]
    fn hook_names_are_unique() {
        let mut names: Vec<_> = PROBES
            .iter()
            .flat_map(|probe| probe.hooks)
            .map(|hook| hook.name)
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
