//! GPUs as the sensor thread has them: who looks at them, and what the kernel side is asked for only while a driver of theirs is there.
//!
//! A node without one pays nothing for the rules on GPUs.

use std::collections::BTreeSet;

use tracing::{info, warn};

use crate::source::{
    HookStatus, Kind, Sensor, Wish,
    gpu::{Driver, Sampler},
};

/// Whom to tell how kinds of events are supplied from now on.
pub type Changed = Box<dyn Fn(Vec<HookStatus>, &Wish) + Send>;

/// Everything about it.
pub struct GpuSource {
    /// Looks at GPUs, where the configuration wants it.
    pub sampler: Option<Sampler>,
    /// Kinds that rules want besides while a driver is there.
    pub kinds: BTreeSet<Kind>,
    /// A driver is there, or was: programs that wait for one to come back are seen.
    pub is_present: bool,
    /// Whom to tell.
    pub changed: Changed,
}

impl GpuSource {
    /// What rules want, with what they want because of a driver that is there.
    pub fn and(&self, wish: Wish) -> Wish {
        if self.is_present {
            wish.besides(&self.kinds)
        } else {
            wish
        }
    }

    /// Has the kernel side report more once a driver is there.
    pub fn look_for_driver(&mut self, sensor: &mut Sensor) {
        let appeared = |sampler: &mut Sampler| sampler.watch() != Driver::Absent;
        if self.is_present || !self.sampler.as_mut().is_some_and(appeared) {
            return;
        }
        self.is_present = true;
        let before = sensor.wanted();
        let wish = before.besides(&self.kinds);
        if wish.kinds == before.kinds {
            return;
        }
        match sensor.want(&wish) {
            Ok(()) => {
                let kinds: Vec<_> = wish.kinds.difference(&before.kinds).collect();
                let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
                info!(
                    "a GPU driver is there: {} are watched too",
                    names.join(", ")
                );
            }
            Err(error) => {
                warn!("what rules on GPUs want besides cannot be supplied: {error}");
                if let Err(error) = sensor.want(&before) {
                    warn!("the kernel side cannot go back to what it reported: {error}");
                }
            }
        }
        (self.changed)(sensor.status().to_vec(), &sensor.wanted());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::OpenFilter;

    #[test]
    fn what_serves_gpus_alone_is_wanted_only_where_a_driver_is() {
        let mut gpus = GpuSource {
            sampler: None,
            kinds: BTreeSet::from([Kind::Tls, Kind::Dns]),
            is_present: false,
            changed: Box::new(|_, _| {}),
        };
        let wish = Wish {
            kinds: BTreeSet::from([Kind::Exec, Kind::Dns]),
            opens: OpenFilter::default(),
            environment: Vec::new(),
        };
        assert_eq!(gpus.and(wish.clone()), wish);
        gpus.is_present = true;
        let both = gpus.and(wish.clone());
        assert_eq!(
            both.kinds,
            BTreeSet::from([Kind::Exec, Kind::Dns, Kind::Tls])
        );
        // Other rules, which have nothing to do with GPUs.
        gpus.kinds.clear();
        assert_eq!(gpus.and(wish.clone()), wish);
    }
}
