//! What only a running process can tell: its memory, descriptors and control groups, read from `/proc` when a rule asks.
//!
//! The values are those of the moment of the question, a little after the event. A process that has ended by then, or whose
//! pid another one has, supplies none. A question costs a file or two; an event that nobody asks about costs nothing.

use std::{fs, path::PathBuf};

use saker_rules::{FieldArgRef, fields::Field, value::Value};
use serde::{Deserialize, Serialize};

use super::EventView;
use crate::context::{outside::Question, procfs};

/// Descriptors are counted up to here: a process may have a million.
const DESCRIPTORS_MAX: usize = 65_536;

/// The fields of this family.
const FIELDS: [Field; 23] = [
    Field::ProcVmsize,
    Field::ThreadVmsize,
    Field::ProcVmrss,
    Field::ThreadVmrss,
    Field::ProcVmswap,
    Field::ThreadVmsizeB,
    Field::ThreadVmrssB,
    Field::ProcNthreads,
    Field::ProcNchilds,
    Field::ThreadPfminor,
    Field::ThreadPfmajor,
    Field::ThreadTotexectime,
    Field::ThreadCgroups,
    Field::ThreadCgroup,
    Field::ProcFdopencount,
    Field::ProcFdlimit,
    Field::ProcFdusage,
    Field::ProcStdinName,
    Field::ProcStdoutName,
    Field::ProcStderrName,
    Field::ProcStdinType,
    Field::ProcStdoutType,
    Field::ProcStderrType,
];

/// A value that a capture can hold.
#[derive(Serialize, Deserialize)]
enum Answer {
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(String),
}

/// The field's value, where it is one of this family and the process still runs, or did when it was asked for a capture.
pub fn value<'a>(view: &'a EventView<'_>, field: Field, arg: FieldArgRef<'a>) -> Option<Value<'a>> {
    if !FIELDS.contains(&field) {
        return None;
    }
    let key = match arg {
        FieldArgRef::Key(key) => crc32fast::hash(key.as_bytes()),
        _ => 0,
    };
    let question = Question::Field(view.number, field as u16, key);
    let answer = view.outside.ask(question, || running(view, field, arg));
    Some(match answer.flatten()? {
        Answer::Int(number) => Value::Int(number),
        Answer::Uint(number) => Value::Uint(number),
        Answer::Double(number) => Value::Double(number),
        Answer::Text(text) => view.text(format_args!("{text}")),
    })
}

fn running(view: &EventView<'_>, field: Field, arg: FieldArgRef<'_>) -> Option<Answer> {
    let value = match field {
        Field::ProcVmsize | Field::ThreadVmsize => Answer::Uint(status(view, "VmSize:")?),
        Field::ProcVmrss | Field::ThreadVmrss => Answer::Uint(status(view, "VmRSS:")?),
        Field::ProcVmswap => Answer::Uint(status(view, "VmSwap:")?),
        Field::ThreadVmsizeB => Answer::Uint(status(view, "VmSize:")?.saturating_mul(1024)),
        Field::ThreadVmrssB => Answer::Uint(status(view, "VmRSS:")?.saturating_mul(1024)),
        Field::ProcNthreads => Answer::Uint(status(view, "Threads:")?),
        Field::ProcNchilds => Answer::Uint(status(view, "Threads:")?.saturating_sub(1)),
        Field::ThreadPfminor => Answer::Uint(stat(view, 10)?),
        Field::ThreadPfmajor => Answer::Uint(stat(view, 12)?),
        Field::ThreadTotexectime => Answer::Uint(run_time_ns(view)?),
        Field::ThreadCgroups => Answer::Text(cgroups(view)?.join(" ")),
        Field::ThreadCgroup => {
            let FieldArgRef::Key(controller) = arg else {
                return None;
            };
            let groups = cgroups(view)?;
            let path = groups
                .iter()
                .find_map(|group| group.strip_prefix(controller)?.strip_prefix('='))?;
            Answer::Text(path.to_owned())
        }
        Field::ProcFdopencount => Answer::Uint(descriptors(view)?),
        Field::ProcFdlimit => Answer::Int(limit(view)?),
        Field::ProcFdusage => {
            let (used, limit) = (descriptors(view)?, limit(view)?);
            if limit <= 0 {
                return None;
            }
            Answer::Double(used as f64 * 100.0 / limit as f64)
        }
        Field::ProcStdinName => Answer::Text(descriptor(view, 0)?),
        Field::ProcStdoutName => Answer::Text(descriptor(view, 1)?),
        Field::ProcStderrName => Answer::Text(descriptor(view, 2)?),
        Field::ProcStdinType => descriptor_type(&descriptor(view, 0)?)?,
        Field::ProcStdoutType => descriptor_type(&descriptor(view, 1)?)?,
        Field::ProcStderrType => descriptor_type(&descriptor(view, 2)?)?,
        _ => return None,
    };
    // Asked last: had the pid changed hands before, it would show now.
    let start = procfs::start_ns(view.proc, view.event.tgid)?;
    procfs::is_same_start(start, view.event.start_ns).then_some(value)
}

