//! Live events for clients that ask: which events a watcher wants is decided on the sensor thread, the only place where an event's
//! whole context is at hand, and what it gets is handed over without waiting. What a watcher has no room for is dropped and counted.
//!
//! Nothing is traced for a watcher's sake, and an agent that nobody watches asks one question an event: is the list empty?

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use saker_rules::{FieldSource, loader, reference::Prepared, template::Template};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::fields::EventView;

/// A condition may be so long: it is evaluated for every event, on the one thread that must not fall behind.
pub const CONDITION_BYTES_MAX: usize = 4096;

/// Fields that a watcher may ask for.
pub const FIELDS_MAX: usize = 64;

/// Bytes of one field's name and argument.
const FIELD_BYTES_MAX: usize = 256;

/// What is sent where no fields are named.
const FIELDS: &[&str] = &[
    "evt.res",
    "proc.name",
    "proc.pid",
    "proc.cmdline",
    "proc.pname",
    "user.name",
    "fd.name",
    "pickle.global",
    "dns.name",
    "tls.sni",
    "container.id",
    "container.name",
    "k8s.ns.name",
    "k8s.pod.name",
];

/// An event as a watcher gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Nanoseconds since the Unix epoch.
    pub time_ns: i64,
    /// `evt.type`.
    pub kind: &'static str,
    /// `evt.num`.
    pub number: u64,
    /// The values that were asked for, without secrets; null where the event has none.
    pub fields: Map<String, Value>,
}

/// What a watcher wants.
#[derive(Debug)]
pub struct Interest {
    condition: Option<Prepared>,
    fields: Template,
}

impl Interest {
    /// Checks a condition and fields; what is wrong with them, in words.
    pub fn new(condition: &str, fields: &[String]) -> Result<Self, String> {
        if condition.len() > CONDITION_BYTES_MAX {
            return Err(format!(
                "the condition has {} bytes; at most {CONDITION_BYTES_MAX}",
                condition.len()
            ));
        }
        if fields.len() > FIELDS_MAX {
            return Err(format!("{} fields; at most {FIELDS_MAX}", fields.len()));
        }
        let condition = match condition.trim() {
            "" => None,
            text => Some(Prepared::new(&loader::check_condition(text).map_err(
                |wrong| {
                    let messages: Vec<_> = wrong.iter().map(|one| one.message.clone()).collect();
                    format!("the condition is wrong: {}", messages.join("; "))
                },
            )?)),
        };
        Ok(Self {
            condition,
            fields: template(fields)?,
        })
    }
}

fn template(fields: &[String]) -> Result<Template, String> {
    let mut text = String::new();
    let mut add = |name: &str| -> Result<(), String> {
        let is_sound = !name.is_empty()
            && name.len() <= FIELD_BYTES_MAX
            && !name.contains(|c: char| c == '%' || c.is_whitespace() || c.is_control());
        if !is_sound {
            return Err(format!("{name:?} is no field"));
        }
        let one = format!("%{name} ");
        Template::parse(&one).map_err(|errors| {
            let messages: Vec<_> = errors.into_iter().map(|error| error.message).collect();
            format!("field {name:?}: {}", messages.join("; "))
        })?;
        text.push_str(&one);
        Ok(())
    };
    if fields.is_empty() {
        // Of those that this build knows.
        for name in FIELDS {
            let _ = add(name);
        }
    }
    for name in fields {
        add(name)?;
    }
    Template::parse(&text).map_err(|_| "the fields make no sense together".to_owned())
}

/// The client's end.
#[derive(Debug)]
pub struct Watch {
    /// Events, in order.
    pub events: mpsc::Receiver<Seen>,
    /// Events that found no room, since the watch began.
    pub dropped: Arc<AtomicU64>,
}

/// The sensor thread's end.
#[derive(Debug)]
pub struct Watcher {
    interest: Interest,
    events: mpsc::Sender<Seen>,
    dropped: Arc<AtomicU64>,
}

