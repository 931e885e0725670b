//! Which container is asked for next. Says when, not how: no clock, no runtime, no task.
//!
//! First questions go before all others, the newest first: its events wait at this moment, while those of an old one have
//! been evaluated already. So whoever makes thousands of cgroups that no runtime knows delays nobody else's answer. Questions
//! are repeated a few times, for what a runtime is making at this moment; how many repeated ones may end without an answer in
//! a second is bounded for all containers together.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// First questions that wait; beyond it the oldest is given up.
pub const FRESH_MAX: usize = 2048;
/// Repeated questions that wait; beyond it the one furthest away is given up.
pub const RETRIES_MAX: usize = 4096;
/// Questions under way at once. A runtime that is asked too much at once answers all of it late.
pub const UNDER_WAY_MAX: usize = 32;
/// Of these, how many may be repeated ones.
const RETRIES_UNDER_WAY_MAX: usize = 8;
/// Repeated questions without an answer, a second and at once.
pub const RETRIES_PER_SECOND: u32 = 100;

/// When an id that a runtime answers not to know is asked for again, after the first time. A sandbox is known to its runtime
/// only some milliseconds after its first process started; a container's id is known before.
const AGAIN: [Duration; 4] = [
    Duration::from_millis(40),
    Duration::from_millis(160),
    Duration::from_millis(450),
    Duration::from_millis(1000),
];
/// And then, for as long as events are held, or a runtime does not answer at all.
const AGAIN_LATER: Duration = Duration::from_secs(1);

/// How long a runtime that does not answer is given: a restarted one comes back within it.
const RESTART: Duration = Duration::from_secs(10);

/// How long after its creation a container that had not started is asked for again, for its start.
const STARTED_AFTER: Duration = Duration::from_secs(1);

/// A question that is, or is to be, put to the runtimes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Whose container.
    pub id: Box<str>,
    /// When it was first put.
    first: Instant,
    /// How often it was put before.
    times: usize,
    /// Whether events wait for the answer; else once is enough.
    patient: bool,
    /// Whether all but the start is known already.
    started: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A runtime knows the container.
    Found {
        /// And it has been started.
        started: bool,
    },
    /// Every runtime answered that it does not know it.
    NotFound,
    /// A runtime did not answer.
    Failed,
}

/// What is given up for want of room or time, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// First questions: they come faster than runtimes answer.
    pub overrun: u64,
    /// Repeated questions: too many of them find nothing.
    pub retries: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Schedule {
    /// As long as events may be held, so long it is worth asking again.
    hold: Duration,
    fresh: VecDeque<Question>,
    /// By when they are due; the number tells apart what is due at the same time.
    retries: BTreeMap<(Instant, u64), Question>,
    number: u64,
    under_way: usize,
    retries_under_way: usize,
    /// Repeated questions that may find nothing, and when that was so.
    credit: (f64, Instant),
    skipped: Skipped,
}

impl Schedule {
    /// Nothing to ask.
    pub fn new(hold: Duration, now: Instant) -> Self {
        Self {
            hold,
            fresh: VecDeque::new(),
            retries: BTreeMap::new(),
            number: 0,
            under_way: 0,
            retries_under_way: 0,
            credit: (RETRIES_PER_SECOND.into(), now),
            skipped: Skipped::default(),
        }
    }

    /// Takes in a question; returns one that is given up for it, whose answer is "not known".
    pub fn add(&mut self, id: Box<str>, patient: bool, now: Instant) -> Option<Question> {
        let question = Question {
            id,
            first: now,
            times: 0,
            patient,
            started: false,
        };
        if !patient {
            return self.repeat(now, question);
        }
        let oldest = (self.fresh.len() == FRESH_MAX).then(|| self.fresh.pop_front());
        self.fresh.push_back(question);
        self.skipped.overrun += u64::from(oldest.is_some());
        oldest.flatten()
    }

