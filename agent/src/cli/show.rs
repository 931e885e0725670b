//! Alerts and events for people and for programs. Whatever an agent sends may be hostile, and some of it always is: nothing of it
//! reaches a terminal unescaped.

use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::{Map, Value as Json};

use crate::{
    proto::saker::v1::{Alert, Event, Priority, Value, value::Kind},
    sink::printable,
};

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// `text` on a terminal, `json` otherwise.
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// When there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Writes to stdout.
#[derive(Debug)]
pub struct Show {
    is_text: bool,
    has_colours: bool,
}

impl Show {
    /// As it is asked for, and as stdout is.
    pub fn new(output: Output, colour: Colour) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let is_text = match output {
            Output::Auto => is_terminal,
            Output::Text => true,
            Output::Json => false,
        };
        let has_colours = match colour {
            Colour::Auto => {
                is_terminal && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
            }
            Colour::Always => true,
            Colour::Never => false,
        };
        Self {
            is_text,
            has_colours: is_text && has_colours,
        }
    }

    /// One alert; `false` where nobody reads any more.
    pub fn alert(&self, alert: &Alert) -> io::Result<bool> {
        let line = if self.is_text {
            self.alert_text(alert)
        } else {
            alert_json(alert)
        };
        write(&line)
    }

    /// One event, likewise.
    pub fn event(&self, event: &Event) -> io::Result<bool> {
        let line = if self.is_text {
            self.event_text(event)
        } else {
            event_json(event)
        };
        write(&line)
    }

    /// Something about the stream, on stderr.
    pub fn remark(&self, text: &str) {
        super::complain(&format!("{}\n", self.paint(text, "2")));
    }

    fn alert_text(&self, alert: &Alert) -> String {
        let priority = alert.priority();
        let colour = match priority {
            Priority::Emergency | Priority::Alert | Priority::Critical => "1;31",
            Priority::Error => "31",
            Priority::Warning => "33",
            Priority::Notice => "36",
            _ => "2",
        };
        format!(
            "{} {} {} {}",
            self.paint(&format!("#{}", alert.cursor), "2"),
            self.paint(&printable(&alert.hostname), "2"),
            self.paint(&printable(&alert.rule), "1"),
            self.paint(&printable(&alert.output), colour),
        )
    }

    fn event_text(&self, event: &Event) -> String {
        let mut line = format!(
            "{} {}",
            self.paint(&moment(event.time.as_ref()), "2"),
            self.paint(&printable(&event.r#type), "1;36")
        );
        let mut names: Vec<_> = event.fields.keys().collect();
        names.sort();
        for name in names {
            let value = json(&event.fields[name]);
            let text = match &value {
                Json::Null => continue,
                Json::String(text) => text.clone(),
                other => other.to_string(),
            };
            line.push(' ');
            line.push_str(&self.paint(&printable(name), "2"));
            line.push('=');
            line.push_str(&printable(&text));
        }
        line
    }

    fn paint(&self, text: &str, colour: &str) -> String {
        if self.has_colours {
            format!("\u{1b}[{colour}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// The agent's own JSON where it is one object, with the cursor beside it: what an agent sends is not passed on unread.
fn alert_json(alert: &Alert) -> String {
    let mut object = match serde_json::from_str(&alert.json) {
        Ok(Json::Object(object)) => object,
        _ => Map::from_iter([("rule".to_owned(), Json::from(alert.rule.clone()))]),
    };
    object.insert("cursor".into(), alert.cursor.into());
    harmless(&Json::Object(object).to_string())
}

fn event_json(event: &Event) -> String {
    let mut names: Vec<_> = event.fields.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    let mut object = Map::new();
    object.insert("evt.num".into(), event.number.into());
    object.insert("evt.type".into(), event.r#type.clone().into());
    object.insert("time".into(), moment(event.time.as_ref()).into());
    for (name, value) in names {
        object.insert(name.clone(), json(value));
    }
    harmless(&Json::Object(object).to_string())
}

/// JSON escapes control characters of ASCII, but not those above, which some terminals obey too.
fn harmless(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_control() {
            // Inside a text: JSON itself has none. All of them are below U+10000.
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    text
}

fn moment(time: Option<&prost_types::Timestamp>) -> String {
    let time = time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok());
    time.map_or_else(
        || "-".into(),
        |time| time.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string(),
    )
}

fn json(value: &Value) -> Json {
    match &value.kind {
        None | Some(Kind::Null(_)) => Json::Null,
        Some(Kind::Text(text)) => text.clone().into(),
        Some(Kind::Integer(number)) => (*number).into(),
        Some(Kind::Unsigned(number)) => (*number).into(),
        Some(Kind::Real(number)) => (*number).into(),
        Some(Kind::Boolean(value)) => (*value).into(),
        // Protobuf bounds how deep these go.
        Some(Kind::List(list)) => list.values.iter().map(json).collect(),
    }
}

fn write(line: &str) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(line.as_bytes())
        .and_then(|()| stdout.write_all(b"\n"))
        .and_then(|()| stdout.flush());
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const HOSTILE: &str = "\u{1b}]0;title\u{7}\nrm -rf\r\u{9b}31m";

    fn is_harmless(line: &str) -> bool {
        !line.chars().any(char::is_control)
    }

    #[test]
    fn nothing_of_an_agent_steers_the_terminal() {
        let plain = Show {
            is_text: true,
            has_colours: false,
        };
        let alert = Alert {
            cursor: 7,
            hostname: HOSTILE.into(),
            rule: HOSTILE.into(),
            output: HOSTILE.into(),
            json: format!("{{\"a\": 1}}\n{HOSTILE}"),
            priority: 99,
            ..Alert::default()
        };
        assert!(is_harmless(&plain.alert_text(&alert)));
        assert!(is_harmless(&alert_json(&alert)));
        let value = Value {
            kind: Some(Kind::Text(HOSTILE.into())),
        };
        let event = Event {
            r#type: HOSTILE.into(),
            fields: HashMap::from([(HOSTILE.to_owned(), value)]),
            ..Event::default()
        };
        assert!(is_harmless(&plain.event_text(&event)));
        assert!(is_harmless(&event_json(&event)));
        let coloured = Show {
            is_text: true,
            has_colours: true,
        };
        let line = coloured.alert_text(&alert);
        assert!(line.contains("\u{1b}[1m"), "{line:?}");
        assert!(!line.contains("\u{1b}]0"), "{line:?}");
    }

    #[test]
    fn an_alert_keeps_its_json_and_gets_its_cursor() {
        let alert = Alert {
            cursor: 7,
            json: r#"{"rule":"A","priority":"Error"}"#.into(),
            ..Alert::default()
        };
        let value: Json = serde_json::from_str(&alert_json(&alert)).expect("JSON");
        assert_eq!(value["cursor"], 7);
        assert_eq!(value["rule"], "A");
    }
}
