//! Streams of alerts out of the log: Saker's, with cursors and filters, and what Falco's are made of.

use std::{collections::HashSet, time::Duration};

use saker_rules::ruleset::Priority;
use serde_json::Value;
use tokio::sync::mpsc;
use tonic::Status;

use super::{
    convert,
    listen::Line,
    tail::{Extent, Page, Row, Tail},
};
use crate::{
    log::Cursor,
    proto::saker::v1::{
        AlertFilter, Position, WatchAlertsRequest, WatchAlertsResponse,
        watch_alerts_request::Start, watch_alerts_response::Item,
    },
};

/// Alerts that are read at once, and at most as many wait for the client.
const PAGE: usize = 64;

/// Messages of a stream that wait for its client.
pub const QUEUE: usize = 16;

/// Values of each list in a filter, and bytes of one.
const FILTER_VALUES_MAX: usize = 256;
const FILTER_BYTES_MAX: usize = 512;

/// A filter, checked.
#[derive(Debug, Default)]
pub struct Filter {
    least: Option<Priority>,
    rules: HashSet<String>,
    tags: HashSet<String>,
    namespaces: HashSet<String>,
}

impl Filter {
    /// Checks it.
    pub fn new(filter: Option<AlertFilter>) -> Result<Self, Status> {
        let Some(filter) = filter else {
            return Ok(Self::default());
        };
        let least = match filter.min_priority {
            0 => None,
            number => {
                let known = Priority::ALL
                    .into_iter()
                    .find(|level| i32::from(convert::priority(*level)) == number);
                Some(known.ok_or_else(|| {
                    Status::invalid_argument(format!("filter.min_priority: {number} is none"))
                })?)
            }
        };
        let set = |name: &str, values: Vec<String>| {
            if values.len() > FILTER_VALUES_MAX {
                return Err(Status::invalid_argument(format!(
                    "filter.{name}: {} values; at most {FILTER_VALUES_MAX}",
                    values.len()
                )));
            }
            if values.iter().any(|value| value.len() > FILTER_BYTES_MAX) {
                return Err(Status::invalid_argument(format!(
                    "filter.{name}: a value has more than {FILTER_BYTES_MAX} bytes"
                )));
            }
            Ok(values.into_iter().collect())
        };
        Ok(Self {
            least,
            rules: set("rules", filter.rules)?,
            tags: set("tags", filter.tags)?,
            namespaces: set("namespaces", filter.namespaces)?,
        })
    }

    fn passes(&self, row: &Row) -> bool {
        let has_tag = || {
            let tags = row.value["tags"].as_array().into_iter().flatten();
            tags.filter_map(Value::as_str)
                .any(|tag| self.tags.contains(tag))
        };
        // Most urgent first, so the lesser one is the more important.
        let record = &row.record;
        self.least.is_none_or(|least| record.priority <= least)
            && (self.rules.is_empty() || self.rules.contains(&*record.rule))
            && (self.tags.is_empty() || has_tag())
            && (self.namespaces.is_empty()
                || record
                    .namespace
                    .as_deref()
                    .is_some_and(|namespace| self.namespaces.contains(namespace)))
    }
}

/// A stream, from its request.
#[derive(Debug)]
pub struct Stream {
    filter: Filter,
    tail: Tail,
    /// Everything up to here was sent or left out.
    at: Cursor,
    /// Where it ends.
    until: Option<Cursor>,
    /// Whether the place that was asked for lies before what the log holds.
    gap: bool,
}

impl Stream {
    /// Checks the request, and finds the place in the log.
    pub async fn new(request: WatchAlertsRequest, tail: Tail) -> Result<Self, Status> {
        let filter = Filter::new(request.filter)?;
        let extent = tail.extent();
        let (at, gap) = match request.start {
            None => (extent.newest, false),
            Some(Start::ResumeAfter(0)) => (extent.oldest.saturating_sub(1), false),
            Some(Start::ResumeAfter(cursor)) if cursor > extent.newest => {
                return Err(Status::out_of_range(format!(
                    "cursor {cursor} is not of this log, whose newest alert has {}",
                    extent.newest
                )));
            }
            Some(Start::ResumeAfter(cursor)) => {
                let gap = is_gap(cursor, extent);
                if gap && request.fail_on_gap {
                    return Err(Status::out_of_range(format!(
                        "the log no longer holds what is behind cursor {cursor}: its oldest alert has {}",
                        extent.oldest
                    )));
                }
                (cursor, gap)
            }
            Some(Start::Since(time)) => {
                let time_ns = convert::nanoseconds(&time).ok_or_else(|| {
                    Status::invalid_argument("since: is beyond what nanoseconds can say")
                })?;
                (tail.before(time_ns).await?, false)
            }
        };
        Ok(Self {
            filter,
            tail,
            at,
            until: request.no_follow.then_some(extent.newest),
            gap,
        })
    }