    /// The next question to put now.
    pub fn next(&mut self, now: Instant) -> Option<Question> {
        if self.under_way == UNDER_WAY_MAX {
            return None;
        }
        if let Some(question) = self.fresh.pop_back() {
            self.under_way += 1;
            return Some(question);
        }
        self.refill(now);
        if self.retries_under_way == RETRIES_UNDER_WAY_MAX || self.credit.0 < 1.0 {
            return None;
        }
        // Here too the latest first: it is of use to somebody.
        let due = *self.retries.range(..=(now, u64::MAX)).next_back()?.0;
        self.under_way += 1;
        self.retries_under_way += 1;
        self.credit.0 -= 1.0;
        self.retries.remove(&due)
    }

    /// When [`next`](Self::next) has one again, if nothing else happens.
    pub fn due(&self) -> Option<Instant> {
        let (due, _) = self.retries.keys().next()?;
        // Without credit, or with all of them under way, a moment is soon enough.
        let missing = (1.0 - self.credit.0).max(0.0) / f64::from(RETRIES_PER_SECOND);
        let full =
            self.under_way == UNDER_WAY_MAX || self.retries_under_way == RETRIES_UNDER_WAY_MAX;
        (!full).then(|| (*due).max(self.credit.1 + Duration::from_secs_f64(missing)))
    }

    /// Takes in what came of a question, and says whether it was the last word: then it is to be answered. One that is not
    /// is asked again, unless that would be too much.
    pub fn done(&mut self, mut question: Question, outcome: Outcome, now: Instant) -> bool {
        self.under_way -= 1;
        if question.times > 0 || !question.patient {
            self.retries_under_way -= 1;
            if let Outcome::Found { .. } = outcome {
                // It was worth it.
                self.credit.0 += 1.0;
            }
        }
        if let Outcome::Found { started } = outcome {
            if !started && !question.started {
                question.started = true;
                question.times += 1;
                self.repeat(now + STARTED_AFTER, question);
            }
            return true;
        }
        if question.started || !question.patient {
            return true;
        }
        let age = now.saturating_duration_since(question.first);
        let after = AGAIN.get(question.times).copied();
        let due = match after {
            Some(after) => (question.first + after).max(now + AGAIN[0] / 2),
            None => now + AGAIN_LATER,
        };
        let end = match outcome {
            Outcome::Failed => RESTART,
            _ => self.hold,
        };
        if after.is_none() && age + AGAIN_LATER > end {
            return true;
        }
        question.times += 1;
        match self.repeat(due, question.clone()) {
            // Whoever had to go is not waited for any more; the answer says so.
            Some(gone) => gone == question,
            None => false,
        }
    }

    /// What was given up.
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// Questions whose turn comes too late to be of use, for an answer of "not known".
    pub fn overdue(&mut self, now: Instant) -> Option<Question> {
        let entry = self.retries.first_entry()?;
        let late = now.saturating_duration_since(entry.key().0) > AGAIN_LATER;
        late.then(|| {
            self.skipped.retries += 1;
            entry.remove()
        })
    }

    fn repeat(&mut self, due: Instant, question: Question) -> Option<Question> {
        self.number += 1;
        self.retries.insert((due, self.number), question);
        if self.retries.len() <= RETRIES_MAX {
            return None;
        }
        self.skipped.retries += 1;
        self.retries.pop_last().map(|(_, question)| question)
    }

