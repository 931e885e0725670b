//! From the record of a started program to what is kept of it.

use crate::{
    context::process::{File, Image, Layer, Start},
    event::{Event, Exec, Text},
};

/// The image of a program that was just started; of its environment `variables` and nothing else.
pub fn image<'a>(event: &Event<'a>, exec: &Exec<'a>, variables: &[String]) -> Image {
    // Of a path that was too long the beginning is missing, and what is left may look like another: better none.
    let whole = |text: Text<'a>| if text.cut { &[] } else { text.bytes };
    Image::new(&Start {
        name: event.comm,
        exe_path: whole(exec.exe),
        argv: exec.argv.bytes,
        argv_truncated: exec.argv.cut || exec.argv.unreadable,
        argc: usize::try_from(exec.argv.argc).ok(),
        cwd: whole(exec.cwd),
        // The kernel side compares the first bytes of a name only.
        env: &wanted_variables(exec, variables),
        env_truncated: exec.env.map(|env| env.cut),
        from_memfd: exec.memfd,
        file: file(event, exec),
    })
}

/// The variables whose whole names were asked for.
fn wanted_variables(exec: &Exec<'_>, names: &[String]) -> Vec<u8> {
    let mut wanted = Vec::new();
    let bytes = exec.env.map_or(&[][..], |env| env.bytes);
    for variable in bytes.split(|byte| *byte == 0) {
        let name = variable
            .split(|byte| *byte == b'=')
            .next()
            .unwrap_or_default();
        if name.len() < variable.len() && names.iter().any(|wanted| wanted.as_bytes() == name) {
            wanted.extend_from_slice(variable);
            wanted.push(0);
        }
    }
    wanted
}

fn file(event: &Event<'_>, exec: &Exec<'_>) -> Option<File> {
    let layer = match exec.exe_upper_layer {
        _ if !exec.exe_layer_known => Layer::Unknown,
        None => Layer::None,
        Some(true) => Layer::Upper,
        Some(false) => Layer::Lower,
    };
    (exec.inode != 0).then(|| File {
        inode: exec.inode,
        ctime_ns: exec.exe_file.and_then(|file| file.ctime_ns),
        mtime_ns: exec.exe_file.and_then(|file| file.mtime_ns),
        is_writable: is_writable(event, exec),
        layer,
    })
}

/// May the user who started a program write its file? Its owner may always, for he can change its permissions. Other
/// groups than the effective one are not known, and neither are access control lists and read-only mounts.
fn is_writable(event: &Event<'_>, exec: &Exec<'_>) -> Option<bool> {
    /// `CAP_DAC_OVERRIDE` and `CAP_FOWNER`, either of which goes past the permissions.
    const OVERRIDES: u64 = 1 << 1 | 1 << 3;
    let file = exec.exe_file?;
    let [_, effective, _] = exec.capabilities?;
    let may_write = if file.gid == event.egid { 0o020 } else { 0o002 };
    Some(effective & OVERRIDES != 0 || file.uid == event.euid || file.mode & may_write != 0)
}