/// Both ends of a watch that holds at most `events_max` events that its client has not taken.
pub fn pair(interest: Interest, events_max: usize) -> (Watcher, Watch) {
    let (sender, events) = mpsc::channel(events_max);
    let dropped = Arc::new(AtomicU64::new(0));
    let watcher = Watcher {
        interest,
        events: sender,
        dropped: Arc::clone(&dropped),
    };
    (watcher, Watch { events, dropped })
}

/// Who watches.
#[derive(Debug, Default)]
pub struct Watchers(Vec<Watcher>);

impl Watchers {
    /// Does nobody?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many do?
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// One more.
    pub fn add(&mut self, watcher: Watcher) {
        self.sweep();
        self.0.push(watcher);
    }

    /// Forgets those whose clients went away.
    pub fn sweep(&mut self) {
        self.0.retain(|watcher| !watcher.events.is_closed());
    }

    /// Hands an event to those who want it. Conditions see it as it is, clients as it is `shown`.
    pub fn observe(&self, view: &EventView<'_>, shown: &EventView<'_>) {
        for watcher in &self.0 {
            watcher.observe(view, || Seen {
                time_ns: view.time_ns(),
                kind: view.event.type_name(),
                number: view.number,
                fields: watcher.interest.fields.output_fields(shown),
            });
        }
    }
}

impl Watcher {
    fn observe(&self, view: &impl FieldSource, seen: impl FnOnce() -> Seen) {
        let condition = self.interest.condition.as_ref();
        if condition.is_some_and(|condition| !condition.evaluate(view)) {
            return;
        }
        // Room first: values are worth nothing where there is none.
        match self.events.try_reserve() {
            Ok(room) => room.send(seen()),
            Err(_) => {
                self.dropped.fetch_add(1, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use saker_rules::json_event::JsonEvent;

    use super::*;

    #[test]
    fn what_is_wrong_with_an_interest_is_said() {
        let check = |condition: &str, fields: &[&str], expected: &str| {
            let fields: Vec<String> = fields.iter().map(|name| (*name).to_owned()).collect();
            let wrong = Interest::new(condition, &fields).expect_err(expected);
            assert!(wrong.contains(expected), "{wrong:?} lacks {expected:?}");
        };
        check("proc.nam = sh", &[], "proc.nam");
        check("proc.name = ", &[], "the condition is wrong");
        check("spawned_process", &[], "spawned_process");
        check(&"a".repeat(5000), &[], "at most 4096");
        check("", &["proc.nam"], "proc.nam");
        check("", &[""], "is no field");
        check("", &["proc.name %evt.num"], "is no field");
        check("", &vec!["proc.name"; 65], "at most 64");
        let many = "(".repeat(2000);
        check(&many, &[], "the condition is wrong");
    }

    #[test]
    fn the_fields_that_are_sent_unasked_are_fields() {
        for name in FIELDS {
            let fields = [(*name).to_owned()];
            Interest::new("", &fields).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        }
    }

    #[test]
    fn a_watcher_that_does_not_read_loses_its_own_events_and_their_number_is_known() {
        let interest = Interest::new("proc.name = sh", &[]).expect("it is sound");
        let (watcher, mut watch) = pair(interest, 2);
        let event = |name: &str| {
            JsonEvent::parse(&format!(
                r#"{{"evt.type": "execve", "proc.name": "{name}"}}"#
            ))
            .expect("an event")
        };
        let seen = || Seen {
            time_ns: 1,
            kind: "execve",
            number: 1,
            fields: Map::new(),
        };
        for name in ["sh", "ls", "sh", "sh", "ls", "sh"] {
            watcher.observe(&event(name), seen);
        }
        assert_eq!(watch.dropped.load(Relaxed), 2);
        assert!(watch.events.try_recv().is_ok());
        assert!(watch.events.try_recv().is_ok());
        assert!(watch.events.try_recv().is_err());
        let mut watchers = Watchers::default();
        watchers.add(watcher);
        assert_eq!(watchers.len(), 1);
        drop(watch);
        watchers.sweep();
        assert!(watchers.is_empty());
    }
}