    fn refill(&mut self, now: Instant) {
        let (credit, at) = self.credit;
        let per_second = f64::from(RETRIES_PER_SECOND);
        let new = now.saturating_duration_since(at).as_secs_f64() * per_second;
        self.credit = ((credit + new).min(per_second), now.max(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_millis(500);

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    /// When an id is asked for in milliseconds, if the runtimes always answer so, at once.
    fn asked_at(outcome: Outcome, hold: Duration) -> Vec<u64> {
        let start = Instant::now();
        let mut schedule = Schedule::new(hold, start);
        assert_eq!(schedule.add("a".into(), true, start), None);
        let mut asked = Vec::new();
        for ms in 0..20_000 {
            while let Some(question) = schedule.next(at(start, ms)) {
                asked.push(ms);
                schedule.done(question, outcome, at(start, ms));
            }
        }
        assert_eq!((schedule.due(), schedule.under_way), (None, 0));
        asked
    }

    #[test]
    fn an_id_is_asked_for_a_few_times() {
        let check = |outcome, hold_ms, expected: &[u64]| {
            let asked = asked_at(outcome, Duration::from_millis(hold_ms));
            assert_eq!(asked, expected, "{outcome:?} {hold_ms}");
        };
        check(Outcome::Found { started: true }, 500, &[0]);
        check(Outcome::Found { started: false }, 500, &[0, 1000]);
        check(Outcome::NotFound, 500, &[0, 40, 160, 450, 1000]);
        check(Outcome::NotFound, 0, &[0, 40, 160, 450, 1000]);
        check(
            Outcome::NotFound,
            3000,
            &[0, 40, 160, 450, 1000, 2000, 3000],
        );
        let failed = asked_at(Outcome::Failed, HOLD);
        assert_eq!(
            (failed.len(), failed.last()),
            (14, Some(&10_000)),
            "{failed:?}"
        );
    }

    #[test]
    fn a_container_nobody_waits_for_is_asked_for_once() {
        let start = Instant::now();
        let mut schedule = Schedule::new(HOLD, start);
        schedule.add("a".into(), false, start);
        let question = schedule.next(start).expect("it is due");
        assert!(schedule.done(question, Outcome::NotFound, start));
        assert_eq!((schedule.due(), schedule.retries_under_way), (None, 0));
    }

    #[test]
    fn a_new_container_goes_before_whatever_is_not_found() {
        let start = Instant::now();
        let mut schedule = Schedule::new(HOLD, start);
        let mut under_way: VecDeque<(u64, Question)> = VecDeque::new();
        let (mut asked, mut given_up) = (0, 0);
        // Ten seconds in which two unknown ids come every millisecond, and a runtime that takes 20 ms for each.
        for ms in 0..10_000 {
            let now = at(start, ms);
            for number in 0..2 {
                let id = format!("unknown {ms} {number}");
                given_up += u64::from(schedule.add(id.into(), true, now).is_some());
            }
            if ms % 100 == 99 {
                let id = format!("real {ms}");
                given_up += u64::from(schedule.add(id.into(), true, now).is_some());
            }
            while under_way.front().is_some_and(|(end, _)| *end <= ms) {
                let (_, question) = under_way.pop_front().expect("it is there");
                let outcome = if question.id.starts_with("real") {
                    let waited = now - question.first;
                    assert!(
                        waited <= Duration::from_millis(40),
                        "{question:?} {waited:?}"
                    );
                    Outcome::Found { started: true }
                } else {
                    Outcome::NotFound
                };
                schedule.done(question, outcome, now);
            }
            while schedule.overdue(now).is_some() {}
            while let Some(question) = schedule.next(now) {
                asked += 1;
                under_way.push_back((ms + 20, question));
            }
            assert!(under_way.len() <= UNDER_WAY_MAX);
            assert!(schedule.fresh.len() <= FRESH_MAX && schedule.retries.len() <= RETRIES_MAX);
        }
        assert!(asked > 15_000, "the runtime is kept busy: {asked}");
        let skipped = schedule.skipped();
        assert_eq!(skipped.overrun, given_up);
        assert!(given_up > 1000 && skipped.retries > 1000, "{skipped:?}");
    }

    #[test]
    fn repeated_questions_without_an_answer_are_few() {
        let start = Instant::now();
        let mut schedule = Schedule::new(HOLD, start);
        let (mut asked, mut answered) = (0, 0);
        // 110 unknown ids a second, as a shell loop makes them.
        for ms in 0..10_000 {
            let now = at(start, ms);
            if ms % 9 == 0 {
                schedule.add(format!("{ms}").into(), true, now);
            }
            while schedule.overdue(now).is_some() {
                answered += 1;
            }
            while let Some(question) = schedule.next(now) {
                asked += u32::from(question.times > 0);
                answered += u32::from(schedule.done(question, Outcome::NotFound, now));
            }
        }
        assert!(asked <= RETRIES_PER_SECOND * 11, "{asked}");
        assert!(
            answered > 800,
            "whoever is asked for is answered: {answered}"
        );
        assert!(schedule.skipped().retries > 100, "{:?}", schedule.skipped());
    }
}
