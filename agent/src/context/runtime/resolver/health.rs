//! Whether a runtime answers, and when the log says so: once when it stops, once when it has answered again for a while, and
//! however it flaps not twice a minute.

use std::time::{Duration, Instant};

/// For so long it has to answer before that is news.
const STEADY: Duration = Duration::from_secs(2);
/// Between two lines that say that it does not answer.
const QUIET: Duration = Duration::from_secs(60);
/// So many containers in a row that it does not tell of, and it is the runtime that is broken.
const REFUSED_MAX: u32 = 5;

/// What the log is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It does not answer.
    Stopped,
    /// It answers again.
    Again,
    /// It answers, but cannot tell of one container.
    Refused,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Health {
    failing: bool,
    /// Whether the log's last word was that it does not answer.
    told: bool,
    told_at: Option<Instant>,
    good_since: Option<Instant>,
    /// Containers in a row that it could not tell of, and when that was told.
    refused: u32,
    refused_at: Option<Instant>,
}

impl Health {
    /// It does not answer now, or only with nonsense.
    pub fn is_failing(&self) -> bool {
        self.failing
    }

    /// It told of a container, or that there is none.
    pub fn told_of_container(&mut self, now: Instant) {
        self.refused = 0;
        self.answered(now);
    }

    /// It answered something.
    pub fn answered(&mut self, now: Instant) {
        if self.refused < REFUSED_MAX {
            self.failing = false;
            self.good_since.get_or_insert(now);
        }
    }

    /// It answered a question for one container with an error or with nonsense.
    pub fn refused(&mut self, now: Instant) -> Option<News> {
        self.refused = self.refused.saturating_add(1);
        if self.refused >= REFUSED_MAX {
            return self.failed(now);
        }
        let quiet = is_over(self.refused_at, QUIET, now);
        quiet.then(|| {
            self.refused_at = Some(now);
            News::Refused
        })
    }

    /// It did not answer, or not in a way that could be read.
    pub fn failed(&mut self, now: Instant) -> Option<News> {
        self.failing = true;
        self.good_since = None;
        if self.told || !is_over(self.told_at, QUIET, now) {
            return None;
        }
        (self.told, self.told_at) = (true, Some(now));
        Some(News::Stopped)
    }

    /// Now and then: whether it has come back.
    pub fn settled(&mut self, now: Instant) -> Option<News> {
        if !self.told || self.good_since.is_none() || !is_over(self.good_since, STEADY, now) {
            return None;
        }
        self.told = false;
        Some(News::Again)
    }
}

fn is_over(since: Option<Instant>, time: Duration, now: Instant) -> bool {
    since.is_none_or(|since| now.saturating_duration_since(since) >= time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn an_outage_is_told_once_and_its_end_once() {
        let start = Instant::now();
        let mut health = Health::default();
        health.answered(start);
        assert_eq!(health.settled(at(start, 9)), None);
        assert_eq!(health.failed(at(start, 10)), Some(News::Stopped));
        for second in 11..100 {
            assert_eq!(health.failed(at(start, second)), None);
            assert_eq!(health.settled(at(start, second)), None);
        }
        assert!(health.is_failing());
        health.answered(at(start, 100));
        assert!(!health.is_failing());
        assert_eq!(health.settled(at(start, 101)), None);
        assert_eq!(health.settled(at(start, 102)), Some(News::Again));
        assert_eq!(health.settled(at(start, 110)), None);
        assert_eq!(health.failed(at(start, 200)), Some(News::Stopped));
    }

    #[test]
    fn a_flapping_runtime_does_not_fill_the_log() {
        for period in [1, 2, 5, 30] {
            let start = Instant::now();
            let mut health = Health::default();
            let mut lines = 0;
            for second in 0..3600 {
                let now = at(start, second);
                if second / period % 2 == 0 {
                    lines += u32::from(health.failed(now).is_some());
                } else {
                    health.answered(now);
                }
                lines += u32::from(health.settled(now).is_some());
            }
            assert!((1..=120).contains(&lines), "{period}: {lines}");
        }
    }

    #[test]
    fn one_bad_container_is_no_bad_runtime() {
        let start = Instant::now();
        let mut health = Health::default();
        for second in 0..59 {
            let expected = (second == 0).then_some(News::Refused);
            assert_eq!(health.refused(at(start, second)), expected);
            assert!(!health.is_failing());
            health.told_of_container(at(start, second));
        }
        for second in 70..73 {
            health.refused(at(start, second));
        }
        assert_eq!(health.refused(at(start, 74)), None);
        assert_eq!(health.refused(at(start, 75)), Some(News::Stopped));
        // That it lists its containers does not make its answers about them better.
        health.answered(at(start, 76));
        assert!(health.is_failing());
        health.told_of_container(at(start, 77));
        assert!(!health.is_failing());
    }
}