    /// Sends until the client goes, the log ends, or the client takes nothing for as long as `stuck` says: then its line is cut.
    pub async fn run(
        mut self,
        out: mpsc::Sender<Result<WatchAlertsResponse, Status>>,
        line: Option<Line>,
        stuck: Duration,
    ) {
        let send = async |item: Item| {
            let message = Ok(WatchAlertsResponse { item: Some(item) });
            send_or_cut(&out, message, line.as_ref(), stuck).await
        };
        if !send(self.position(self.gap)).await {
            return;
        }
        loop {
            if self.until.is_some_and(|until| self.at >= until) {
                return;
            }
            let extent = self.tail.extent();
            let Page {
                rows,
                end,
                is_damaged,
            } = match self.tail.after(self.at, PAGE).await {
                Ok(found) => found,
                Err(status) => {
                    send_or_cut(&out, Err(status), line.as_ref(), stuck).await;
                    return;
                }
            };
            if is_damaged && !send(self.position(true)).await {
                return;
            }
            if rows.is_empty() && end > self.at {
                self.at = end;
                continue;
            }
            if rows.is_empty() {
                if self.until.is_some() {
                    return;
                }
                tokio::select! {
                    more = self.tail.wait(self.at) => if !more { return },
                    () = out.closed() => return,
                }
                continue;
            }
            // Said once of what was asked for; here of what was dropped while the client was too slow.
            let is_told = self.gap || is_damaged;
            if !is_told && is_gap(self.at, extent) && !send(self.position(true)).await {
                return;
            }
            self.gap = false;
            let mut is_any = false;
            for row in rows {
                if self.until.is_some_and(|until| row.cursor > until) {
                    return;
                }
                self.at = row.cursor;
                if self.filter.passes(&row) {
                    is_any = true;
                    if !send(Item::Alert(convert::alert(&row))).await {
                        return;
                    }
                }
            }
            // What is damaged behind the last of them was told.
            self.at = self.at.max(end);
            if !is_any && !send(self.position(false)).await {
                return;
            }
        }
    }

    fn position(&self, gap: bool) -> Item {
        let Extent { oldest, newest } = self.tail.extent();
        Item::Position(Position {
            cursor: self.at,
            gap,
            oldest,
            newest,
        })
    }
}

/// May there have been alerts behind a cursor that the log no longer holds?
fn is_gap(cursor: Cursor, extent: Extent) -> bool {
    cursor + 1 < extent.oldest
}

