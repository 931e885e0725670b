//! `evt.*` and `syscall.*`: what happened, when, and how it ended.

use jiff::{Timestamp, fmt::strtime};
use nix::errno::Errno;
use saker_rules::{FieldArgRef, fields::Field, value::Value};

use super::{EventView, fd, known};
use crate::event::Body;

/// The field's value, where it is one of this family and known.
pub fn value<'a>(view: &'a EventView<'_>, field: Field, arg: FieldArgRef<'a>) -> Option<Value<'a>> {
    let event = view.event;
    let time_ns = view.time_ns();
    Some(match field {
        Field::EvtNum => Value::Uint(view.number),
        Field::EvtType => Value::Bytes(event.type_name().as_bytes()),
        Field::SyscallType => match event.body {
            Body::Exec(_) | Body::Open(_) | Body::Connect(_) | Body::Sendto(_) | Body::Fork(_) => {
                Value::Bytes(event.type_name().as_bytes())
            }
            _ => return None,
        },
        Field::EvtTime => time(view, "%H:%M:%S.%9f"),
        Field::EvtTimeS => time(view, "%H:%M:%S"),
        Field::EvtTimeIso8601 => time(view, "%Y-%m-%dT%H:%M:%S.%9f+0000"),
        Field::EvtDatetime => time(view, "%Y-%m-%d %H:%M:%S.%9f"),
        Field::EvtDatetimeS => time(view, "%Y-%m-%d %H:%M:%S"),
        Field::EvtRawtime => Value::Uint(u64::try_from(time_ns).ok()?),
        Field::EvtRawtimeS => Value::Uint(u64::try_from(time_ns / 1_000_000_000).ok()?),
        Field::EvtRawtimeNs => Value::Uint(u64::try_from(time_ns % 1_000_000_000).ok()?),
        Field::EvtSource => Value::Bytes(b"syscall"),
        Field::EvtIsAsync | Field::EvtIsSyslog => Value::Bool(false),
        Field::EvtIsIo | Field::EvtIsIoWrite => Value::Bool(matches!(event.body, Body::Sendto(_))),
        Field::EvtIsIoRead => Value::Bool(false),
        Field::EvtIsWait => Value::Bool(matches!(event.body, Body::Connect(_))),
        Field::EvtCount => Value::Uint(1),
        Field::EvtHostname => Value::Bytes(view.hostname.as_bytes()),
        Field::EvtCpu => Value::Int(event.cpu.into()),
        Field::EvtCategory => Value::Bytes(match event.body {
            Body::Exec(_) | Body::Fork(_) | Body::Exit(_) | Body::Pickle(_) => b"process",
            Body::Open(_) | Body::DeviceOpen(_) => b"file",
            Body::Connect(_) | Body::Sendto(_) | Body::Dns(_) | Body::Tls(_) => b"net",
            Body::CgroupMkdir(_) => b"other",
            Body::Lost(_) | Body::Internal(_) => b"internal",
            Body::Gpu(_) => b"other",
        }),
        Field::EvtRawres => Value::Int(result(view)?),
        Field::EvtFailed => Value::Bool(result(view)? < 0),
        Field::EvtRes => match result(view)? {
            0.. => Value::Bytes(b"SUCCESS"),
            error => view.text(format_args!(
                "{:?}",
                Errno::from_raw(i32::try_from(-error).ok()?)
            )),
        },
        Field::EvtIsOpenRead => Value::Bool(open_mode(view)?.read),
        Field::EvtIsOpenWrite => Value::Bool(open_mode(view)?.write),
        Field::EvtIsOpenCreate => Value::Bool(open_mode(view)?.create),
        Field::EvtIsOpenExec => Value::Bool(open_mode(view)?.create_executable),
        Field::EvtAbspath => match (&event.body, arg) {
            (Body::Open(_), FieldArgRef::None) => return fd::value(view, Field::FdName),
            _ => return None,
        },
        Field::EvtArg => argument(view, arg)?,
        Field::LostCount => match event.body {
            Body::Lost(lost) => Value::Uint(lost.count),
            _ => return None,
        },
        Field::InternalWhat => match event.body {
            Body::Internal(internal) => Value::Bytes(internal.what.as_bytes()),
            _ => return None,
        },
        Field::InternalText => match event.body {
            Body::Internal(internal) => Value::Bytes(internal.text.as_bytes()),
            _ => return None,
        },
        Field::LostCause => match event.body {
            Body::Lost(lost) => Value::Bytes(lost.cause.as_bytes()),
            _ => return None,
        },
        _ => return None,
    })
}

