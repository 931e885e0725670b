//! A load of one's own, for what no [`crate::workload::Workload`] plays: phases that follow each other and begin anew at the end.
//!
//! `docs/mining-detection.md` describes every key with its unit and range; [`Script::check`] refuses what is outside.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::workload::{Dice, Load};

/// Most phases, and the longest of them, seconds.
const PHASES_MAX: usize = 100;
const PHASE_S_MAX: f32 = 86_400.0;

/// Phases.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Script {
    /// In their order.
    pub phases: Vec<Phase>,
}

/// A number: given, or drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Value {
    /// Drawn from here,
    pub from: f32,
    /// to here: once a seed, or
    pub to: f32,
    /// anew each moment.
    pub vary: bool,
    /// Standard deviation of what is added to it each moment.
    pub noise: f32,
}

impl Value {
    fn at(self, dice: &Dice, what: u64) -> f32 {
        let mean = if self.vary {
            dice.now(what, self.from, self.to)
        } else {
            dice.once(what, self.from, self.to)
        };
        if self.noise > 0.0 {
            mean + dice.noise(what, self.noise)
        } else {
            mean
        }
    }
}

macro_rules! phase {
    ($($(#[doc = $doc:literal])+ $name:ident $max:expr;)+) => {
        /// What a GPU does for some time.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Phase {
            /// How long it takes, seconds.
            pub for_s: Value,
            $($(#[doc = $doc])+ #[serde(skip_serializing_if = "is_nothing")] pub $name: Value,)+
        }

        impl Phase {
            fn load(&self, dice: &Dice, number: u64) -> Load {
                let mut what = number << 6;
                let mut next = |value: Value, max: f32| {
                    what += 1;
                    value.at(dice, what).clamp(0.0, max)
                };
                Load { $($name: next(self.$name, $max),)+ }
            }

            fn check(&self) -> Result<(), String> {
                within("for_s", self.for_s, PHASE_S_MAX)?;
                if self.for_s.from <= 0.0 {
                    return Err(format!("for_s: {} s is no time", self.for_s.from));
                }
                $(within(stringify!($name), self.$name, $max)?;)+
                Ok(())
            }
        }
    };
}

const PERCENT: f32 = 100.0;
/// Bytes a second: more than any bus or link has.
const RATE: f32 = 1e12;

phase! {
    /// Of the time, percent: what `nvidia-smi` shows.
    util PERCENT;
    /// Of the time that memory was accessed, percent.
    mem_util PERCENT;
    /// Of the multiprocessors, percent.
    sm PERCENT;
    /// Of the multiprocessors' places for warps, percent.
    occupancy PERCENT;
    /// Of the tensor cores, percent.
    tensor PERCENT;
    /// Of the integer pipes, percent.
    integer PERCENT;
    /// Of the FP16 pipes, percent.
    fp16 PERCENT;
    /// Of the FP32 pipes, percent.
    fp32 PERCENT;
    /// Of the FP64 pipes, percent.
    fp64 PERCENT;
    /// Of the memory's bandwidth, percent.
    dram PERCENT;
    /// Over PCIe to the card, bytes a second.
    pcie_rx RATE;
    /// Over PCIe from the card, bytes a second.
    pcie_tx RATE;
    /// Over NVLink, bytes a second.
    nvlink RATE;
    /// Of the power cap, percent.
    power PERCENT;
    /// Of the encoders, percent.
    encoder PERCENT;
    /// Of the decoders, percent.
    decoder PERCENT;
    /// Of the card's memory, percent.
    memory PERCENT;
}

impl Script {
    /// The load at second `t`; nothing where there are no phases.
    pub(crate) fn at(&self, dice: &Dice, t: f64) -> Load {
        let length = |number: usize, phase: &Phase| {
            // Drawn once a seed, whatever it says: the place of a moment must not depend on those before it.
            f64::from(dice.once(1 << 20 | number as u64, phase.for_s.from, phase.for_s.to))
        };
        let lengths = || self.phases.iter().enumerate();
        let round: f64 = lengths().map(|(number, phase)| length(number, phase)).sum();
        if round <= 0.0 {
            return Load::default();
        }
        let mut left = t.max(0.0) % round;
        for (number, phase) in lengths() {
            let length = length(number, phase);
            if left < length {
                return phase.load(dice, number as u64);
            }
            left -= length;
        }
        Load::default()
    }

    /// Is everything within its range? If not, what is not, by its key.
    pub fn check(&self) -> Result<(), String> {
        if self.phases.is_empty() {
            return Err("phases: there is none".into());
        }
        if self.phases.len() > PHASES_MAX {
            let count = self.phases.len();
            return Err(format!("phases: {count} are more than {PHASES_MAX}"));
        }
        for (number, phase) in self.phases.iter().enumerate() {
            let place = |error| format!("phases[{number}].{error}");
            phase.check().map_err(place)?;
        }
        Ok(())
    }
}

fn within(key: &str, value: Value, max: f32) -> Result<(), String> {
    let Value {
        from, to, noise, ..
    } = value;
    for number in [from, to, noise] {
        if !(0.0..=max).contains(&number) {
            return Err(format!("{key}: {number} is not within 0 and {max}"));
        }
    }
    if from > to {
        return Err(format!("{key}: from {from} is above to {to}"));
    }
    Ok(())
}

fn is_nothing(value: &Value) -> bool {
    *value == Value::default()
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a number, or an object with from, to, vary and noise")
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value, E> {
        let number = number as f32;
        Ok(Value {
            from: number,
            to: number,
            ..Value::default()
        })
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        self.visit_f64(number as f64)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value, E> {
        self.visit_f64(number as f64)
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Value, M::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Drawn {
            from: f32,
            to: f32,
            #[serde(default)]
            vary: bool,
            #[serde(default)]
            noise: f32,
        }
        let Drawn {
            from,
            to,
            vary,
            noise,
        } = Drawn::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Value {
            from,
            to,
            vary,
            noise,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Play;

    fn load(text: &str, t: f64) -> Load {
        let play: Play = serde_json::from_str(text).expect("it is JSON");
        play.check().expect("it is right");
        play.at(t)
    }

    #[test]
    fn phases_follow_each_other_and_begin_anew() {
        let text = r#"{"workload": "custom", "phases": [
            {"for_s": 60, "sm": 98, "integer": {"from": 40, "to": 50, "noise": 1}},
            {"for_s": 30, "sm": 5}]}"#;
        for (t, sm) in [
            (0.0, 98.0),
            (59.0, 98.0),
            (61.0, 5.0),
            (89.0, 5.0),
            (91.0, 98.0),
        ] {
            assert_eq!(load(text, t).sm, sm, "{t}");
        }
        let integer = load(text, 7.0).integer;
        assert!((35.0..55.0).contains(&integer), "{integer}");
        assert_eq!(load(text, 7.0), load(text, 7.0));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, expected: &str| {
            let found = serde_json::from_str::<Play>(text)
                .map_err(|error| error.to_string())
                .and_then(|play| play.check());
            let error = found.expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        };
        check(r#"{"workload": "custom"}"#, "phases: there is none");
        check(
            r#"{"workload": "ethash", "phases": [{"for_s": 1}]}"#,
            "phases: only the workload custom has some",
        );
        check(
            r#"{"workload": "custom", "phases": [{"for_s": 1}, {"for_s": 1, "sm": 130}]}"#,
            "phases[1].sm: 130 is not within 0 and 100",
        );
        check(
            r#"{"workload": "custom", "phases": [{"for_s": 1, "sm": {"from": 9, "to": 3}}]}"#,
            "phases[0].sm: from 9 is above to 3",
        );
        check(
            r#"{"workload": "custom", "phases": [{"sm": 3}]}"#,
            "phases[0].for_s: 0 s is no time",
        );
        check(
            r#"{"workload": "custom", "phases": [{"for_s": 1, "sn": 3}]}"#,
            "unknown field `sn`",
        );
        check(
            r#"{"workload": "custom", "phases": [{"for_s": 1, "sm": "3"}]}"#,
            "expected a number, or an object with from, to, vary and noise",
        );
        check(r#"{"workload": "mining"}"#, "unknown variant `mining`");
        check(
            r#"{"workload": "ethash", "cap": 3}"#,
            "cap: 3 is not within 0 and 1",
        );
        check(
            r#"{"workload": "ethash", "duty": [60, -1]}"#,
            "duty: 60 and -1 s are no turns",
        );
        check(
            r#"{"workload": "ethash", "ramp_s": -1}"#,
            "ramp_s: -1 is not within",
        );
    }
}