fn process(view: &EventView<'_>, file: &str) -> PathBuf {
    view.proc.join(view.event.tgid.to_string()).join(file)
}

fn thread(view: &EventView<'_>, file: &str) -> PathBuf {
    let task = format!("task/{}", view.event.tid);
    process(view, &task).join(file)
}

/// A number of `/proc/PID/status`; sizes are in KiB there.
fn status(view: &EventView<'_>, key: &str) -> Option<u64> {
    let text = fs::read(process(view, "status")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// A column of the thread's `stat`, numbered as proc(5) does.
fn stat(view: &EventView<'_>, column: usize) -> Option<u64> {
    let text = fs::read(thread(view, "stat")).ok()?;
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&text[close + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(column - 3)?.parse().ok()
}

fn run_time_ns(view: &EventView<'_>) -> Option<u64> {
    let text = fs::read_to_string(thread(view, "schedstat")).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// `controller=path` of every hierarchy; the controllers of one hierarchy each, and `unified` for that of version 2.
fn cgroups(view: &EventView<'_>) -> Option<Vec<String>> {
    let text = fs::read(thread(view, "cgroup")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut groups = Vec::new();
    for line in text.lines() {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let controllers = if controllers.is_empty() {
            "unified"
        } else {
            controllers
        };
        groups.extend(
            controllers
                .split(',')
                .map(|controller| format!("{controller}={path}")),
        );
    }
    Some(groups)
}

fn descriptors(view: &EventView<'_>) -> Option<u64> {
    let entries = fs::read_dir(process(view, "fd")).ok()?;
    Some(entries.take(DESCRIPTORS_MAX).count() as u64)
}

/// The soft limit; -1 where there is none, as Falco has it.
fn limit(view: &EventView<'_>) -> Option<i64> {
    let text = fs::read_to_string(process(view, "limits")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(-1),
        number => number.parse().ok(),
    }
}

/// Where a descriptor leads, as the kernel names it: a path, `pipe:[…]`, `socket:[…]`.
fn descriptor(view: &EventView<'_>, number: u32) -> Option<String> {
    let target = fs::read_link(process(view, &format!("fd/{number}"))).ok()?;
    Some(target.to_string_lossy().into_owned())
}

/// Falco's name of the type. The family of a socket does not show here.
fn descriptor_type(target: &str) -> Option<Answer> {
    let name = match target {
        path if path.starts_with('/') => "file",
        pipe if pipe.starts_with("pipe:") => "pipe",
        "anon_inode:[eventfd]" => "event",
        "anon_inode:[signalfd]" => "signalfd",
        "anon_inode:[eventpoll]" => "eventpoll",
        "anon_inode:inotify" => "inotify",
        "anon_inode:[timerfd]" => "timerfd",
        _ => return None,
    };
    Some(Answer::Text(name.to_owned()))
}