/// Sends one message; `false` where the client is gone, or was cut off because it takes nothing.
pub async fn send_or_cut<T>(
    out: &mpsc::Sender<Result<T, Status>>,
    message: Result<T, Status>,
    line: Option<&Line>,
    stuck: Duration,
) -> bool {
    match out.send_timeout(message, stuck).await {
        Ok(()) => true,
        Err(mpsc::error::SendTimeoutError::Closed(_)) => false,
        Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
            if let Some(line) = line {
                line.cut();
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        alert::Alert,
        log::{AlertLog, Record, Settings},
        metrics::Metrics,
    };

    fn log(folder: &std::path::Path) -> AlertLog {
        let settings = Settings {
            directory: Some(folder.into()),
            bytes_max: 1 << 30,
            age_max: Duration::from_secs(3600),
            memory_bytes_max: 1 << 20,
            sync: Duration::from_millis(50),
        };
        AlertLog::open(settings, std::sync::Arc::new(Metrics::new())).expect("the log opens")
    }

    #[tokio::test]
    async fn what_is_damaged_in_the_log_is_a_gap_that_is_told_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let before = log(folder.path());
        // A reader has alerts stored; each of these is a block of its own.
        let reader = before.reader("sink");
        for name in ["a", "b", "c", "d"] {
            let last = before.append(vec![Record::new(&Alert::for_tests(name))]);
            assert!(before.follow().reaches(last).await, "it is stored");
        }
        before.close();
        let ending = before.clone();
        let left = tokio::task::spawn_blocking(move || ending.finish()).await;
        assert!(left.is_ok());
        drop((reader, before));
        let database = rusqlite::Connection::open(folder.path().join("alerts/alerts.db"));
        let damage = "UPDATE blocks SET data = zeroblob(length(data)) \
                      WHERE last IN (SELECT last FROM blocks ORDER BY last LIMIT 2 OFFSET 1)";
        let damaged = database.expect("it opens").execute(damage, []);
        assert_eq!(damaged, Ok(2));

        let again = log(folder.path());
        let request = WatchAlertsRequest {
            start: Some(Start::ResumeAfter(0)),
            no_follow: true,
            ..WatchAlertsRequest::default()
        };
        let stream = Stream::new(request, Tail::new(&again))
            .await
            .expect("sound");
        let (out, mut items) = mpsc::channel(100);
        stream.run(out, None, Duration::from_secs(20)).await;
        let mut told = Vec::new();
        while let Some(item) = items.recv().await {
            told.push(match item.expect("no error").item.expect("an item") {
                Item::Alert(alert) => alert.rule,
                Item::Position(position) => format!("gap {}", position.gap),
            });
        }
        assert_eq!(told, ["gap false", "gap true", "a", "d"]);
    }

    fn row(priority: Priority, rule: &str, tags: &[&str], namespace: Option<&str>) -> Row {
        let alert = crate::alert::Alert::for_tests(rule);
        let mut record = crate::log::Record::new(&alert);
        record.priority = priority;
        record.namespace = namespace.map(Into::into);
        Row {
            cursor: 1,
            record: record.into(),
            value: serde_json::json!({ "tags": tags }),
        }
    }

    #[test]
    fn every_part_of_a_filter_must_hold_and_an_empty_one_does() {
        let one = row(Priority::Error, "a", &["x", "y"], Some("ml"));
        let check = |filter: AlertFilter, expected: bool| {
            let found = Filter::new(Some(filter.clone())).expect("it is sound");
            assert_eq!(found.passes(&one), expected, "{filter:?}");
        };
        let text = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        let of = |min_priority, rules: &[&str], tags: &[&str], namespaces: &[&str]| AlertFilter {
            min_priority,
            rules: text(rules),
            tags: text(tags),
            namespaces: text(namespaces),
        };
        check(of(0, &[], &[], &[]), true);
        check(of(5, &[], &[], &[]), true);
        check(of(4, &["a", "b"], &["y"], &["ml"]), true);
        check(of(6, &[], &[], &[]), false);
        check(of(0, &["b"], &[], &[]), false);
        check(of(0, &["a"], &["z"], &[]), false);
        check(of(0, &[], &[], &["default"]), false);
        let nowhere = row(Priority::Error, "a", &[], None);
        let filter = Filter::new(Some(of(0, &[], &[], &["ml"]))).expect("it is sound");
        assert!(!filter.passes(&nowhere));
    }

    #[test]
    fn hostile_filters_are_refused() {
        let check = |filter: AlertFilter, expected: &str| {
            let status = Filter::new(Some(filter)).expect_err(expected);
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().contains(expected), "{status:?}");
        };
        let none = AlertFilter::default;
        check(
            AlertFilter {
                min_priority: 99,
                ..none()
            },
            "min_priority",
        );
        check(
            AlertFilter {
                rules: vec![String::new(); 257],
                ..none()
            },
            "filter.rules",
        );
        check(
            AlertFilter {
                tags: vec!["x".repeat(600)],
                ..none()
            },
            "filter.tags",
        );
    }

    #[test]
    fn what_the_log_no_longer_holds_is_noticed() {
        let check = |cursor, oldest, newest, expected| {
            let extent = Extent { oldest, newest };
            assert_eq!(is_gap(cursor, extent), expected, "{cursor} {extent:?}");
        };
        check(5, 1, 10, false);
        check(5, 6, 10, false);
        check(5, 7, 10, true);
        check(5, 11, 10, true);
        check(10, 11, 10, false);
    }
}
