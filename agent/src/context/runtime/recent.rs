//! Answers that are asked for again and again within moments: the pod of two hundred containers, the image of all replicas.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Answers kept at once; beyond it all are dropped and asked for again.
const MAX: usize = 1024;

/// Answers by what was asked, for a short time: a tag may move, an address may come.
#[derive(Debug)]
pub struct Recent<V> {
    keep: Duration,
    answers: Mutex<HashMap<Box<str>, (Instant, V)>>,
}

impl<V: Clone> Recent<V> {
    /// Empty; an answer counts for so long.
    pub fn new(keep: Duration) -> Self {
        Self {
            keep,
            answers: Mutex::default(),
        }
    }

    /// The answer, unless it is too old.
    pub fn get(&self, asked: &str, now: Instant) -> Option<V> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, answer) = answers.get(asked)?;
        (now.saturating_duration_since(*at) < self.keep).then(|| answer.clone())
    }

    /// Keeps an answer.
    pub fn put(&self, asked: &str, answer: V, now: Instant) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MAX {
            answers.clear();
        }
        answers.insert(asked.into(), (now, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_for_a_while_and_there_are_not_too_many() {
        let recent = Recent::new(Duration::from_secs(10));
        let now = Instant::now();
        assert_eq!(recent.get("a", now), None);
        recent.put("a", 1, now);
        assert_eq!(recent.get("a", now + Duration::from_secs(9)), Some(1));
        assert_eq!(recent.get("a", now + Duration::from_secs(10)), None);
        for number in 0..10 * MAX {
            recent.put(&number.to_string(), 0, now);
        }
        assert!(recent.answers.lock().expect("nobody panicked").len() <= MAX);
    }
}
