//! `proc.*`, `thread.*`, `user.*`, `group.*`: who acted.

use saker_rules::{FieldArgRef, fields::Field, hosts::hosts, value::Value};

use super::{EventView, capabilities, known};
use crate::context::process::{Ancestor, File, Image, Layer, Process};
use crate::event::MountNs;

/// The field's value, where it is one of this family and known.
pub fn value<'a>(view: &'a EventView<'_>, field: Field, arg: FieldArgRef<'a>) -> Option<Value<'a>> {
    let event = view.event;
    Some(match field {
        Field::ProcPid => Value::Int(event.tgid.into()),
        Field::ThreadTid => Value::Int(event.tid.into()),
        Field::ThreadIsmain => Value::Bool(event.tid == event.tgid),
        Field::ThreadNametid => view.text(format_args!(
            "{}{}",
            String::from_utf8_lossy(event.comm),
            event.tid
        )),
        Field::ProcPpid => Value::Int(event.ppid.into()),
        Field::UserUid => Value::Uint(event.euid.into()),
        Field::GroupGid => Value::Uint(event.egid.into()),
        Field::UserName => known(&view.names.user(mount_ns(view), event.euid)?.name)?,
        Field::UserHomedir => known(&view.names.user(mount_ns(view), event.euid)?.home)?,
        Field::UserShell => known(&view.names.user(mount_ns(view), event.euid)?.shell)?,
        Field::GroupName => known(view.names.group(mount_ns(view), event.egid)?)?,
        Field::ProcPidTs => Value::Uint(epoch(view, event.start_ns)),
        Field::ProcDuration => Value::Uint(event.ts_ns.saturating_sub(event.start_ns)),
        Field::ProcName => view
            .process
            .map_or_else(|| known(event.comm), |process| known(&process.image.name))?,
        _ => known_process(view, view.process?, field, arg)?,
    })
}

