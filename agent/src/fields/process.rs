//! `proc.*`, `thread.*`, `user.*`, `group.*`: who acted.

use saker_rules::{FieldArgRef, fields::Field, value::Value};

use super::{EventView, known};
use crate::context::process::Process;

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
        Field::ProcPpid => Value::Int(
            view.process
                .map_or(event.ppid, |process| process.ppid)
                .into(),
        ),
        Field::UserUid => Value::Uint(event.euid.into()),
        Field::GroupGid => Value::Uint(event.egid.into()),
        Field::UserName => Value::Bytes(&view.names.user(event.euid)?.name),
        Field::UserHomedir => Value::Bytes(&view.names.user(event.euid)?.home),
        Field::UserShell => Value::Bytes(&view.names.user(event.euid)?.shell),
        Field::GroupName => Value::Bytes(view.names.group(event.egid)?),
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
    let parent = || view.table.parent(process);
    Some(match field {
        Field::ProcExe => known(&process.image.argv0)?,
        Field::ProcExepath => known(&process.image.exe_path)?,
        Field::ProcCmdline => Value::Bytes(&process.image.cmdline),
        Field::ProcArgs => Value::Bytes(process.image.args()),
        Field::ProcExeline => {
            let mut line = bumpalo::collections::Vec::new_in(view.arena);
            line.extend_from_slice(&process.image.argv0);
            if process.image.args_count > 0 {
                line.push(b' ');
                line.extend_from_slice(process.image.args());
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
        Field::UserLoginuid => Value::Int(if process.loginuid == u32::MAX {
            -1
        } else {
            process.loginuid.into()
        }),
        Field::UserLoginname => Value::Bytes(&view.names.user(process.loginuid)?.name),

        Field::ProcPname => known(&parent()?.image.name)?,
        Field::ProcPexe => known(&parent()?.image.argv0)?,
        Field::ProcPexepath => known(&parent()?.image.exe_path)?,
        Field::ProcPcmdline => Value::Bytes(&parent()?.image.cmdline),
        Field::ProcPpidTs => Value::Uint(epoch(view, parent()?.start_ns)),
        Field::ProcPpidDuration => Value::Uint(view.event.ts_ns.saturating_sub(parent()?.start_ns)),

        Field::ProcAname => ancestor(view, process, arg, |process| known(&process.image.name))?,
        Field::ProcAexe => ancestor(view, process, arg, |process| known(&process.image.argv0))?,
        Field::ProcAexepath => {
            ancestor(view, process, arg, |process| known(&process.image.exe_path))?
        }
        Field::ProcAcmdline => ancestor(view, process, arg, |process| {
            Some(Value::Bytes(&process.image.cmdline))
        })?,
        Field::ProcApid => ancestor(view, process, arg, |process| {
            Some(Value::Int(process.tgid.into()))
        })?,
        Field::ProcLineage => {
            let lineage = std::iter::once(process).chain(view.table.ancestors(process));
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
    value: impl Fn(&'a Process) -> Option<Value<'a>>,
) -> Option<Value<'a>> {
    match arg {
        FieldArgRef::Index(0) => value(process),
        FieldArgRef::Index(level) => value(view.table.ancestors(process).nth(level as usize - 1)?),
        FieldArgRef::None => Some(view.list(view.table.ancestors(process).filter_map(value))),
        FieldArgRef::Key(_) => None,
    }
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
