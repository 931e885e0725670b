//! `fd.*` and `fs.*`: what was opened or connected to.

use std::net::{IpAddr, SocketAddr};

use saker_rules::{fields::Field, value::Value};

use super::{EventView, known};
use crate::{
    context::runtime::metadata::Container,
    event::{Body, Connect, DeviceOpen, Open, Packet},
};

/// The field's value, where it is one of this family and known.
pub fn value<'a>(view: &'a EventView<'_>, field: Field) -> Option<Value<'a>> {
    match &view.event.body {
        Body::Open(open) => of_open(view, open, field),
        Body::DeviceOpen(open) => of_device(view, open, field),
        Body::Connect(connect) => of_connect(view, connect, field),
        Body::Sendto(sent) => match field {
            Field::FdConnected => Some(Value::Bool(false)),
            Field::FdNameChanged => Some(Value::Bool(true)),
            _ => of_connect(view, sent, field),
        },
        Body::Dns(packet) | Body::Tls(packet) => of_packet(view, packet, field),
        Body::Pickle(_) => of_pickle(view, field),
        _ => None,
    }
}

fn of_open<'a>(view: &'a EventView<'_>, open: &Open<'a>, field: Field) -> Option<Value<'a>> {
    Some(match field {
        // Falco's number of a descriptor that is none.
        Field::FdNum => Value::Int(open.res.max(-1).into()),
        Field::FdUid if open.res >= 0 => view.text(format_args!("{}{}", view.event.tid, open.res)),
        Field::FdType => Value::Bytes(b"file"),
        Field::FdTypechar => Value::Bytes(b"f"),
        Field::FdNameraw | Field::FsPathNameraw => known(open.path.bytes)?,
        Field::FdName => Value::Bytes(name(view, open)?),
        Field::FsPathName => Value::Bytes(absolute(view, open)?),
        Field::FdDirectory => Value::Bytes(directory(name(view, open)?)),
        Field::FdFilename => Value::Bytes(filename(name(view, open)?)),
        Field::FdContainername => in_container(view, name(view, open)?)?,
        Field::FdContainerdirectory => in_container(view, directory(name(view, open)?))?,
        Field::FdDevName => known(view.device?.name.as_bytes())?,
        Field::FdDevGiven => Value::Bool(is_given(view.device?.name, view.container?)?),
        Field::FdDevMajor => Value::Int(view.device?.major.into()),
        Field::FdDevMinor => Value::Int(view.device?.minor.into()),
        _ => return None,
    })
}

fn of_device<'a>(
    view: &'a EventView<'_>,
    open: &DeviceOpen<'a>,
    field: Field,
) -> Option<Value<'a>> {
    let name = || view.device.map(|device| device.name.as_bytes());
    Some(match field {
        Field::FdType => Value::Bytes(b"file"),
        Field::FdTypechar => Value::Bytes(b"f"),
        Field::FdName | Field::FdDevName => known(name()?)?,
        Field::FdDirectory => Value::Bytes(directory(name()?)),
        Field::FdFilename => Value::Bytes(filename(name()?)),
        Field::FdContainername => in_container(view, name()?)?,
        Field::FdContainerdirectory => in_container(view, directory(name()?))?,
        Field::FdDevGiven => Value::Bool(is_given(view.device?.name, view.container?)?),
        Field::FdDevMajor => Value::Int(open.major.into()),
        Field::FdDevMinor => Value::Int(open.minor.into()),
        Field::FdNameraw | Field::FsPathNameraw => known(open.path.bytes)?,
        _ => return None,
    })
}

/// Was the container given this GPU, by the node that its runtime names? Only nodes of one GPU each can be compared, and only with such.
fn is_given(name: &str, container: &Container) -> Option<bool> {
    const NVIDIA: &str = "/dev/nvidia";
    const RENDER: &str = "/dev/dri/renderD";
    const ACCEL: &str = "/dev/accel/accel";
    let kind = [NVIDIA, RENDER, ACCEL]
        .into_iter()
        .find(|kind| is_numbered(name, kind))?;
    let given = || container.gpus.iter().map(|gpu| &**gpu);
    if given().any(|gpu| gpu == name) {
        return Some(true);
    }
    given().any(|gpu| is_numbered(gpu, kind)).then_some(false)
}

fn is_numbered(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind).is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// The file that the pickle seems to come from.
fn of_pickle<'a>(view: &'a EventView<'_>, field: Field) -> Option<Value<'a>> {
    let name = || view.python?.model_file.as_deref();
    Some(match field {
        Field::FdName => Value::Bytes(name()?),
        Field::FdDirectory => Value::Bytes(directory(name()?)),
        Field::FdFilename => Value::Bytes(filename(name()?)),
        _ => return None,
    })
}

fn of_connect<'a>(view: &'a EventView<'_>, connect: &Connect, field: Field) -> Option<Value<'a>> {
    let remote = SocketAddr::new(connect.addr, connect.port);
    Some(match field {
        // The local end is not chosen yet when the hook runs: either end is the remote one.
        Field::FdIp | Field::FdNet => Value::Ip(connect.addr),
        Field::FdPort => Value::Uint(connect.port.into()),
        Field::FdL4proto => protocol(connect.protocol?)?,
        _ => return of_remote(view, remote, field),
    })
}