/// Fields that only the process table can answer.
fn known_process<'a>(
    view: &'a EventView<'_>,
    process: &'a Process,
    field: Field,
    arg: FieldArgRef<'a>,
) -> Option<Value<'a>> {
    let parent = || view.relatives.parent(process);
    Some(match field {
        Field::ProcExe => known(view.exe(&process.image))?,
        Field::ProcExepath => known(&process.image.exe_path)?,
        Field::ProcCmdline => Value::Bytes(view.cmdline(&process.image)),
        Field::ProcArgs => Value::Bytes(view.args(&process.image)),
        Field::ProcExeline => {
            let mut line = bumpalo::collections::Vec::new_in(view.arena);
            line.extend_from_slice(view.exe(&process.image));
            if process.image.args_count > 0 {
                line.push(b' ');
                line.extend_from_slice(view.args(&process.image));
            }
            Value::Bytes(line.into_bump_slice())
        }
        Field::ProcCmdnargs => Value::Uint(process.image.args_count as u64),
        // The blanks between arguments are not counted.
        Field::ProcCmdlenargs => {
            let joined = process.image.args().len();
            Value::Uint(joined.saturating_sub(process.image.args_count.saturating_sub(1)) as u64)
        }
        Field::ProcCwd => {
            let cwd = &process.image.cwd;
            match cwd.last()? {
                b'/' => Value::Bytes(cwd),
                _ => Value::Bytes(joined(view, cwd, b"/")),
            }
        }
        Field::ProcTty => Value::Uint(process.tty.into()),
        Field::ProcVpid => Value::Int(process.vpid?.into()),
        Field::ProcSid => Value::Int(process.sid.into()),
        Field::ProcIsExeFromMemfd => Value::Bool(process.image.from_memfd),
        Field::ProcIsExeWritable => Value::Bool(process.image.file?.is_writable?),
        Field::ProcIsExeUpperLayer => Value::Bool(layer(process)? == Layer::Upper),
        Field::ProcIsExeLowerLayer => Value::Bool(layer(process)? == Layer::Lower),
        Field::ProcExeIno => Value::Int(i64::try_from(process.image.file?.inode).ok()?),
        Field::ProcExeInoCtime => Value::Uint(process.image.file?.ctime_ns?),
        Field::ProcExeInoMtime => Value::Uint(process.image.file?.mtime_ns?),
        // A clock that was set back leaves no duration.
        Field::ProcExeInoCtimeDurationProcStart => {
            let start = epoch(view, process.start_ns);
            Value::Uint(start.checked_sub(process.image.file?.ctime_ns?)?)
        }
        Field::ProcExeInoCtimeDurationPidnsStart => {
            let start = epoch(view, process.pid_ns_start_ns?);
            Value::Uint(process.image.file?.ctime_ns?.checked_sub(start)?)
        }
        Field::ProcPidnsInitStartTs => Value::Uint(epoch(view, process.pid_ns_start_ns?)),
        Field::ProcArgsTruncated => Value::Bool(process.image.argv_truncated),
        Field::ProcArgsHosts => {
            let mut hosts = hosts(view.args(&process.image)).peekable();
            // A list of nothing would exist all the same.
            hosts.peek()?;
            view.list(hosts.map(Value::Bytes))
        }
        Field::ProcEnvTruncated => Value::Bool(process.image.env_truncated?),
        Field::ProcExecHistory => view.list(process.history.iter().map(|path| Value::Bytes(path))),
        Field::ProcEnv => match arg {
            FieldArgRef::Key(name) => Value::Bytes(variable(view, &process.image, name)?),
            _ => environment(view, &process.image)?,
        },
        Field::ProcAenv => match arg {
            FieldArgRef::Key(name) => {
                let mut lineage = view.relatives.ancestors(process);
                Value::Bytes(lineage.find_map(|process| variable(view, process.image, name))?)
            }
            _ => ancestor(view, process, arg, |process| {
                environment(view, process.image)
            })?,
        },
        Field::ProcAargs => ancestor(view, process, arg, |process| {
            Some(Value::Bytes(view.args(process.image)))
        })?,
        Field::ProcLoginshellid => {
            let lineage = lineage(view, process);
            let shell = lineage
                .filter(|process| process.image.name.ends_with(b"sh"))
                .last()?;
            Value::Int(shell.tgid.into())
        }
        Field::ProcPvpid => Value::Int(parent()?.vpid?.into()),
        Field::ThreadVtid if view.event.tid == view.event.tgid => Value::Int(process.vpid?.into()),
        Field::ThreadCapPermitted => capability_names(view, process.capabilities?[0]),
        Field::ThreadCapEffective => capability_names(view, process.capabilities?[1]),
        Field::ThreadCapInheritable => capability_names(view, process.capabilities?[2]),

        Field::ProcIsSidLeader => Value::Bool(known_id(process.sid)? == process.tgid),
        Field::ProcSname => known(&view.relatives.session_leader(process)?.name)?,
        Field::ProcSidExe => known(view.exe(view.relatives.session_leader(process)?))?,
        Field::ProcSidExepath => known(&view.relatives.session_leader(process)?.exe_path)?,
        Field::ProcPgid => Value::Int(known_id(process.pgid)?.into()),
        Field::ProcVpgid => Value::Int(process.vpgid?.into()),
        Field::ProcIsPgidLeader | Field::ProcIsVpgidLeader => {
            Value::Bool(known_id(process.pgid)? == process.tgid)
        }
        Field::ProcPgidName | Field::ProcVpgidName => {
            known(&view.relatives.group_leader(process)?.name)?
        }
        Field::ProcPgidExe | Field::ProcVpgidExe => {
            known(view.exe(view.relatives.group_leader(process)?))?
        }
        Field::ProcPgidExepath | Field::ProcVpgidExepath => {
            known(&view.relatives.group_leader(process)?.exe_path)?
        }
        Field::UserLoginuid => Value::Int(if process.loginuid == u32::MAX {
            -1
        } else {
            process.loginuid.into()
        }),
        // A login is the host's, whatever the container calls that number.
        Field::UserLoginname => known(&view.names.user(None, process.loginuid)?.name)?,

        Field::ProcPname => known(&parent()?.image.name)?,
        Field::ProcPexe => known(view.exe(parent()?.image))?,
        Field::ProcPexepath => known(&parent()?.image.exe_path)?,
        Field::ProcPcmdline => Value::Bytes(view.cmdline(parent()?.image)),
        Field::ProcPpidTs => Value::Uint(epoch(view, parent()?.start_ns)),
        Field::ProcPpidDuration => Value::Uint(view.event.ts_ns.saturating_sub(parent()?.start_ns)),

        Field::ProcAname => ancestor(view, process, arg, |process| known(&process.image.name))?,
        Field::ProcAexe => ancestor(view, process, arg, |process| known(view.exe(process.image)))?,
        Field::ProcAexepath => {
            ancestor(view, process, arg, |process| known(&process.image.exe_path))?
        }
        Field::ProcAcmdline => ancestor(view, process, arg, |process| {
            Some(Value::Bytes(view.cmdline(process.image)))
        })?,
        Field::ProcApid => ancestor(view, process, arg, |process| {
            Some(Value::Int(process.tgid.into()))
        })?,
        Field::ProcLineage => {
            let lineage = lineage(view, process);
            view.list(lineage.map(|process| Value::Uint(process.id)))
        }
        _ => return None,
    })
}

