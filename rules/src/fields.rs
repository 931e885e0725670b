//! THE table of fields: name, type, argument, unit, event kinds, origin and meaning of each.
//!
//! `saker fields`, the reference in `docs/`, the checker and the agent's extraction all come from it.
//! Adding a field is adding a row; the agent then fails to compile until it supplies it.

use serde::Serialize;

pub use lookup::{ArgError, Resolved, field_type, format_ref, resolve, suggest, window_ns};

use crate::value::FieldType;

mod lookup;
mod rawargs;

pub(crate) use lookup::{is_event_argument, is_opaque};

/// Whether a field takes an argument in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ArgRule {
    /// `field[...]` is an error.
    None,
    /// A number may stand in brackets.
    OptionalIndex,
    /// A number must stand in brackets.
    Index,
    /// A name must stand in brackets.
    Key,
    /// A number or a name must stand in brackets.
    IndexOrKey,
    /// A name may stand in brackets.
    OptionalKey,
    /// A number or a name may stand in brackets.
    OptionalIndexOrKey,
}

/// Who supplies a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Supply {
    /// A live agent, from this kernel hook, file or specification.
    Live(&'static str),
    /// Recorded events only; the reason is told to whoever loads a rule that uses it.
    Recorded(&'static str),
}

/// One row of the table.
#[derive(Debug, Serialize)]
pub struct FieldInfo {
    /// As rules write it.
    pub name: &'static str,
    /// Falco's type where Falco has the field.
    #[serde(rename = "type")]
    pub ty: FieldType,
    /// Whether it yields several values.
    pub list: bool,
    /// What may stand in brackets.
    pub arg: ArgRule,
    /// `""` where the value has no unit.
    pub unit: &'static str,
    /// The event kinds that carry it; empty: every kind.
    pub kinds: &'static [&'static str],
    /// Where the value comes from.
    pub supply: Supply,
    /// What it means, in one or two sentences.
    pub doc: &'static str,
}

macro_rules! fields {
    ($($variant:ident $name:literal $ty:ident $($list:literal)? [$($arg:ident)?] $unit:literal [$($kind:literal),*] $supply:ident($origin:literal) $doc:literal;)*) => {
        /// Every field, as a number: the row of [`FIELDS`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        #[allow(missing_docs, reason = "each is documented in its row of FIELDS")]
        pub enum Field { $($variant,)* }

        /// The table, indexed by `Field as usize`.
        pub static FIELDS: &[FieldInfo] = &[$(FieldInfo {
            name: $name,
            ty: FieldType::$ty,
            list: false $(|| matches!($list.as_bytes(), b"list"))?,
            arg: fields!(@arg $($arg)?),
            unit: $unit,
            kinds: &[$($kind),*],
            supply: Supply::$supply($origin),
            doc: $doc,
        },)*];

        const ALL: &[Field] = &[$(Field::$variant,)*];
    };
    (@arg) => { ArgRule::None };
    (@arg $arg:ident) => { ArgRule::$arg };
}

