//! Opens of devices that two hooks see: that of devices by their numbers, before the driver is asked, and that of opens at its end,
//! where rules want opens. It is one event to rules: one that has alerted of the device does not of the open, and of the open it is
//! known, too, which device it is of.
//!
//! The device's event waits for nothing, because it must not: the open may never end, be shed, or be by a call that no hook sees.

use std::collections::VecDeque;

use crate::event::{DeviceOpen, Event, Open};

/// Most opens of devices whose end is awaited. Beyond, the oldest is forgotten, and its end is an event of its own.
const AWAITED_MAX: usize = 256;
/// So long is the end of an open awaited. A driver that takes longer makes it an event of its own, too.
const PATIENCE_NS: u64 = 10_000_000_000;

/// Opens of devices that have not ended.
#[derive(Debug, Default)]
pub struct DeviceOpens {
    awaited: VecDeque<Begun>,
}

/// A device that is being opened by path.
#[derive(Debug, PartialEq, Eq)]
pub struct Begun {
    tgid: u32,
    start_ns: u64,
    /// Its thread; a ring's request can end in another one.
    tid: u32,
    ts_ns: u64,
    path: Box<[u8]>,
    is_cut: bool,
    /// The device.
    pub major: u32,
    /// Likewise.
    pub minor: u32,
    /// The rules that have alerted of it, by their place in the bundle.
    pub alerted: Vec<u32>,
}

impl DeviceOpens {
    /// Awaits the end of an open, of which these rules have alerted. Of what is not opened by path there is none.
    pub fn begin(&mut self, event: &Event<'_>, open: &DeviceOpen<'_>, alerted: Vec<u32>) {
        if open.path.bytes.is_empty() {
            return;
        }
        let is_late = |begun: &Begun| begun.ts_ns.saturating_add(PATIENCE_NS) < event.ts_ns;
        while self.awaited.len() >= AWAITED_MAX || self.awaited.front().is_some_and(is_late) {
            self.awaited.pop_front();
        }
        self.awaited.push_back(Begun {
            tgid: event.tgid,
            start_ns: event.start_ns,
            tid: event.tid,
            ts_ns: event.ts_ns,
            path: open.path.bytes.into(),
            is_cut: open.path.cut,
            major: open.major,
            minor: open.minor,
            alerted,
        });
    }

    /// Other rules are at work, and those that have alerted have other places; `None` is one that is gone.
    pub fn renumber(&mut self, places: &[Option<u32>]) {
        let place = |rule: &u32| places.get(*rule as usize).copied().flatten();
        for begun in &mut self.awaited {
            begun.alerted = begun.alerted.iter().filter_map(place).collect();
        }
    }

    /// What this open, which has ended, began as; `None` where it is not of a device.
    pub fn end(&mut self, event: &Event<'_>, open: &Open<'_>) -> Option<Begun> {
        if self.awaited.is_empty() {
            return None;
        }
        let is_of_process = |begun: &Begun| {
            (begun.tgid, begun.start_ns) == (event.tgid, event.start_ns)
                && begun.ts_ns <= event.ts_ns
                && event.ts_ns <= begun.ts_ns.saturating_add(PATIENCE_NS)
                && if begun.is_cut {
                    open.path.bytes.starts_with(&begun.path)
                } else {
                    open.path.bytes == &*begun.path
                }
        };
        // Its own thread's last one, else another's first.
        let found = self
            .awaited
            .iter()
            .rposition(|begun| begun.tid == event.tid && is_of_process(begun))
            .or_else(|| self.awaited.iter().position(is_of_process))?;
        self.awaited.remove(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Body, DeviceType, OpenSyscall, Text};

    fn text(bytes: &str, cut: bool) -> Text<'_> {
        Text {
            bytes: bytes.as_bytes(),
            cut,
        }
    }

