//! When losses are reported: the first of a cause at once, further ones of it once a minute, so that a loss that goes on is no
//! flood of alerts. What has not been reported is, when the agent stops.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use saker_ebpf::wire::share::ShareKey;

/// How often a cause is reported.
const PAUSE: Duration = Duration::from_secs(60);

/// What was reported.
#[derive(Debug, Default)]
pub struct Losses {
    causes: BTreeMap<&'static str, Reported>,
    /// Of cgroups that had more than their share, how many were left out at the last look.
    shares: BTreeMap<ShareKey, u64>,
}

#[derive(Debug)]
struct Reported {
    total: u64,
    at: Instant,
}

impl Losses {
    /// How many losses of this cause are to be reported now. `total` is of all times; `last`: there will be no later time.
    pub fn due(
        &mut self,
        cause: &'static str,
        total: u64,
        now: Instant,
        last: bool,
    ) -> Option<u64> {
        if let Some(reported) = self.causes.get(cause)
            && (total <= reported.total || !last && now < reported.at + PAUSE)
        {
            return None;
        }
        if total == 0 {
            return None;
        }
        let before = self
            .causes
            .insert(cause, Reported { total, at: now })
            .map_or(0, |reported| reported.total);
        Some(total - before)
    }

    /// The cgroup of which most was left out since the last look.
    pub fn most_over_share(&mut self, left_out: &[(ShareKey, u64)]) -> Option<u64> {
        let since = |(key, count): &(ShareKey, u64)| {
            // A share that was forgotten and has begun anew counts from 0 again.
            let before = self.shares.get(key).filter(|before| *before <= count);
            count - before.copied().unwrap_or(0)
        };
        let most = left_out
            .iter()
            .map(|share| (since(share), share.0.cgroup_id))
            .max()
            .filter(|(count, _)| *count > 0);
        self.shares = left_out.iter().copied().collect();
        most.map(|(_, cgroup_id)| cgroup_id)
    }
}

#[cfg(test)]
mod tests {
    use saker_ebpf::wire::share::SHARE_OF_ACTS;

    use super::*;

    #[test]
    fn a_cause_is_reported_at_once_and_then_once_a_minute() {
        let mut losses = Losses::default();
        let start = Instant::now();
        let mut check = |after_s: u64, total: u64, last: bool, expected: Option<u64>| {
            let now = start + Duration::from_secs(after_s);
            let due = losses.due("ring_full", total, now, last);
            assert_eq!(due, expected, "{total} after {after_s} s");
        };
        check(0, 0, false, None);
        check(1, 5, false, Some(5));
        check(2, 7, false, None);
        check(60, 9, false, None);
        check(61, 9, false, Some(4));
        check(200, 9, false, None);
        check(200, 10, false, Some(1));
        check(201, 12, true, Some(2));
        check(201, 12, true, None);
        // Another cause has a time of its own.
        assert_eq!(losses.due("too_big", 1, start, false), Some(1));
    }

    #[test]
    fn who_lost_most_since_is_named() {
        let mut losses = Losses::default();
        let mut check = |left_out: &[(u64, u64)], expected: Option<u64>| {
            let left_out: Vec<_> = left_out
                .iter()
                .map(|(cgroup_id, count)| {
                    let key = ShareKey {
                        cgroup_id: *cgroup_id,
                        part: SHARE_OF_ACTS,
                    };
                    (key, *count)
                })
                .collect();
            assert_eq!(losses.most_over_share(&left_out), expected, "{left_out:?}");
        };
        check(&[], None);
        check(&[(1, 10), (2, 20)], Some(2));
        check(&[(1, 10), (2, 20)], None);
        check(&[(1, 19), (2, 25)], Some(1));
        // Begun anew.
        check(&[(1, 3), (2, 26)], Some(1));
    }
}