/// A connection that is there. The process is its client: servers' first bytes and questions are not looked at.
fn of_packet<'a>(view: &'a EventView<'_>, packet: &Packet<'_>, field: Field) -> Option<Value<'a>> {
    let (local, remote) = (packet.local, packet.remote);
    let both = |values: [Value<'a>; 2]| view.list(values.into_iter());
    Some(match field {
        Field::FdIp | Field::FdNet => both([Value::Ip(local.ip()), Value::Ip(remote.ip())]),
        Field::FdPort => both([
            Value::Uint(local.port().into()),
            Value::Uint(remote.port().into()),
        ]),
        Field::FdCip | Field::FdLip | Field::FdCnet | Field::FdLnet => Value::Ip(local.ip()),
        Field::FdCport | Field::FdLport => Value::Uint(local.port().into()),
        Field::FdCipName | Field::FdLipName => names(view, local.ip())?,
        Field::FdL4proto => protocol(packet.protocol)?,
        // As Falco writes connections.
        Field::FdName => view.text(format_args!("{local}->{remote}")),
        _ => return of_remote(view, remote, field),
    })
}

fn of_remote<'a>(view: &'a EventView<'_>, remote: SocketAddr, field: Field) -> Option<Value<'a>> {
    Some(match field {
        Field::FdType => Value::Bytes(if remote.is_ipv4() { b"ipv4" } else { b"ipv6" }),
        Field::FdTypechar => Value::Bytes(if remote.is_ipv4() { b"4" } else { b"6" }),
        Field::FdSockfamily => Value::Bytes(b"ip"),
        Field::FdName => view.text(format_args!("{remote}")),
        Field::FdSip | Field::FdRip | Field::FdSnet | Field::FdRnet => Value::Ip(remote.ip()),
        Field::FdSport | Field::FdRport => Value::Uint(remote.port().into()),
        Field::FdSipName | Field::FdRipName => names(view, remote.ip())?,
        Field::FdIsServer => Value::Bool(false),
        _ => return None,
    })
}

fn protocol(number: u16) -> Option<Value<'static>> {
    Some(Value::Bytes(match i32::from(number) {
        libc::IPPROTO_TCP => b"tcp",
        libc::IPPROTO_UDP => b"udp",
        libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 => b"icmp",
        libc::IPPROTO_RAW => b"raw",
        _ => return None,
    }))
}

/// The names that the process's container knows an address by.
fn names<'a>(view: &'a EventView<'_>, address: IpAddr) -> Option<Value<'a>> {
    let mut names = view
        .resolved
        .names(view.owner, address, view.event.ts_ns)
        .map(|name| Value::Bytes(name.as_bytes()))
        .peekable();
    names.peek()?;
    Some(view.list(names))
}

/// The kernel's own path of the file that was opened; of one that was not, or has no name, the path as passed.
fn name<'a>(view: &'a EventView<'_>, open: &Open<'a>) -> Option<&'a [u8]> {
    opened(open).or_else(|| absolute(view, open))
}

fn opened<'a>(open: &Open<'a>) -> Option<&'a [u8]> {
    known_bytes(open.resolved.bytes).filter(|_| !open.resolved.cut && !open.detached)
}

/// The path as passed, made absolute where it starts from the working directory, with `.`, `..` and doubled slashes resolved
/// by text, as Falco does. Symbolic links stay as they are.
fn absolute<'a>(view: &'a EventView<'_>, open: &Open<'a>) -> Option<&'a [u8]> {
    let path = known_bytes(open.path.bytes)?;
    if is_plain(path) {
        return Some(path);
    }
    let base: &[u8] = if path.starts_with(b"/") {
        b""
    } else if let Some(opened) = opened(open) {
        return Some(opened);
    } else if let Some(folder) = view.folder {
        folder
    } else if open.dfd == libc::AT_FDCWD {
        // The process has ended: where it was started is the best that is known.
        known_bytes(&view.process?.image.cwd)?
    } else {
        // Where another folder's descriptor leads is not known: the path is given as it was passed.
        return Some(path);
    };
    let mut joined =
        bumpalo::collections::Vec::with_capacity_in(base.len() + path.len() + 1, view.arena);
    for component in base
        .split(|byte| *byte == b'/')
        .chain(path.split(|byte| *byte == b'/'))
    {
        match component {
            b"" | b"." => {}
            b".." => joined.truncate(joined.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
            name => {
                joined.push(b'/');
                joined.extend_from_slice(name);
            }
        }
    }
    if joined.is_empty() {
        joined.push(b'/');
    }
    Some(joined.into_bump_slice())
}

/// Absolute, and no component says anything but a name.
fn is_plain(path: &[u8]) -> bool {
    path.starts_with(b"/")
        && (path.len() == 1
            || path[1..]
                .split(|byte| *byte == b'/')
                .all(|name| !matches!(name, b"" | b"." | b"..")))
}

fn directory(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) => b"/",
        Some(at) => &path[..at],
        None => b".",
    }
}

fn filename(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn in_container<'a>(view: &'a EventView<'_>, path: &[u8]) -> Option<Value<'a>> {
    let id = view.owner.id()?;
    let mut joined =
        bumpalo::collections::Vec::with_capacity_in(id.len() + path.len() + 1, view.arena);
    joined.extend_from_slice(id.as_bytes());
    joined.push(b':');
    joined.extend_from_slice(path);
    Some(Value::Bytes(joined.into_bump_slice()))
}

fn known_bytes(text: &[u8]) -> Option<&[u8]> {
    (!text.is_empty()).then_some(text)
}
