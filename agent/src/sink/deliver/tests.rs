//! Order, tries, dead letters and places, with a target that does as it is told.

use std::{collections::VecDeque, sync::Mutex};

use super::*;
use crate::{alert::Alert, log::AlertLog};

#[derive(Clone, Default)]
struct Told {
    /// What to answer next; then all is well.
    answers: Arc<Mutex<VecDeque<Progress>>>,
    had: Arc<Mutex<Vec<String>>>,
}

impl Target for Told {
    async fn deliver(&mut self, messages: &[Message]) -> Progress {
        let answer = self.answers.lock().expect("no panic").pop_front();
        let answer = answer.unwrap_or_else(|| Progress::all(messages.len()));
        let had = messages[..answer.done].iter();
        let had = had.map(|message| message.record.rule.to_string());
        self.had.lock().expect("no panic").extend(had);
        answer
    }
}

async fn check(answers: Vec<Progress>, expected: &[&str], dead: u64, dropped: u64) {
    let metrics = Arc::new(Metrics::new());
    let log = AlertLog::in_memory(1 << 20, Arc::clone(&metrics));
    let reader = log.reader("told");
    let record = |name: &str| Record::new(&Alert::for_tests(name));
    log.append(["a", "b", "skip", "c", "d"].map(record).into());
    log.close();
    let target = Told::default();
    *target.answers.lock().expect("no panic") = answers.into();
    let common = Common {
        format: Format::Json,
        filter: Filter {
            rules: ["a", "b", "c", "d"].map(str::to_owned).into(),
            ..Filter::default()
        },
        pause_max: Duration::from_millis(2),
    };
    run(reader, common, target.clone(), Arc::clone(&metrics)).await;
    let had = target.had.lock().expect("no panic").clone();
    assert_eq!(had, expected);
    let sink = SinkName {
        sink: "told".into(),
    };
    let delivery = &metrics.delivery;
    let counts = (
        delivery.sink_alerts.get_or_create(&sink).get(),
        delivery.sink_dead_letters.get_or_create(&sink).get(),
        delivery.count_of("sink_closed"),
    );
    assert_eq!(counts, (expected.len() as u64, dead, dropped));
    assert_eq!(delivery.sink_filtered.get_or_create(&sink).get(), 1);
    assert_eq!(log.finish(), 0, "its place is behind the last alert");
}

#[tokio::test]
async fn everything_goes_out_in_order_whatever_happens() {
    let again = |done| Progress::until(done, Failure::retry("down"));
    let refused = |done| Progress::until(done, Failure::Refused("no".into()));
    let closed = |done| Progress::until(done, Failure::Closed("gone".into()));
    let all = ["a", "b", "c", "d"];
    check(vec![], &all, 0, 0).await;
    check(vec![again(0), again(2), again(0), again(1)], &all, 0, 0).await;
    check(vec![refused(1)], &["a", "c", "d"], 1, 0).await;
    check(vec![refused(3)], &["a", "b", "c"], 1, 0).await;
    check(vec![again(1), refused(0), again(0)], &["a", "c", "d"], 1, 0).await;
    check(vec![closed(1)], &["a"], 0, 3).await;
    check(vec![again(2), closed(0)], &["a", "b"], 0, 2).await;
}

/// Each of its deliveries is of two messages, and from the given one on none is over before the sink was asked to stop.
struct Slow {
    told: Told,
    deliveries: usize,
    stuck_from: usize,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Target for Slow {
    async fn deliver(&mut self, messages: &[Message]) -> Progress {
        if self.deliveries == self.stuck_from {
            self.stop.send_replace(true);
        }
        self.deliveries += 1;
        self.told.deliver(messages).await
    }

    fn at_once(&self) -> usize {
        2
    }
}

/// Stopped in the midst, and gone on with: everything comes once, and in order.
async fn check_stop(stuck_from: usize, answers: Vec<Progress>, before: &[&str]) {
    let metrics = Arc::new(Metrics::new());
    let log = AlertLog::in_memory(1 << 20, Arc::clone(&metrics));
    let mut reader = log.reader("told");
    let all = ["a", "b", "c", "d", "e"];
    let record = |name: &str| Record::new(&Alert::for_tests(name));
    log.append(all.map(record).into());
    log.close();
    let common = Common {
        format: Format::Json,
        filter: Filter::default(),
        pause_max: Duration::from_secs(3600),
    };
    let told = Told::default();
    *told.answers.lock().expect("no panic") = answers.into();
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let slow = Slow {
        told: told.clone(),
        deliveries: 0,
        stuck_from,
        stop,
    };
    let stop = async { drop(stopped.wait_for(|stop| *stop).await) };
    let end = run_until(&mut reader, &common, slow, &metrics, stop).await;
    assert_eq!(end, End::Stopped);
    assert_eq!(*told.had.lock().expect("no panic"), before);
    let end = run_until(&mut reader, &common, told.clone(), &metrics, pending()).await;
    assert_eq!(end, End::LogClosed);
    assert_eq!(*told.had.lock().expect("no panic"), all);
    let sink = SinkName {
        sink: "told".into(),
    };
    assert_eq!(metrics.delivery.sink_alerts.get_or_create(&sink).get(), 5);
    assert_eq!(log.finish(), 0);
}

#[tokio::test]
async fn a_sink_that_is_stopped_ends_what_it_does_and_is_gone_on_with() {
    check_stop(0, vec![], &["a", "b"]).await;
    check_stop(1, vec![], &["a", "b", "c", "d"]).await;
    // A part was delivered, and the pause behind it would last longer than anybody waits.
    let failed = Progress::until(1, Failure::retry("down"));
    check_stop(0, vec![failed], &["a"]).await;
}

#[test]
fn pauses_grow_to_their_bound_and_differ() {
    let mut trouble = Trouble::new(Duration::from_secs(30));
    let mut last = Duration::ZERO;
    for step in 0..12 {
        let pause = trouble.pause("s", "down", None);
        let base = PAUSE_MIN * 2_u32.pow(step);
        let base = base.min(Duration::from_secs(30));
        assert!(pause >= base / 2 && pause <= base, "{step}: {pause:?}");
        assert_ne!(pause, last);
        last = pause;
    }
    let asked = trouble.pause("s", "busy", Some(Duration::from_secs(900)));
    assert!(
        asked <= Duration::from_secs(30),
        "what is asked for is bounded too: {asked:?}"
    );
    assert!(trouble.is_said);
    trouble.is_over("s");
    assert!(trouble.pause("s", "down", None) <= PAUSE_MIN);
    // It fails again at once, which is not said again, and neither is that it is over.
    assert!(!trouble.is_said);
}