/// With a number, that ancestor (0 is the process itself, 1 its parent); without, all ancestors as a list.
fn ancestor<'a>(
    view: &'a EventView<'_>,
    process: &'a Process,
    arg: FieldArgRef<'a>,
    value: impl Fn(Ancestor<'a>) -> Option<Value<'a>>,
) -> Option<Value<'a>> {
    match arg {
        FieldArgRef::Index(level) => value(lineage(view, process).nth(level as usize)?),
        FieldArgRef::None => Some(view.list(view.relatives.ancestors(process).filter_map(value))),
        FieldArgRef::Key(_) => None,
    }
}

/// The process and its ancestors, nearest first.
fn lineage<'a>(
    view: &'a EventView<'_>,
    process: &'a Process,
) -> impl Iterator<Item = Ancestor<'a>> {
    std::iter::once(process.into()).chain(view.relatives.ancestors(process))
}

/// The file system in which the actor's user has a name.
fn mount_ns(view: &EventView<'_>) -> Option<MountNs> {
    view.process?.mount_ns
}

fn layer(process: &Process) -> Option<Layer> {
    let File { layer, .. } = process.image.file?;
    (layer != Layer::Unknown).then_some(layer)
}

/// 0 stands for a session or a group that is not known, or that is none.
fn known_id(id: u32) -> Option<u32> {
    (id != 0).then_some(id)
}

fn variable<'a>(view: &'a EventView<'_>, image: &'a Image, name: &str) -> Option<&'a [u8]> {
    let value = image.variable(name.as_bytes())?;
    Some(view.named(name.as_bytes(), value))
}

/// The recorded variables, with blanks between.
fn environment<'a>(view: &'a EventView<'_>, image: &'a Image) -> Option<Value<'a>> {
    image.env_truncated?;
    let mut text = bumpalo::collections::Vec::new_in(view.arena);
    for variable in image.variables() {
        if !text.is_empty() {
            text.push(b' ');
        }
        match variable.iter().position(|byte| *byte == b'=') {
            Some(sign) => {
                text.extend_from_slice(&variable[..=sign]);
                text.extend_from_slice(view.named(&variable[..sign], &variable[sign + 1..]));
            }
            None => text.extend_from_slice(variable),
        }
    }
    Some(Value::Bytes(text.into_bump_slice()))
}

fn capability_names<'a>(view: &'a EventView<'_>, set: u64) -> Value<'a> {
    let mut text = bumpalo::collections::String::new_in(view.arena);
    for name in capabilities::names(set) {
        let blank = if text.is_empty() { "" } else { " " };
        // Writing into a string in memory cannot fail.
        let _ = std::fmt::Write::write_fmt(&mut text, format_args!("{blank}{name}"));
    }
    Value::Bytes(text.into_bump_str().as_bytes())
}

fn epoch(view: &EventView<'_>, boot_ns: u64) -> u64 {
    boot_ns.saturating_add_signed(view.epoch_offset_ns)
}

fn joined<'a>(view: &'a EventView<'_>, first: &[u8], second: &[u8]) -> &'a [u8] {
    let mut bytes =
        bumpalo::collections::Vec::with_capacity_in(first.len() + second.len(), view.arena);
    bytes.extend_from_slice(first);
    bytes.extend_from_slice(second);
    bytes.into_bump_slice()
}
