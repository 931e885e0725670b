//! A value over the last hour, and what it came to over some part of it.

use std::collections::VecDeque;

const SECOND_NS: u64 = 1_000_000_000;
/// The longest window of fields, and how many looks it holds at one a second.
const WINDOW_NS: u64 = 3_600 * SECOND_NS;
const WINDOW_MAX: usize = 3_700;

/// A value over time.
#[derive(Debug, Default)]
pub struct Window {
    points: VecDeque<(u64, f32)>,
}

/// What a window holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub deviation: f64,
    /// Least value.
    pub least: f64,
}

impl Window {
    /// Adds the newest value.
    pub fn add(&mut self, at_ns: u64, value: f32) {
        self.points.push_back((at_ns, value));
        while self.points.len() > WINDOW_MAX
            || self
                .points
                .front()
                .is_some_and(|(at, _)| at.saturating_add(WINDOW_NS * 2) < at_ns)
        {
            self.points.pop_front();
        }
    }

    /// The values of the last so many nanoseconds; `None` while values do not go back that far.
    pub fn over(&self, length_ns: u64) -> Option<Summary> {
        let (newest, _) = self.points.back()?;
        let from = newest.checked_sub(length_ns)?;
        if self.points.front()?.0 > from {
            return None;
        }
        let first = self.points.partition_point(|(at, _)| *at < from);
        let values = || {
            self.points
                .range(first..)
                .map(|(_, value)| f64::from(*value))
        };
        let count = (self.points.len() - first) as f64;
        let mean = values().sum::<f64>() / count;
        let variance = values().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        Some(Summary {
            mean,
            deviation: variance.sqrt(),
            least: values().fold(f64::INFINITY, f64::min),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_speaks_once_it_is_filled() {
        let mut window = Window::default();
        for (at_s, value) in [(0, 90.0), (5, 100.0), (10, 80.0)] {
            window.add((100 + at_s) * SECOND_NS, value);
        }
        assert_eq!(window.over(11 * SECOND_NS), None);
        let all = window.over(10 * SECOND_NS).expect("it is filled");
        assert_eq!((all.mean, all.least), (90.0, 80.0));
        assert!((all.deviation - (200.0_f64 / 3.0).sqrt()).abs() < 1e-9);
        assert_eq!(window.over(5 * SECOND_NS).map(|part| part.mean), Some(90.0));
    }
}