fields! {
    EvtNum "evt.num" Uint [] "" [] Live("counter of the sensor, reset at start") "Number of the event, growing by one from 1. Never 0, which `never_true` macros rely on.";
    EvtTime "evt.time" Str [] "" [] Live("kernel clock at the hook") "Time of day of the event with nanoseconds, as `HH:MM:SS.nnnnnnnnn` in UTC.";
    EvtTimeS "evt.time.s" Str [] "" [] Live("kernel clock at the hook") "Time of day of the event without its fraction, in UTC.";
    EvtTimeIso8601 "evt.time.iso8601" Str [] "" [] Live("kernel clock at the hook") "Time of the event in ISO 8601 with nanoseconds and zone.";
    EvtDatetime "evt.datetime" Str [] "" [] Live("kernel clock at the hook") "Date and time of the event with nanoseconds, in UTC.";
    EvtDatetimeS "evt.datetime.s" Str [] "" [] Live("kernel clock at the hook") "Date and time of the event without its fraction, in UTC.";
    EvtRawtime "evt.rawtime" AbsTime [] "ns" [] Live("kernel clock at the hook") "Moment of the event.";
    EvtRawtimeS "evt.rawtime.s" Uint [] "s" [] Live("kernel clock at the hook") "Whole seconds of the event's moment.";
    EvtRawtimeNs "evt.rawtime.ns" Uint [] "ns" [] Live("kernel clock at the hook") "Nanoseconds within the second of the event's moment.";
    EvtReltime "evt.reltime" RelTime [] "ns" [] Recorded("describes a capture, which a live agent does not keep") "Time since the beginning of the capture.";
    EvtReltimeS "evt.reltime.s" RelTime [] "s" [] Recorded("describes a capture, which a live agent does not keep") "Whole seconds since the beginning of the capture.";
    EvtReltimeNs "evt.reltime.ns" RelTime [] "ns" [] Recorded("describes a capture, which a live agent does not keep") "Nanoseconds within the second since the beginning of the capture.";
    EvtPluginname "evt.pluginname" Str [] "" [] Recorded("Saker has no plugins") "Name of the plugin that produced the event.";
    EvtPlugininfo "evt.plugininfo" Str [] "" [] Recorded("Saker has no plugins") "The producing plugin's own summary of the event.";
    EvtSource "evt.source" Str [] "" [] Live("always `syscall`") "Source of the event.";
    EvtIsAsync "evt.is_async" Bool [] "" [] Live("always false") "Whether the event was injected by a plugin.";
    EvtAsynctype "evt.asynctype" Str [] "" [] Recorded("Saker has no plugins") "Name of an event that a plugin injected.";
    EvtHostname "evt.hostname" Str [] "" [] Live("gethostname, or the node name from the configuration") "Name of the host.";
    EvtLatency "evt.latency" RelTime [] "ns" [] Recorded("needs the entry of every system call beside its return") "Time between a call's entry and return. Deprecated by Falco.";
    EvtLatencyS "evt.latency.s" RelTime [] "s" [] Recorded("needs the entry of every system call beside its return") "Whole seconds of the latency. Deprecated by Falco.";
    EvtLatencyNs "evt.latency.ns" RelTime [] "ns" [] Recorded("needs the entry of every system call beside its return") "Nanoseconds within the second of the latency. Deprecated by Falco.";
    EvtLatencyQuantized "evt.latency.quantized" Uint [] "" [] Recorded("needs the entry of every system call beside its return") "Decimal logarithm of the latency. Deprecated by Falco.";
    EvtLatencyHuman "evt.latency.human" Str [] "" [] Recorded("needs the entry of every system call beside its return") "The latency in words. Deprecated by Falco.";
    EvtDeltatime "evt.deltatime" RelTime [] "ns" [] Recorded("the order of events from several processors makes the distance to the previous event meaningless") "Time since the previous event.";
    EvtDeltatimeS "evt.deltatime.s" RelTime [] "s" [] Recorded("the order of events from several processors makes the distance to the previous event meaningless") "Whole seconds since the previous event.";
    EvtDeltatimeNs "evt.deltatime.ns" RelTime [] "ns" [] Recorded("the order of events from several processors makes the distance to the previous event meaningless") "Nanoseconds within the second since the previous event.";
    EvtOutputtime "evt.outputtime" Str [] "" [] Recorded("belongs to Falco's command line") "Time as another tool prints it.";
    EvtDir "evt.dir" Str [] "" [] Recorded("every event stands for a call that returned; deprecated by Falco") "`>` for a call's entry, `<` for its return. Deprecated by Falco.";
    EvtType "evt.type" Str [] "" [] Live("the hook that fired") "The event's kind: a system call's name, or one of Saker's own kinds.";
    EvtTypeIs "evt.type.is" Uint [Key] "" [] Recorded("use evt.type") "1 where the event is of the kind that the argument names, else 0.";
    SyscallType "syscall.type" Str [] "" [] Live("the hook that fired") "The system call's name; absent where the event is not a system call.";
    EvtCategory "evt.category" Str [] "" [] Live("fixed by the event's kind") "Category of the event, such as `file`, `net` or `process`.";
    EvtCpu "evt.cpu" Int [] "" [] Live("processor that ran the hook") "Number of the processor that saw the event.";
    EvtArgs "evt.args" Str [] "" [] Recorded("arguments are not joined to one text; evt.arg gives each") "All arguments of the event in one string.";
    EvtArg "evt.arg" Str [IndexOrKey] "" [] Live("the event's own record") "One argument of the event as text, by name or number: `evt.arg.flags`, `evt.arg[0]`.";
    EvtRawarg "evt.rawarg" Uint [IndexOrKey] "" [] Recorded("arguments are supplied as text, by evt.arg") "One argument of the event as it was passed, by name. Its type depends on the name.";
    EvtInfo "evt.info" Str [] "" [] Recorded("arguments are not joined to one text; evt.arg gives each") "The same as evt.args.";
    EvtBuffer "evt.buffer" Bytes [] "" [] Recorded("data that calls move is not copied out of the kernel") "Data that a reading or writing call moved.";
    EvtBuflen "evt.buflen" Uint [] "bytes" [] Recorded("data that calls move is not copied out of the kernel") "Length of the data that a call moved.";
    EvtRes "evt.res" Str [] "" [] Live("the call's return value in the kernel") "`SUCCESS`, or the name of the error, such as `ENOENT`. `EINPROGRESS` for a connection attempt.";
    EvtRawres "evt.rawres" Int [] "" [] Live("the call's return value in the kernel") "Return value; errors are negative.";
    EvtFailed "evt.failed" Bool [] "" [] Live("the call's return value in the kernel") "Whether the call failed.";
    EvtIsIo "evt.is_io" Bool [] "" [] Live("fixed by the event's kind") "Whether the call reads or writes.";
    EvtIsIoRead "evt.is_io_read" Bool [] "" [] Live("fixed by the event's kind") "Whether the call reads.";
    EvtIsIoWrite "evt.is_io_write" Bool [] "" [] Live("fixed by the event's kind") "Whether the call writes.";
    EvtIoDir "evt.io_dir" Str [] "" [] Recorded("no traced kind reads or writes") "`r` for calls that read, `w` for calls that write.";
    EvtIsWait "evt.is_wait" Bool [] "" [] Live("fixed by the event's kind") "Whether the call makes the thread wait.";
    EvtWaitLatency "evt.wait_latency" RelTime [] "ns" [] Recorded("needs the entry of every system call beside its return") "Time that a waiting call waited. Deprecated by Falco.";
    EvtIsSyslog "evt.is_syslog" Bool [] "" [] Live("fixed by the event's kind") "Whether the event writes to /dev/log.";
    EvtCount "evt.count" Uint [] "" [] Live("always 1") "Always 1.";
    EvtCountError "evt.count.error" Uint [] "" [] Recorded("made for tables; use evt.failed") "1 where the call failed.";
    EvtCountErrorFile "evt.count.error.file" Uint [] "" [] Recorded("made for tables; use evt.failed") "1 where a call on files failed.";
    EvtCountErrorNet "evt.count.error.net" Uint [] "" [] Recorded("made for tables; use evt.failed") "1 where a call on sockets failed.";
    EvtCountErrorMemory "evt.count.error.memory" Uint [] "" [] Recorded("made for tables; use evt.failed") "1 where a call on memory failed.";
    EvtCountErrorOther "evt.count.error.other" Uint [] "" [] Recorded("made for tables; use evt.failed") "1 where any other call failed.";
    EvtCountExit "evt.count.exit" Uint [] "" [] Recorded("made for tables") "1 for a call's return.";
    EvtCountProcinfo "evt.count.procinfo" Uint [] "" [] Recorded("made for tables") "1 for the state of a process.";
    EvtCountThreadinfo "evt.count.threadinfo" Uint [] "" [] Recorded("made for tables") "1 for the state of a thread.";
    EvtAround "evt.around" Uint [Index] "" [] Recorded("describes a capture, which a live agent does not keep") "Whether the event lies within so many milliseconds of the moment in brackets.";
    EvtAbspath "evt.abspath" Str [OptionalKey] "" ["open", "openat", "openat2"] Live("path as passed to the call, made absolute by the working directory") "Absolute path that the call names; `evt.abspath.src` and `evt.abspath.dst` where it names two.";
    EvtBuflenIn "evt.buflen.in" Uint [] "bytes" [] Recorded("data that calls move is not copied out of the kernel") "Length of the data moved, where it is `in`.";
    EvtBuflenOut "evt.buflen.out" Uint [] "bytes" [] Recorded("data that calls move is not copied out of the kernel") "Length of the data moved, where it is `out`.";
    EvtBuflenFile "evt.buflen.file" Uint [] "bytes" [] Recorded("data that calls move is not copied out of the kernel") "Length of the data moved, where it is `file`.";
    EvtBuflenFileIn "evt.buflen.file.in" Uint [] "bytes" [] Recorded("data that calls move is not copied out of the kernel") "Length of the data moved, where it is `file.in`.";
    EvtBuflenFileOut "evt.buflen.file.out" Uint [] "bytes" [] Recorded("data that calls move is not copied out of the kernel") "Length of the data moved, where it is `file.out`.";
    EvtBuflenNet "evt.buflen.net" Uint [] "bytes" [] Recorded("data that calls move is not copied out of the kernel") "Length of the data moved, where it is `net`.";
    EvtBuflenNetIn "evt.buflen.net.in" Uint [] "bytes" [] Recorded("data that calls move is not copied out of the kernel") "Length of the data moved, where it is `net.in`.";
    EvtBuflenNetOut "evt.buflen.net.out" Uint [] "bytes" [] Recorded("data that calls move is not copied out of the kernel") "Length of the data moved, where it is `net.out`.";
    EvtIsOpenRead "evt.is_open_read" Bool [] "" [] Live("open flags in the kernel") "Whether a file was opened for reading.";
    EvtIsOpenWrite "evt.is_open_write" Bool [] "" [] Live("open flags in the kernel") "Whether a file was opened for writing.";
    EvtIsOpenExec "evt.is_open_exec" Bool [] "" [] Live("open flags and mode in the kernel") "Whether a file was created with execute permission.";
    EvtIsOpenCreate "evt.is_open_create" Bool [] "" [] Live("open flags in the kernel") "Whether a file was created.";
    EvtInfraDockerName "evt.infra.docker.name" Str [] "" [] Recorded("Saker takes containers from the runtime, not from its events") "Name of an event of the container runtime. Made for tables.";
    EvtInfraDockerContainerId "evt.infra.docker.container.id" Str [] "" [] Recorded("Saker takes containers from the runtime, not from its events") "Id of the container of such an event. Made for tables.";
    EvtInfraDockerContainerName "evt.infra.docker.container.name" Str [] "" [] Recorded("Saker takes containers from the runtime, not from its events") "Name of the container of such an event. Made for tables.";
    EvtInfraDockerContainerImage "evt.infra.docker.container.image" Str [] "" [] Recorded("Saker takes containers from the runtime, not from its events") "Image of the container of such an event. Made for tables.";
    ProcExe "proc.exe" Str [] "" [] Live("recorded at exec in the kernel") "First argument (argv[0]), which the program that starts a process chooses.";
    ProcPexe "proc.pexe" Str [] "" [] Live("process table") "The parent's proc.exe.";
    ProcAexe "proc.aexe" Str [OptionalIndex] "" [] Live("process table") "The proc.exe of the ancestor in brackets (0 is the process itself); without brackets any ancestor.";
    ProcExepath "proc.exepath" Path [] "" [] Live("path of the executable's inode, resolved at exec") "Path of the executable, symbolic links resolved.";
    ProcPexepath "proc.pexepath" Path [] "" [] Live("process table") "The parent's proc.exepath.";
    ProcAexepath "proc.aexepath" Path [OptionalIndex] "" [] Live("process table") "The proc.exepath of the ancestor in brackets (0 is the process itself); without brackets any ancestor.";
    ProcName "proc.name" Str [] "" [] Live("task comm, set by the kernel at exec") "Name of the process, at most 15 bytes.";
    ProcPname "proc.pname" Str [] "" [] Live("process table") "The parent's proc.name.";
    ProcAname "proc.aname" Str [OptionalIndex] "" [] Live("process table") "The proc.name of the ancestor in brackets (0 is the process itself); without brackets any ancestor.";
    ProcArgs "proc.args" Str [] "" [] Live("recorded at exec in the kernel") "Arguments without argv[0], separated by blanks; cut at 4095 bytes, see proc.args.truncated.";
    ProcCmdline "proc.cmdline" Str [] "" [] Live("recorded at exec in the kernel") "proc.name and proc.args; cut at 4095 bytes of arguments, see proc.args.truncated.";
    ProcPcmdline "proc.pcmdline" Str [] "" [] Live("process table") "The parent's proc.cmdline.";
    ProcAcmdline "proc.acmdline" Str [OptionalIndex] "" [] Live("process table") "The proc.cmdline of the ancestor in brackets (0 is the process itself); without brackets any ancestor.";
    ProcArgsTruncated "proc.args.truncated" Bool [] "" [] Live("recorded at exec in the kernel") "Whether arguments are missing from proc.args and proc.cmdline because there were more than 4095 bytes, or they could not be read. Padding hides what a rule looks for; this shows the padding.";
    ProcArgsHosts "proc.args.hosts" Str "list" [] "" [] Live("proc.args") "Hosts that the arguments name: of URLs, of `user@host:path` and of `host:/path`; of `s3://bucket/key` the bucket. As written, without user and port; absent where there are none. `in` holds if all of them are in the list. Not in Falco.";
    ProcEnvTruncated "proc.env.truncated" Bool [] "" [] Live("recorded at exec in the kernel") "Whether recorded variables may be missing from proc.env, or cut: a value over 1023 bytes, more than 4095 bytes together, or more than 320 variables.";
    ProcExecHistory "proc.exec_history" Path "list" [] "" [] Live("process table") "Executables that the process ran before its current one, the latest first, at most 4. The first is what it was forked as.";
    ProcAargs "proc.aargs" Str [OptionalIndex] "" [] Live("process table") "The proc.args of the ancestor in brackets; without brackets any ancestor.";
    ProcCmdnargs "proc.cmdnargs" Uint [] "" [] Live("recorded at exec in the kernel") "Number of arguments, argv[0] not counted.";
    ProcCmdlenargs "proc.cmdlenargs" Uint [] "bytes" [] Live("recorded at exec in the kernel") "Length of all arguments together, without blanks and argv[0].";
    ProcExeline "proc.exeline" Str [] "" [] Live("recorded at exec in the kernel") "proc.exe and proc.args.";
    ProcEnv "proc.env" Str [OptionalKey] "" [] Live("read in the kernel at exec; for processes from before the agent's start, /proc/PID/environ") "Recorded environment variables as `NAME=value NAME=value`; with a name in brackets that variable's value, absent where it is not set. Recorded are those of `sensor.environment` and those that rules name.";
    ProcAenv "proc.aenv" Str [OptionalIndexOrKey] "" [] Live("process table") "With a number, proc.env of that ancestor; with a variable's name, its value in the nearest ancestor that has it.";
    ProcCwd "proc.cwd" Path [] "" [] Live("fs_struct in the kernel at exec") "Working directory, with a slash at its end.";
    ProcLoginshellid "proc.loginshellid" Int [] "" [] Live("process table") "Process id of the oldest shell among the process and its ancestors; a name that ends in `sh` is a shell.";
    ProcTty "proc.tty" Uint [] "" [] Live("signal_struct in the kernel") "Number of the controlling terminal; 0 without one.";
    ProcPid "proc.pid" Int [] "" [] Live("kernel tgid") "Process id in the root namespace.";
    ProcPpid "proc.ppid" Int [] "" [] Live("process table") "Process id of the parent at the moment of the event: after the parent's end that of init or a subreaper. proc.pname and the ancestors stay those who started the process for as long as they are remembered.";
    ProcApid "proc.apid" Int [OptionalIndex] "" [] Live("process table") "Process id of the ancestor in brackets (0 is the process itself); without brackets any ancestor.";
    ProcVpid "proc.vpid" Int [] "" [] Live("pid namespace in the kernel") "Process id inside its own pid namespace.";
    ProcPvpid "proc.pvpid" Int [] "" [] Live("process table") "The parent's process id inside the parent's pid namespace.";
    ProcSid "proc.sid" Int [] "" [] Live("signal_struct in the kernel") "Session id: the pid of its leader, as of the last exec or fork.";
    ProcSname "proc.sname" Str [] "" [] Live("process table, by proc.sid") "Name of the session leader.";
    ProcSidExe "proc.sid.exe" Str [] "" [] Live("process table, by proc.sid") "argv[0] of the session leader.";
    ProcSidExepath "proc.sid.exepath" Path [] "" [] Live("process table, by proc.sid") "Executable of the session leader.";
    ProcVpgid "proc.vpgid" Int [] "" [] Live("signal_struct in the kernel at exec or fork") "Process group id inside the pid namespace, as of the last exec or fork; absent where the group is from outside of it.";
    ProcVpgidName "proc.vpgid.name" Str [] "" [] Live("process table, by process group") "Name of the process group's leader.";
    ProcVpgidExe "proc.vpgid.exe" Str [] "" [] Live("process table, by process group") "argv[0] of the process group's leader.";
    ProcVpgidExepath "proc.vpgid.exepath" Path [] "" [] Live("process table, by process group") "Executable of the process group's leader.";
    ProcIsVpgidLeader "proc.is_vpgid_leader" Bool [] "" [] Live("signal_struct in the kernel at exec or fork") "Whether the process leads its process group.";
    ProcPgid "proc.pgid" Int [] "" [] Live("signal_struct in the kernel at exec or fork") "Process group id, as of the last exec or fork.";
    ProcPgidName "proc.pgid.name" Str [] "" [] Live("process table, by process group") "Name of the process group's leader.";
    ProcPgidExe "proc.pgid.exe" Str [] "" [] Live("process table, by process group") "argv[0] of the process group's leader.";
    ProcPgidExepath "proc.pgid.exepath" Path [] "" [] Live("process table, by process group") "Executable of the process group's leader.";
    ProcIsPgidLeader "proc.is_pgid_leader" Bool [] "" [] Live("signal_struct in the kernel at exec or fork") "Whether the process leads its process group.";
    ProcIsSidLeader "proc.is_sid_leader" Bool [] "" [] Live("signal_struct in the kernel at exec or fork") "Whether the process leads its session.";
    ProcDuration "proc.duration" RelTime [] "ns" [] Live("process table") "Age of the process.";
    ProcPpidDuration "proc.ppid.duration" RelTime [] "ns" [] Live("process table") "Age of the parent.";
    ProcPidTs "proc.pid.ts" RelTime [] "ns" [] Live("start time in the kernel") "Moment at which the process started, since the Unix epoch.";
    ProcPpidTs "proc.ppid.ts" RelTime [] "ns" [] Live("process table") "Moment at which the parent started, since the Unix epoch.";
    ProcIsExeWritable "proc.is_exe_writable" Bool [] "" [] Live("inode of the executable and the process's credentials, in the kernel at exec") "Whether the user who started the process may write its executable: as its owner, by a capability, or by its permissions. Supplementary groups and access control lists are not looked at.";
    ProcIsExeUpperLayer "proc.is_exe_upper_layer" Bool [] "" [] Live("inode of the executable in overlayfs, in the kernel at exec") "Whether the executable was added to the container after its image.";
    ProcIsExeLowerLayer "proc.is_exe_lower_layer" Bool [] "" [] Live("inode of the executable in overlayfs, in the kernel at exec") "Whether the executable comes from the container's image.";
    ProcIsExeFromMemfd "proc.is_exe_from_memfd" Bool [] "" [] Live("inode of the executable at exec") "Whether the executable exists in memory only.";
    ProcExeIno "proc.exe_ino" Int [] "" [] Live("inode of the executable, in the kernel at exec") "Inode number of the executable.";
    ProcExeInoCtime "proc.exe_ino.ctime" AbsTime [] "ns" [] Live("inode of the executable, in the kernel at exec") "Last change of the executable's inode.";
    ProcExeInoMtime "proc.exe_ino.mtime" AbsTime [] "ns" [] Live("inode of the executable, in the kernel at exec") "Last change of the executable's contents.";
    ProcExeInoCtimeDurationProcStart "proc.exe_ino.ctime_duration_proc_start" AbsTime [] "ns" [] Live("inode of the executable, in the kernel at exec") "Time from the inode's last change to the start of the process.";
    ProcExeInoCtimeDurationPidnsStart "proc.exe_ino.ctime_duration_pidns_start" AbsTime [] "ns" [] Live("inode of the executable and pid namespace, in the kernel at exec") "Time from the start of the pid namespace to the inode's last change.";
    ProcPidnsInitStartTs "proc.pidns_init_start_ts" Uint [] "ns" [] Live("pid namespace in the kernel at exec") "Start of the pid namespace's first process, since the Unix epoch.";
    ThreadCapPermitted "thread.cap_permitted" Str [] "" [] Live("credentials in the kernel at exec") "Permitted capabilities, separated by blanks.";
    ThreadCapInheritable "thread.cap_inheritable" Str [] "" [] Live("credentials in the kernel at exec") "Inheritable capabilities, separated by blanks.";
    ThreadCapEffective "thread.cap_effective" Str [] "" [] Live("credentials in the kernel at exec") "Effective capabilities, separated by blanks.";
    ProcFdopencount "proc.fdopencount" Uint [] "" [] Live("/proc/PID/fd when asked") "Number of open file descriptors.";
    ProcFdlimit "proc.fdlimit" Int [] "" [] Live("/proc/PID/limits when asked") "Limit on open file descriptors.";
    ProcFdusage "proc.fdusage" Double [] "percent" [] Live("/proc/PID/fd and limits when asked") "Open file descriptors as a share of the limit.";
    ProcStdinType "proc.stdin.type" Str [] "" [] Live("/proc/PID/fd when asked") "Type of the file behind stdin.";
    ProcStdinName "proc.stdin.name" Str [] "" [] Live("/proc/PID/fd when asked") "Name of the file behind stdin.";
    ProcStdoutType "proc.stdout.type" Str [] "" [] Live("/proc/PID/fd when asked") "Type of the file behind stdout.";
    ProcStdoutName "proc.stdout.name" Str [] "" [] Live("/proc/PID/fd when asked") "Name of the file behind stdout.";
    ProcStderrType "proc.stderr.type" Str [] "" [] Live("/proc/PID/fd when asked") "Type of the file behind stderr.";
    ProcStderrName "proc.stderr.name" Str [] "" [] Live("/proc/PID/fd when asked") "Name of the file behind stderr.";
    ProcVmsize "proc.vmsize" Uint [] "KiB" [] Live("/proc/PID/status when asked") "Virtual memory.";
    ProcVmrss "proc.vmrss" Uint [] "KiB" [] Live("/proc/PID/status when asked") "Resident memory.";
    ProcVmswap "proc.vmswap" Uint [] "KiB" [] Live("/proc/PID/status when asked") "Swapped memory.";
    ThreadPfmajor "thread.pfmajor" Uint [] "" [] Live("/proc/PID/task/TID/stat when asked") "Major page faults.";
    ThreadPfminor "thread.pfminor" Uint [] "" [] Live("/proc/PID/task/TID/stat when asked") "Minor page faults.";
    ThreadTid "thread.tid" Int [] "" [] Live("kernel tid") "Thread id in the root namespace.";
    ThreadIsmain "thread.ismain" Bool [] "" [] Live("kernel tid and tgid") "Whether the thread is its process's first.";
    ThreadVtid "thread.vtid" Int [] "" [] Live("pid namespace in the kernel") "Thread id inside its own pid namespace; for a process's first thread only.";
    ThreadNametid "thread.nametid" Str [] "" [] Live("task comm and tid") "Name and thread id, joined.";
    ThreadExectime "thread.exectime" RelTime [] "ns" [] Recorded("changes whenever the processor is given to another thread, which is not traced") "Processor time of the last slice.";
    ThreadTotexectime "thread.totexectime" RelTime [] "ns" [] Live("/proc/PID/task/TID/schedstat when asked") "Processor time in all.";
    ThreadCgroups "thread.cgroups" Str [] "" [] Live("/proc/PID/task/TID/cgroup when asked") "Control groups of the thread.";
    ThreadCgroup "thread.cgroup" Str [Key] "" [] Live("/proc/PID/task/TID/cgroup when asked") "The thread's group in the named controller: `thread.cgroup.cpu`.";
    ProcNthreads "proc.nthreads" Uint [] "" [] Live("/proc/PID/status when asked") "Number of threads.";
    ProcNchilds "proc.nchilds" Uint [] "" [] Live("/proc/PID/status when asked") "Number of child threads.";
    ThreadCpu "thread.cpu" Double [] "percent" [] Recorded("would have to be sampled all the time") "Processor use in the last second.";
    ThreadCpuUser "thread.cpu.user" Double [] "percent" [] Recorded("would have to be sampled all the time") "Processor use in user mode in the last second.";
    ThreadCpuSystem "thread.cpu.system" Double [] "percent" [] Recorded("would have to be sampled all the time") "Processor use in the kernel in the last second.";
    ThreadVmsize "thread.vmsize" Uint [] "KiB" [] Live("/proc/PID/status when asked") "Virtual memory, for a process's first thread.";
    ThreadVmrss "thread.vmrss" Uint [] "KiB" [] Live("/proc/PID/status when asked") "Resident memory, for a process's first thread.";
    ThreadVmsizeB "thread.vmsize.b" Uint [] "bytes" [] Live("/proc/PID/status when asked") "Virtual memory, for a process's first thread.";
    ThreadVmrssB "thread.vmrss.b" Uint [] "bytes" [] Live("/proc/PID/status when asked") "Resident memory, for a process's first thread.";
    ProcLineage "proc.lineage" Uint "list" [] "" [] Live("process table") "Unique keys of the process and its ancestors, its own first. Unlike process ids they are never reused.";
    UserUid "user.uid" Uint [] "" [] Live("credentials in the kernel") "Effective user id as the host counts, also for a process in a user namespace.";
    UserName "user.name" Str [] "" [] Live("/etc/passwd of the host, or the container's own") "Name of the effective user: in a container what the container's own /etc/passwd calls the id that the user has inside; absent where the id has none.";
    UserHomedir "user.homedir" Str [] "" [] Live("/etc/passwd of the host, or the container's own") "Home directory.";
    UserShell "user.shell" Str [] "" [] Live("/etc/passwd of the host, or the container's own") "Login shell.";
    UserLoginuid "user.loginuid" Int [] "" [] Live("audit context in the kernel") "User id at login, kept across su and sudo; -1 where nobody logged in.";
    UserLoginname "user.loginname" Str [] "" [] Live("the user database of the host") "Name of user.loginuid; absent where the id has none.";
    GroupGid "group.gid" Uint [] "" [] Live("credentials in the kernel") "Effective group id as the host counts, also for a process in a user namespace.";
    GroupName "group.name" Str [] "" [] Live("/etc/group of the host, or the container's own") "Name of the effective group: in a container what the container's own /etc/group calls the id that the group has inside; absent where the id has none.";
    ContainerId "container.id" Str [] "" [] Live("cgroup of the process") "First twelve characters of the container's id; `host` outside containers.";
    ContainerFullId "container.full_id" Str [] "" [] Live("cgroup of the process") "The container's whole id.";
    ContainerName "container.name" Str [] "" [] Live("container runtime (CRI or Docker)") "Name of the container; `host` outside containers.";
    ContainerImage "container.image" Str [] "" [] Live("container runtime (CRI or Docker)") "Image as the container names it.";
    ContainerImageId "container.image.id" Str [] "" [] Live("container runtime (CRI or Docker)") "Id of the image: the digest of its configuration, without `sha256:`.";
    ContainerType "container.type" Str [] "" [] Live("container runtime (CRI or Docker)") "Type of the runtime, such as `docker` or `containerd`; `host` outside containers.";
    ContainerPrivileged "container.privileged" Bool [] "" [] Live("container runtime (CRI: verbose status; Docker)") "Whether the container is privileged.";
    ContainerReadOnly "container.read_only" Bool [] "" [] Live("container runtime (CRI: the OCI specification in the verbose status; Docker)") "Whether the container cannot write to its root file system. Not in Falco.";
    ContainerMounts "container.mounts" Str [] "" [] Live("container runtime (CRI or Docker)") "Mounts, as source:destination:mode:writable:propagation, separated by commas.";
    ContainerMount "container.mount" Str [IndexOrKey] "" [] Live("container runtime (CRI or Docker)") "One mount, by number or by a glob over its source.";
    ContainerMountSource "container.mount.source" Str [IndexOrKey] "" [] Live("container runtime (CRI or Docker)") "The source of one mount, by number or by a glob over its other end.";
    ContainerMountDest "container.mount.dest" Str [IndexOrKey] "" [] Live("container runtime (CRI or Docker)") "The dest of one mount, by number or by a glob over its other end.";
    ContainerMountMode "container.mount.mode" Str [IndexOrKey] "" [] Live("container runtime (CRI or Docker)") "The mode of one mount, by number or by a glob over its other end.";
    ContainerMountRdwr "container.mount.rdwr" Str [IndexOrKey] "" [] Live("container runtime (CRI or Docker)") "The rdwr of one mount, by number or by a glob over its other end.";
    ContainerMountPropagation "container.mount.propagation" Str [IndexOrKey] "" [] Live("container runtime (CRI or Docker)") "The propagation of one mount, by number or by a glob over its other end.";
    ContainerImageRepository "container.image.repository" Str [] "" [] Live("container runtime (CRI or Docker)") "Image without tag and digest.";
    ContainerImageTag "container.image.tag" Str [] "" [] Live("container runtime (CRI or Docker)") "Tag of the image.";
    ContainerImageDigest "container.image.digest" Str [] "" [] Live("container runtime (CRI: ImageStatus; Docker)") "Digest of the image.";
    ContainerHealthcheck "container.healthcheck" Str [] "" [] Live("Docker; CRI has no health checks") "Command of the health check.";
    ContainerLivenessProbe "container.liveness_probe" Str [] "" [] Recorded("belongs to the pod's specification, which only the Kubernetes API has") "Command of the liveness probe.";
    ContainerReadinessProbe "container.readiness_probe" Str [] "" [] Recorded("belongs to the pod's specification, which only the Kubernetes API has") "Command of the readiness probe.";
    ContainerStartTs "container.start_ts" AbsTime [] "ns" [] Live("container runtime (CRI or Docker); its creation until the runtime knows its start") "Start of the container.";
    ContainerDuration "container.duration" RelTime [] "ns" [] Live("kernel clock at the hook, less container.start_ts") "Age of the container.";
    ContainerIp "container.ip" Str [] "" [] Live("container runtime (CRI: the pod's sandbox; Docker)") "Address of the container.";
    ContainerCniJson "container.cni.json" Str [] "" [] Live("CRI, verbose status of the sandbox (containerd)") "The container's network results as JSON.";
    ContainerHostPid "container.host_pid" Bool [] "" [] Live("container runtime (CRI or Docker)") "Whether the container shares the host's pid namespace.";
    ContainerHostNetwork "container.host_network" Bool [] "" [] Live("container runtime (CRI or Docker)") "Whether the container shares the host's network.";
    ContainerHostIpc "container.host_ipc" Bool [] "" [] Live("container runtime (CRI or Docker)") "Whether the container shares the host's IPC namespace.";
    ContainerLabel "container.label" Str [Key] "" [] Live("container runtime (CRI or Docker)") "One label of the container.";
    ContainerLabels "container.labels" Str [] "" [] Live("container runtime (CRI or Docker)") "All labels of the container.";
    ContainerUser "container.user" Str [] "" [] Live("container runtime (CRI or Docker)") "User that the container was started as: `uid:gid`, or as Docker was told. Not in Falco.";
    ContainerGpus "container.gpus" Str "list" [] "" [] Live("container runtime: devices of the OCI specification, CDI names, NVIDIA_VISIBLE_DEVICES, Docker's device requests") "GPUs that the container was given: device nodes (`/dev/nvidia0`) and CDI names (`nvidia.com/gpu=0`). Not in Falco.";
    ContainerIncomplete "container.incomplete" Bool [] "" [] Live("the agent: no answer of the container's runtime in time, or it exceeded a bound") "Whether fields of the container are missing that could have been known. False on the host. Not in Falco.";
    ProcIsContainerHealthcheck "proc.is_container_healthcheck" Bool [] "" [] Recorded("needs the container runtime; not joined yet") "Whether the process is part of the container's healthcheck.";
    ProcIsContainerLivenessProbe "proc.is_container_liveness_probe" Bool [] "" [] Recorded("needs the container runtime; not joined yet") "Whether the process is part of the container's liveness probe.";
    ProcIsContainerReadinessProbe "proc.is_container_readiness_probe" Bool [] "" [] Recorded("needs the container runtime; not joined yet") "Whether the process is part of the container's readiness probe.";
    K8SPodName "k8s.pod.name" Str [] "" [] Live("CRI: the pod's sandbox; Docker: labels of cri-dockerd") "Name of the pod.";
    K8SPodId "k8s.pod.id" Str [] "" [] Live("CRI: the pod's sandbox; Docker: labels of cri-dockerd") "Legacy name of k8s.pod.uid.";
    K8SPodUid "k8s.pod.uid" Str [] "" [] Live("CRI: the pod's sandbox; Docker: labels of cri-dockerd") "Unique id of the pod.";
    K8SPodSandboxId "k8s.pod.sandbox_id" Str [] "" [] Live("CRI: the pod's sandbox; Docker: labels of cri-dockerd") "Id of the pod's sandbox, first twelve characters.";
    K8SPodFullSandboxId "k8s.pod.full_sandbox_id" Str [] "" [] Live("CRI: the pod's sandbox; Docker: labels of cri-dockerd") "Whole id of the pod's sandbox.";
    K8SPodLabels "k8s.pod.labels" Str [] "" [] Live("CRI: the pod's sandbox; Docker: labels of cri-dockerd") "All labels of the pod.";
    K8SPodIp "k8s.pod.ip" Str [] "" [] Live("CRI: the pod's sandbox; Docker: labels of cri-dockerd") "Address of the pod; absent where it uses the host's.";
    K8SPodCniJson "k8s.pod.cni.json" Str [] "" [] Live("CRI, verbose status of the sandbox (containerd)") "The pod's network results as JSON.";
    K8SNsName "k8s.ns.name" Str [] "" [] Live("CRI: the pod's sandbox; Docker: labels of cri-dockerd") "Namespace of the pod.";
    K8sPodLabel "k8s.pod.label" Str [Key] "" [] Live("CRI: the pod's sandbox; Docker: labels of cri-dockerd") "One label of the pod.";
    K8sPodAnnotation "k8s.pod.annotation" Str [Key] "" [] Live("CRI: the pod's sandbox") "One annotation of the pod. Not in Falco.";
    K8sNsId "k8s.ns.id" Str [] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "Id of the namespace. Legacy.";
    K8sNsLabel "k8s.ns.label" Str [Key] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "One label of the namespace. Legacy.";
    K8sNsLabels "k8s.ns.labels" Str [] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "All labels of the namespace. Legacy.";
    K8sRcName "k8s.rc.name" Str [] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "Name of the replication controller. Legacy.";
    K8sRcId "k8s.rc.id" Str [] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "Id of the replication controller. Legacy.";
    K8sRcLabel "k8s.rc.label" Str [Key] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "One label of the replication controller. Legacy.";
    K8sRcLabels "k8s.rc.labels" Str [] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "All labels of the replication controller. Legacy.";
    K8sSvcName "k8s.svc.name" Str [] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "Name of the service. Legacy.";
    K8sSvcId "k8s.svc.id" Str [] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "Id of the service. Legacy.";
    K8sSvcLabel "k8s.svc.label" Str [Key] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "One label of the service. Legacy.";
    K8sSvcLabels "k8s.svc.labels" Str [] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "All labels of the service. Legacy.";
    K8sRsName "k8s.rs.name" Str [] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "Name of the replica set. Legacy.";
    K8sRsId "k8s.rs.id" Str [] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "Id of the replica set. Legacy.";
    K8sRsLabel "k8s.rs.label" Str [Key] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "One label of the replica set. Legacy.";
    K8sRsLabels "k8s.rs.labels" Str [] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "All labels of the replica set. Legacy.";
    K8sDeploymentName "k8s.deployment.name" Str [] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "Name of the deployment. Legacy.";
    K8sDeploymentId "k8s.deployment.id" Str [] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "Id of the deployment. Legacy.";
    K8sDeploymentLabel "k8s.deployment.label" Str [Key] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "One label of the deployment. Legacy.";
    K8sDeploymentLabels "k8s.deployment.labels" Str [] "" [] Recorded("needs the Kubernetes API, which Saker does not use") "All labels of the deployment. Legacy.";
    FdNum "fd.num" Int [] "" ["open", "openat", "openat2", "device_open", "connect"] Live("the call's arguments and result") "Number of the file descriptor; negative where the call failed.";
    FdType "fd.type" Str [] "" ["open", "openat", "openat2", "device_open", "connect", "sendto", "dns", "tls"] Live("the hook that fired and the socket family") "`file`, `directory`, `ipv4`, `ipv6`, `unix`, `pipe` and so on.";
    FdTypechar "fd.typechar" Str [] "" ["open", "openat", "openat2", "device_open", "connect", "sendto", "dns", "tls"] Live("the hook that fired and the socket family") "Type in one character: `f` file, `4` and `6` sockets, `u` Unix socket, `p` pipe, `o` other.";
    FdName "fd.name" Path [] "" ["open", "openat", "openat2", "device_open", "pickle", "connect", "sendto", "dns", "tls"] Live("the kernel's own path of the opened file, walked from its descriptor (of a failed open the path as passed, made absolute); device numbers; addresses from the socket hook; of a pickle pickle.file") "Whole path of a file, or the remote end of a connection as `address:port`.";
    FdDirectory "fd.directory" Path [] "" ["open", "openat", "openat2", "device_open", "pickle"] Live("fd.name") "Directory of a file.";
    FdFilename "fd.filename" Path [] "" ["open", "openat", "openat2", "device_open", "pickle"] Live("fd.name") "Name of a file without its directory.";
    FdIp "fd.ip" Ip [] "" ["connect", "sendto", "dns", "tls"] Live("addresses from the socket hook") "Either end's address. `=` holds if one end does, `!=` if both do.";
    FdCip "fd.cip" Ip [] "" ["dns", "tls"] Live("the packet and its socket; the local end is not chosen yet when the hooks of other kinds run") "Client's address; absent until the connection has a local end.";
    FdSip "fd.sip" Ip [] "" ["connect", "sendto", "dns", "tls"] Live("addresses from the socket hook") "Server's address.";
    FdLip "fd.lip" Ip [] "" ["dns", "tls"] Live("the packet and its socket; the local end is not chosen yet when the hooks of other kinds run") "Local address; absent until the connection has a local end.";
    FdRip "fd.rip" Ip [] "" ["connect", "sendto", "dns", "tls"] Live("addresses from the socket hook") "Remote address.";
    FdPort "fd.port" Port [] "" ["connect", "sendto", "dns", "tls"] Live("addresses from the socket hook") "Either end's port. Comparisons hold if one end's does, `!=` if both do.";
    FdCport "fd.cport" Port [] "" ["dns", "tls"] Live("the packet and its socket; the local end is not chosen yet when the hooks of other kinds run") "Client's port; absent until the connection has a local end.";
    FdSport "fd.sport" Port [] "" ["connect", "sendto", "dns", "tls"] Live("addresses from the socket hook") "Server's port.";
    FdLport "fd.lport" Port [] "" ["dns", "tls"] Live("the packet and its socket; the local end is not chosen yet when the hooks of other kinds run") "Local port; absent until the connection has a local end.";
    FdRport "fd.rport" Port [] "" ["connect", "sendto", "dns", "tls"] Live("addresses from the socket hook") "Remote port.";
    FdL4proto "fd.l4proto" Str [] "" ["connect", "sendto", "dns", "tls"] Live("addresses from the socket hook") "`tcp`, `udp`, `icmp` or `raw`.";
    FdSockfamily "fd.sockfamily" Str [] "" ["connect", "sendto", "dns", "tls"] Live("addresses from the socket hook") "`ip` or `unix`.";
    FdIsServer "fd.is_server" Bool [] "" ["connect", "sendto", "dns", "tls"] Live("addresses from the socket hook") "Whether the process is the connection's server end.";
    FdUid "fd.uid" Str [] "" ["open", "openat", "openat2", "device_open", "connect"] Live("fd.num and thread.tid") "Identifier of the descriptor: thread id and number joined.";
    FdContainername "fd.containername" Str [] "" ["open", "openat", "openat2", "device_open", "connect"] Live("container.id and fd.name") "Container id and name joined.";
    FdContainerdirectory "fd.containerdirectory" Str [] "" ["open", "openat", "openat2", "device_open"] Live("container.id and fd.directory") "Container id and directory joined.";
    FdProto "fd.proto" Port [] "" ["connect"] Recorded("ports are not turned into service names") "Either end's protocol, as a port number or service name.";
    FdCproto "fd.cproto" Str [] "" ["connect"] Recorded("ports are not turned into service names") "Client's protocol by port, such as `https`.";
    FdSproto "fd.sproto" Str [] "" ["connect"] Recorded("ports are not turned into service names") "Server's protocol by port, such as `https`.";
    FdLproto "fd.lproto" Str [] "" ["connect"] Recorded("ports are not turned into service names") "Local end's protocol by port, such as `https`.";
    FdRproto "fd.rproto" Str [] "" ["connect"] Recorded("ports are not turned into service names") "Remote end's protocol by port, such as `https`.";
    FdNet "fd.net" Net [] "" ["connect", "sendto", "dns", "tls"] Live("addresses from the socket hook") "Either end's address, compared with networks.";
    FdCnet "fd.cnet" Net [] "" ["dns", "tls"] Live("the packet and its socket; the local end is not chosen yet when the hooks of other kinds run") "Client address, compared with networks.";
    FdSnet "fd.snet" Net [] "" ["connect", "sendto", "dns", "tls"] Live("addresses from the socket hook") "Server address, compared with networks.";
    FdLnet "fd.lnet" Net [] "" ["dns", "tls"] Live("the packet and its socket; the local end is not chosen yet when the hooks of other kinds run") "Local address, compared with networks.";
    FdRnet "fd.rnet" Net [] "" ["connect", "sendto", "dns", "tls"] Live("addresses from the socket hook") "Remote address, compared with networks.";
    FdConnected "fd.connected" Bool [] "" ["sendto"] Live("the hook that fired: it sees sockets that are not connected") "Whether a socket is connected.";
    FdNameChanged "fd.name_changed" Bool [] "" ["sendto"] Live("the hook that fired: it reports an address when a process first sends to it by a socket") "Whether the event changed the descriptor's name.";
    FdCipName "fd.cip.name" Str [] "" ["dns", "tls"] Live("the DNS answers that this container, or the host, was given: all names that led to the address, aliases included; see docs/network.md") "Domain names of the client address. `=` holds if one name does, `!=` if all do.";
    FdSipName "fd.sip.name" Str [] "" ["connect", "sendto", "dns", "tls"] Live("the DNS answers that this container, or the host, was given: all names that led to the address, aliases included; see docs/network.md") "Domain names of the server address. `=` holds if one name does, `!=` if all do.";
    FdLipName "fd.lip.name" Str [] "" ["dns", "tls"] Live("the DNS answers that this container, or the host, was given: all names that led to the address, aliases included; see docs/network.md") "Domain names of the local address. `=` holds if one name does, `!=` if all do.";
    FdRipName "fd.rip.name" Str [] "" ["connect", "sendto", "dns", "tls"] Live("the DNS answers that this container, or the host, was given: all names that led to the address, aliases included; see docs/network.md") "Domain names of the remote address. `=` holds if one name does, `!=` if all do.";
    FdDev "fd.dev" Int [] "" ["open", "openat", "openat2", "device_open"] Recorded("the file system's device is not read yet") "Device number of the file system that holds the file.";
    FdDevMajor "fd.dev.major" Int [] "" ["device_open", "open", "openat", "openat2", "creat"] Live("the device hook") "Major number of the opened accelerator.";
    FdDevMinor "fd.dev.minor" Int [] "" ["device_open", "open", "openat", "openat2", "creat"] Live("the device hook") "Minor number of the opened accelerator.";
    FdDevName "fd.dev.name" Str [] "" ["device_open", "open", "openat", "openat2", "creat"] Live("/proc/devices and the device hook") "Name of the opened accelerator by its numbers, such as `/dev/nvidia0`, whatever the path that was opened.";
    FdDevGiven "fd.dev.given" Bool [] "" ["device_open", "open", "openat", "openat2", "creat"] Live("fd.dev.name and container.gpus") "Whether the opened GPU is one that the container was given. Absent for nodes that all GPUs share, on the host, and where the runtime names GPUs by UUID or CDI name alone. Not in Falco.";
    FdIno "fd.ino" Int [] "" ["open", "openat", "openat2", "device_open"] Recorded("the opened inode is not read yet") "Inode number of the file.";
    FdNameraw "fd.nameraw" Str [] "" ["open", "openat", "openat2", "creat", "device_open"] Live("the call's arguments, or the kernel's copy of them") "Path as it was passed, not resolved.";
    FdTypes "fd.types" Str "list" [OptionalIndex] "" [] Recorded("file descriptor tables are not kept") "Types of all open descriptors, or of the one in brackets.";
    FsPathName "fs.path.name" Path [] "" [] Live("path as passed to the call, made absolute by the working directory") "For calls on the file system, the path that the call names, made absolute.";
    FsPathNameraw "fs.path.nameraw" Path [] "" [] Live("the call's arguments") "For calls on the file system, the path that the call names, as passed.";
    FsPathSource "fs.path.source" Path [] "" [] Recorded("calls with two paths are not traced yet") "For calls on the file system, the path that the call moves or links from, made absolute.";
    FsPathSourceraw "fs.path.sourceraw" Path [] "" [] Recorded("calls with two paths are not traced yet") "For calls on the file system, the path that the call moves or links from, as passed.";
    FsPathTarget "fs.path.target" Path [] "" [] Recorded("calls with two paths are not traced yet") "For calls on the file system, the path that the call moves or links to, made absolute.";
    FsPathTargetraw "fs.path.targetraw" Path [] "" [] Recorded("calls with two paths are not traced yet") "For calls on the file system, the path that the call moves or links to, as passed.";
    FdlistNums "fdlist.nums" Str [] "" [] Recorded("poll is not traced") "Numbers of all polled descriptors, separated by commas.";
    FdlistNames "fdlist.names" Str [] "" [] Recorded("poll is not traced") "Names of all polled descriptors, separated by commas.";
    FdlistCips "fdlist.cips" Str [] "" [] Recorded("poll is not traced") "Client addresses of all polled descriptors, separated by commas.";
    FdlistSips "fdlist.sips" Str [] "" [] Recorded("poll is not traced") "Server addresses of all polled descriptors, separated by commas.";
    FdlistCports "fdlist.cports" Str [] "" [] Recorded("poll is not traced") "Client ports of all polled descriptors, separated by commas.";
    FdlistSports "fdlist.sports" Str [] "" [] Recorded("poll is not traced") "Server ports of all polled descriptors, separated by commas.";
    PickleModule "pickle.module" Str [] "" ["pickle"] Live("second argument of CPython's audit event pickle.find_class, by a uprobe at its call") "Module of the global that an unpickler is about to resolve, as the pickle names it: Python 2 names are not mapped yet.";
    PickleName "pickle.name" Str [] "" ["pickle"] Live("third argument of CPython's audit event pickle.find_class, by a uprobe at its call") "Name of the global within its module; protocol 4 and later allow dots in it.";
    PickleGlobal "pickle.global" Str [] "" ["pickle"] Live("pickle.module and pickle.name") "Module and name, joined by a dot.";
    PickleComponent "pickle.component" Str "list" [] "" ["pickle"] Live("pickle.module and pickle.name") "Every part between the dots of module and name.";
    PickleDangerous "pickle.dangerous" Bool [] "" ["pickle"] Live("a table of names; see docs/pickle-detection.md") "Whether the global exists to run code or programs, or leads to one that does: no model needs it.";
    PickleClass "pickle.class" Str [] "" ["pickle"] Live("a table of names; see docs/pickle-detection.md") "What the global is for: `exec`, `import`, `network`, `file`, `indirect`, `unknown-module` or `ml-known`.";
    PickleTruncated "pickle.truncated" Bool [] "" ["pickle"] Live("pickle.module and pickle.name") "Whether module or name has more than 255 bytes; the rest is not shown.";
    PickleFile "pickle.file" Path [] "" ["pickle"] Live("the thread's last open of such a file, where opens are traced; else /proc/PID/fd when the event is read") "Model file that seems to be read: the last one, by its name, that the thread opened or the process has open. An inference. The same as fd.name of the event.";
    PythonVersion "python.version" Str [] "" ["pickle"] Live("the interpreter's file") "Version of the interpreter, such as `3.11`; with a `t` where it runs without the global lock.";
    PythonExe "python.exe" Path [] "" ["pickle"] Live("proc.exepath") "Path of the program that contains or loaded the interpreter.";
    DnsName "dns.name" Str [] "" ["dns"] Live("the answer's packet, at its way to the socket") "Name that was asked for: lower case, without the last dot; bytes that are no text as `\\DDD`.";
    DnsType "dns.type" Str [] "" ["dns"] Live("the answer's packet") "Type that was asked for, such as `A`, `AAAA` or `TXT`.";
    DnsRcode "dns.rcode" Str [] "" ["dns"] Live("the answer's packet") "How it ended: `NOERROR`, `NXDOMAIN`, `SERVFAIL` and so on.";
    DnsAnswers "dns.answers" Ip "list" [] "" ["dns"] Live("the answer's packet") "Addresses that the name leads to.";
    DnsNets "dns.nets" Net "list" [] "" ["dns"] Live("the answer's packet") "The same addresses, compared with networks.";
    DnsCnames "dns.cnames" Str "list" [] "" ["dns"] Live("the answer's packet") "Names that the name stands for, in the order of the chain.";
    DnsServer "dns.server" Ip [] "" ["dns"] Live("the answer's packet") "Address that the answer came from; the same as fd.sip.";
    DnsMalformed "dns.malformed" Bool [] "" ["dns"] Live("the answer's packet") "Whether something of the answer could not be read. What could be read counts.";
    TlsSni "tls.sni" Str [] "" ["tls"] Live("the client's first message, out of the packets that carry it") "Name of the server that the client asks for, in lower case; absent where it names none. With Encrypted Client Hello the provider's public name.";
    TlsAlpn "tls.alpn" Str "list" [] "" ["tls"] Live("the client's first message") "Protocols that the client offers for the content, such as `h2`.";
    TlsVersion "tls.version" Str [] "" ["tls"] Live("the client's first message") "Newest version that the client offers: `1.3`, `1.2`, `1.1`, `1.0` or `ssl3`.";
    TlsMalformed "tls.malformed" Bool [] "" ["tls"] Live("the client's first message") "Whether the connection begins like TLS and its first message could not be read to its end: cut in too many pieces, longer than 4,096 bytes, or nonsense.";
    GpuIndex "gpu.index" Uint [] "" ["gpu"] Live("NVML, every few seconds") "The driver's number of the GPU; an instance of a divided one has its card's.";
    GpuUuid "gpu.uuid" Str [] "" ["gpu"] Live("NVML, every few seconds") "Identity of the GPU or of the instance: `GPU-…` or `MIG-…`.";
    GpuName "gpu.name" Str [] "" ["gpu"] Live("NVML, every few seconds") "Name of the product.";
    GpuInstance "gpu.instance" Uint [] "" ["gpu"] Live("NVML, every few seconds") "Id of the instance, where the GPU is divided (MIG).";
    GpuHealth "gpu.health" Str [] "" ["gpu"] Live("NVML, every few seconds") "Whether the GPU answers: `answers`, `asleep`, `lost` or `refused`.";
    GpuUtil "gpu.util" Double [] "percent" ["gpu"] Live("NVML, every few seconds") "Time in which anything ran on the GPU. Not available for instances; see gpu.sm.";
    GpuMemUtil "gpu.mem.util" Double [] "percent" ["gpu"] Live("NVML, every few seconds") "Time in which the GPU's memory was read or written.";
    GpuMemUsed "gpu.mem.used" Uint [] "bytes" ["gpu"] Live("NVML, every few seconds") "Memory of the GPU in use.";
    GpuMemTotal "gpu.mem.total" Uint [] "bytes" ["gpu"] Live("NVML, every few seconds") "Memory of the GPU.";
    GpuPower "gpu.power" Double [] "watts" ["gpu"] Live("NVML, every few seconds") "Power that the GPU takes.";
    GpuPowerRatio "gpu.power.ratio" Double [] "percent" ["gpu"] Live("NVML, every few seconds") "The same as a share of its enforced cap.";
    GpuTemperature "gpu.temperature" Uint [] "degrees Celsius" ["gpu"] Live("NVML, every few seconds") "Temperature of the GPU.";
    GpuClockSm "gpu.clock.sm" Uint [] "MHz" ["gpu"] Live("NVML, every few seconds") "Clock of the multiprocessors.";
    GpuClockMem "gpu.clock.mem" Uint [] "MHz" ["gpu"] Live("NVML, every few seconds") "Clock of the memory.";
    GpuPcieRx "gpu.pcie.rx" Uint [] "bytes a second" ["gpu"] Live("NVML, every few seconds") "Traffic to the GPU over PCIe. Absent while nobody uses it.";
    GpuPcieTx "gpu.pcie.tx" Uint [] "bytes a second" ["gpu"] Live("NVML, every few seconds") "Traffic from the GPU over PCIe. Absent while nobody uses it.";
    GpuNvlink "gpu.nvlink" Uint [] "bytes a second" ["gpu"] Live("NVML, every few seconds") "Traffic over NVLink, both ways together.";
    GpuEcc "gpu.ecc.uncorrected" Uint [] "" ["gpu"] Live("NVML, every few seconds") "Memory errors that could not be corrected, since the driver was loaded.";
    GpuEncoder "gpu.encoder" Double [] "percent" ["gpu"] Live("NVML, every few seconds") "Use of the video encoder.";
    GpuDecoder "gpu.decoder" Double [] "percent" ["gpu"] Live("NVML, every few seconds") "Use of the video decoder.";
    GpuSm "gpu.sm" Double [] "percent" ["gpu"] Live("NVML's GPM counters between two looks (Hopper and newer)") "Multiprocessors with anything to do, of the whole GPU or instance.";
    GpuTensor "gpu.tensor" Double [] "percent" ["gpu"] Live("NVML's GPM counters between two looks (Hopper and newer)") "Use of the tensor cores of any kind, of the whole GPU or instance.";
    GpuInteger "gpu.integer" Double [] "percent" ["gpu"] Live("NVML's GPM counters between two looks (Hopper and newer)") "Use of the integer units, of the whole GPU or instance.";
    GpuFp16 "gpu.fp16" Double [] "percent" ["gpu"] Live("NVML's GPM counters between two looks (Hopper and newer)") "Use of the units for numbers of 16 bits, of the whole GPU or instance.";
    GpuFp32 "gpu.fp32" Double [] "percent" ["gpu"] Live("NVML's GPM counters between two looks (Hopper and newer)") "Use of the units for numbers of 32 bits, of the whole GPU or instance.";
    GpuFp64 "gpu.fp64" Double [] "percent" ["gpu"] Live("NVML's GPM counters between two looks (Hopper and newer)") "Use of the units for numbers of 64 bits, of the whole GPU or instance.";
    GpuDram "gpu.dram" Double [] "percent" ["gpu"] Live("NVML's GPM counters between two looks (Hopper and newer)") "Use of the memory's bandwidth, of the whole GPU or instance.";
    GpuUtilMean "gpu.util.mean" Double [Key] "percent" ["gpu"] Live("gpu.util of the looks so far") "Mean of gpu.util over a window up to now: `gpu.util.mean[5m]`, 1s to 1h. Absent until the GPU has been looked at for that long.";
    GpuUtilStddev "gpu.util.stddev" Double [Key] "percent" ["gpu"] Live("gpu.util of the looks so far") "Standard deviation of gpu.util over a window, likewise.";
    GpuUtilMin "gpu.util.min" Double [Key] "percent" ["gpu"] Live("gpu.util of the looks so far") "Least gpu.util in a window, likewise.";
    GpuProcUtil "gpu.proc.util" Double [] "percent" ["gpu"] Live("NVML, every few seconds") "Share of the multiprocessors that the event's process uses. Not available on divided cards.";
    GpuProcMemUtil "gpu.proc.mem.util" Double [] "percent" ["gpu"] Live("NVML, every few seconds") "Time in which the event's process read or wrote the GPU's memory.";
    GpuProcMem "gpu.proc.mem" Uint [] "bytes" ["gpu"] Live("NVML, every few seconds") "Memory of the GPU that the event's process uses.";
    GpuProcDuration "gpu.proc.duration" RelTime [] "ns" ["gpu"] Live("the looks so far") "Time since the event's process was first seen on the GPU.";
    GpuProcIdle "gpu.proc.idle" RelTime [] "ns" ["gpu"] Live("the looks so far") "Time since the event's process last used the GPU, where it holds it without doing so; 0 while it does.";
    GpuProcSeen "gpu.proc.seen" Str [] "" ["gpu"] Live("NVML and the device hook") "Where the event's process is seen from: `driver` (NVML names it), `device` (it opened the GPU's node, and NVML does not name it) or `both`.";
    MiningSuspected "mining.suspected" Bool [] "" ["gpu"] Live("see docs/mining-detection.md") "Whether evidence of two families or more says that the event's process mines.";
    MiningScore "mining.score" Int [] "" ["gpu"] Live("see docs/mining-detection.md") "Sum of the weights of the evidence.";
    MiningCertainty "mining.certainty" Str [] "" ["gpu"] Live("see docs/mining-detection.md") "How sure it is: `none`, `possible`, `likely` or `near certain`.";
    MiningFamilies "mining.families" Str "list" [] "" ["gpu"] Live("see docs/mining-detection.md") "Families that evidence comes from: `gpu`, `process`, `network`, `lineage`.";
    MiningEvidence "mining.evidence" Str "list" [] "" ["gpu"] Live("see docs/mining-detection.md") "The evidence, each with its weight, name and numbers.";
    SyslogFacilityStr "syslog.facility.str" Str [] "" [] Recorded("writes to the log socket are not traced") "Facility of a log message as text.";
    SyslogFacility "syslog.facility" Uint [] "" [] Recorded("writes to the log socket are not traced") "Facility of a log message.";
    SyslogSeverityStr "syslog.severity.str" Str [] "" [] Recorded("writes to the log socket are not traced") "Severity of a log message as text.";
    SyslogSeverity "syslog.severity" Uint [] "" [] Recorded("writes to the log socket are not traced") "Severity of a log message.";
    SyslogMessage "syslog.message" Str [] "" [] Recorded("writes to the log socket are not traced") "Text of a log message.";
    UtilCnt "util.cnt" Uint [] "" [] Recorded("made for tables") "Counts how often it was asked for.";
    LostCount "lost.count" Uint [] "" ["lost"] Live("loss counters of rings and queues") "Events lost since the last such event.";
    LostCause "lost.cause" Str [] "" ["lost"] Live("loss counters of rings and queues") "Where they were lost.";
    InternalWhat "internal.what" Str [] "" ["internal"] Live("the agent itself") "What happened inside the agent: `reload_failed`, `reloaded` (rules), `reconfigured`.";
    InternalText "internal.text" Str [] "" ["internal"] Live("the agent itself") "The same in words, with what is wrong; at most 1,024 bytes.";
}

impl Field {
    /// The field's row.
    pub fn info(self) -> &'static FieldInfo {
        &FIELDS[self as usize]
    }

    /// The field of that row number, if there is one.
    pub fn from_index(index: usize) -> Option<Self> {
        ALL.get(index).copied()
    }
}