    fn device(path: &str, cut: bool) -> DeviceOpen<'_> {
        DeviceOpen {
            major: 195,
            minor: 0,
            read: true,
            write: false,
            mknod: false,
            dev_type: DeviceType::Character,
            path: text(path, cut),
        }
    }

    fn open(path: &str) -> Open<'_> {
        Open {
            syscall: OpenSyscall::Openat,
            path: text(path, false),
            resolved: text("", false),
            flags: 0,
            mode: 0,
            resolve: 0,
            dfd: -100,
            res: 3,
            path_unreadable: false,
            detached: false,
            how_unreadable: false,
        }
    }

    /// An event of thread `tid` of process `tgid`, `ms` after the start.
    fn event(tgid: u32, tid: u32, ms: u64, body: Body<'_>) -> Event<'_> {
        Event {
            tid,
            start_ns: 1,
            ..Event::internal(ms * 1_000_000, tgid, body)
        }
    }

    fn begin(opens: &mut DeviceOpens, tid: u32, ms: u64, path: &str, cut: bool, rule: u32) {
        let open = device(path, cut);
        let event = event(7, tid, ms, Body::DeviceOpen(open));
        opens.begin(&event, &open, vec![rule]);
    }

    fn end(opens: &mut DeviceOpens, tgid: u32, tid: u32, ms: u64, path: &str) -> Option<Vec<u32>> {
        let open = open(path);
        let event = event(tgid, tid, ms, Body::Open(open));
        opens.end(&event, &open).map(|begun| begun.alerted)
    }

    #[test]
    fn an_end_meets_its_own_beginning_once() {
        let mut opens = DeviceOpens::default();
        begin(&mut opens, 7, 1, "/dev/nvidia0", false, 1);
        assert_eq!(end(&mut opens, 7, 7, 2, "/dev/nvidia1"), None, "a path");
        assert_eq!(end(&mut opens, 8, 7, 2, "/dev/nvidia0"), None, "a process");
        assert_eq!(end(&mut opens, 7, 7, 0, "/dev/nvidia0"), None, "before it");
        assert_eq!(end(&mut opens, 7, 7, 2, "/dev/nvidia0"), Some(vec![1]));
        assert_eq!(end(&mut opens, 7, 7, 2, "/dev/nvidia0"), None, "again");
    }

    #[test]
    fn of_several_the_threads_own_counts() {
        let mut opens = DeviceOpens::default();
        begin(&mut opens, 7, 1, "x", false, 1);
        begin(&mut opens, 8, 2, "x", false, 2);
        begin(&mut opens, 8, 3, "x", false, 3);
        assert_eq!(end(&mut opens, 7, 8, 4, "x"), Some(vec![3]));
        // A ring's request that a worker began.
        assert_eq!(end(&mut opens, 7, 9, 4, "x"), Some(vec![1]));
    }

    #[test]
    fn a_long_path_is_known_by_its_beginning() {
        let mut opens = DeviceOpens::default();
        begin(&mut opens, 7, 1, "/very/long", true, 1);
        assert_eq!(end(&mut opens, 7, 7, 2, "/very"), None);
        assert_eq!(end(&mut opens, 7, 7, 2, "/very/long/path"), Some(vec![1]));
    }

    #[test]
    fn nothing_is_awaited_for_ever() {
        let mut opens = DeviceOpens::default();
        begin(&mut opens, 7, 1, "", false, 1);
        assert!(opens.awaited.is_empty(), "no open by path");
        begin(&mut opens, 7, 1, "x", false, 1);
        assert_eq!(end(&mut opens, 7, 7, 10_002, "x"), None, "too late");
        begin(&mut opens, 7, 10_002, "y", false, 1);
        assert_eq!(opens.awaited.len(), 1);
        for at in 0..1000 {
            begin(&mut opens, 7, 10_003 + at, "z", false, 1);
        }
        assert_eq!(opens.awaited.len(), AWAITED_MAX);
    }
}