/// The call's return value: 0 or a descriptor, or a negative error number. `None` where the hook saw no end.
fn result(view: &EventView<'_>) -> Option<i64> {
    match view.event.body {
        Body::Exec(_) => Some(0),
        Body::Fork(fork) => Some(fork.child_tid.into()),
        Body::Open(open) => Some(open.res.into()),
        Body::Connect(connect) | Body::Sendto(connect) => Some(connect.res.into()),
        Body::Exit(_)
        | Body::DeviceOpen(_)
        | Body::Pickle(_)
        | Body::Dns(_)
        | Body::Tls(_)
        | Body::CgroupMkdir(_)
        | Body::Lost(_)
        | Body::Internal(_)
        | Body::Gpu(_) => None,
    }
}

/// How a file was opened.
struct OpenMode {
    read: bool,
    write: bool,
    create: bool,
    create_executable: bool,
}

/// By the flags of open(2), or by the access that the device hook was asked for.
fn open_mode(view: &EventView<'_>) -> Option<OpenMode> {
    match view.event.body {
        Body::Open(open) => {
            let flags = i32::try_from(open.flags).unwrap_or(i32::MAX);
            let access = flags & libc::O_ACCMODE;
            let create = flags & libc::O_CREAT != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE;
            Some(OpenMode {
                read: access == libc::O_RDONLY || access == libc::O_RDWR,
                write: access == libc::O_WRONLY || access == libc::O_RDWR,
                create,
                create_executable: create && open.mode & 0o111 != 0,
            })
        }
        Body::DeviceOpen(open) => Some(OpenMode {
            read: open.read,
            write: open.write,
            create: open.mknod,
            create_executable: false,
        }),
        _ => None,
    }
}

/// One argument of the call by its name in Falco's event tables, as text.
fn argument<'a>(view: &'a EventView<'_>, arg: FieldArgRef<'a>) -> Option<Value<'a>> {
    let FieldArgRef::Key(name) = arg else {
        return None;
    };
    match (&view.event.body, name) {
        (Body::Exec(_), "res") => value(view, Field::EvtRes, FieldArgRef::None),
        (Body::Exec(exec), "filename") => known(exec.filename.bytes),
        (Body::Exec(_), "exe") => super::process::value(view, Field::ProcExe, FieldArgRef::None),
        (Body::Exec(_), "args") => super::process::value(view, Field::ProcArgs, FieldArgRef::None),
        (Body::Exec(_), "cwd") => super::process::value(view, Field::ProcCwd, FieldArgRef::None),
        (Body::Exec(_), "comm") => known(view.event.comm),
        (Body::Open(open), "fd" | "res") => Some(view.text(format_args!("{}", open.res))),
        (Body::Open(open), "name" | "path") => known(open.path.bytes),
        (Body::Open(open), "mode") => Some(view.text(format_args!("{:#o}", open.mode))),
        (Body::Open(open), "flags") => Some(flag_names(view, open.flags)),
        (Body::Connect(_) | Body::Sendto(_), "res") => {
            value(view, Field::EvtRes, FieldArgRef::None)
        }
        (Body::CgroupMkdir(made), "path") => known(made.path.bytes),
        _ => None,
    }
}

/// Flags as Falco prints them: `O_RDWR|O_CREAT`.
fn flag_names<'a>(view: &'a EventView<'_>, flags: u64) -> Value<'a> {
    const NAMES: &[(i32, &str)] = &[
        (libc::O_CREAT, "O_CREAT"),
        (libc::O_EXCL, "O_EXCL"),
        (libc::O_TRUNC, "O_TRUNC"),
        (libc::O_APPEND, "O_APPEND"),
        (libc::O_NONBLOCK, "O_NONBLOCK"),
        (libc::O_DSYNC, "O_DSYNC"),
        (libc::O_DIRECT, "O_DIRECT"),
        (libc::O_DIRECTORY, "O_DIRECTORY"),
        (libc::O_NOFOLLOW, "O_NOFOLLOW"),
        (libc::O_NOATIME, "O_NOATIME"),
        (libc::O_CLOEXEC, "O_CLOEXEC"),
        (libc::O_PATH, "O_PATH"),
    ];
    let flags = i32::try_from(flags).unwrap_or(i32::MAX);
    let access = match flags & libc::O_ACCMODE {
        libc::O_RDONLY => "O_RDONLY",
        libc::O_WRONLY => "O_WRONLY",
        _ => "O_RDWR",
    };
    let mut text = bumpalo::collections::String::from_str_in(access, view.arena);
    for (_, name) in NAMES.iter().filter(|(bit, _)| flags & bit == *bit) {
        text.push('|');
        text.push_str(name);
    }
    Value::Bytes(text.into_bump_str().as_bytes())
}

fn time<'a>(view: &'a EventView<'_>, format: &str) -> Value<'a> {
    let moment = Timestamp::from_nanosecond(view.time_ns().into()).unwrap_or(Timestamp::UNIX_EPOCH);
    let formatted = strtime::format(format, moment).unwrap_or_default();
    view.text(format_args!("{formatted}"))
}
