//! Puts what is known of the running kernel into the programs' instructions: where it keeps the fields that they read.
//!
//! A number in an instruction costs nothing to look up, and a program reads some dozens of fields. To the verifier it is a constant, so
//! that it drops the code for fields that are not there.

use saker_ebpf::config::{CAST_TYPE, FIELDS, NUMBER_MARK};

use super::cast::Cast;
use super::errors::SensorError;

/// `r = number`, whatever the register.
const MOVE: u8 = 0xb7;

/// What stands in the place of a number in this instruction, if one does.
fn which(instruction: [u8; 8]) -> Option<u32> {
    let [code, _register, low, high, number @ ..] = instruction;
    let which = u32::from_le_bytes(number) ^ NUMBER_MARK;
    ([code, low, high] == [MOVE, 0, 0] && which <= CAST_TYPE).then_some(which)
}

/// Puts them in; `by_field` in the order of [`FIELDS`].
pub fn resolve(
    object: &mut [u8],
    by_field: &[u32; FIELDS.len()],
    cast: Option<Cast>,
) -> Result<(), SensorError> {
    // Instructions are aligned in the file as they are in memory.
    for instruction in object.chunks_exact_mut(8) {
        let Some(which) = instruction.try_into().ok().and_then(which) else {
            continue;
        };
        let number = match which {
            CAST_TYPE => cast.map_or(0, |cast| cast.type_number),
            field => *by_field
                .get(field as usize)
                .ok_or_else(|| refused(format!("nothing has the number {field}")))?,
        };
        // The instruction extends its sign.
        if i32::try_from(number).is_err() {
            return Err(refused(format!("{number} of {which} is too large")));
        }
        instruction[4..].copy_from_slice(&number.to_le_bytes());
    }
    Ok(())
}

fn refused(reason: String) -> SensorError {
    SensorError::Kernel {
        attempt: "preparing the kernel programs",
        reason,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::source::object::OBJECT;

    fn marks(object: &[u8], step: usize) -> Vec<u32> {
        object
            .windows(8)
            .step_by(step)
            .filter_map(|bytes| which(bytes.try_into().expect("eight bytes")))
            .collect()
    }

    #[test]
    fn every_number_is_put_in_and_nothing_else_is_touched() {
        let there = marks(OBJECT, 8);
        // Wherever the bytes stand, they are such an instruction.
        assert_eq!(marks(OBJECT, 1).len(), there.len());
        // Every field of the table is read somewhere, but those that only tell the loader something.
        let fields: BTreeSet<u32> = there.iter().copied().collect();
        let is_read = |key: &str| !matches!(key, "program_misses" | "css_set_subsys");
        let expected = (0..).zip(FIELDS).filter(|(_, field)| is_read(field.key));
        let expected = expected.map(|(at, _)| at).chain([CAST_TYPE]).collect();
        assert_eq!(fields, expected);

        let mut object = OBJECT.to_vec();
        let by_field = std::array::from_fn(|field| 4 * field as u32);
        let cast = Cast {
            function: 1,
            type_number: 0x0123_4567,
        };
        resolve(&mut object, &by_field, Some(cast)).expect("all are known");
        assert!(marks(&object, 1).is_empty());
        let changed: Vec<(&[u8], &[u8])> = OBJECT
            .chunks_exact(8)
            .zip(object.chunks_exact(8))
            .filter(|(before, after)| before != after)
            .collect();
        assert_eq!(changed.len(), there.len());
        for ((before, after), which) in changed.into_iter().zip(there) {
            assert_eq!(before[..4], after[..4]);
            let number = match which {
                CAST_TYPE => 0x0123_4567,
                field => 4 * field,
            };
            assert_eq!(after[4..], number.to_le_bytes());
        }
    }

    #[test]
    fn a_number_that_no_instruction_holds_is_refused() {
        let mut object = OBJECT.to_vec();
        let mut by_field = [0; FIELDS.len()];
        by_field[0] = u32::MAX;
        let error = resolve(&mut object, &by_field, None).expect_err("it is too large");
        assert!(error.to_string().contains("4294967295"), "{error}");
    }
}
