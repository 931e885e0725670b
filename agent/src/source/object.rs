//! The kernel object that the build script made, and the check that it is the one this agent was built with.

use aya_obj::Object;
use saker_ebpf::wire::{TABLE, TABLE_SECTION};

use super::errors::SensorError;

/// The object file.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/saker-probes"));

/// Compares the wire format that `object` says it speaks with this agent's.
pub fn check(object: &[u8]) -> Result<(), SensorError> {
    let damaged = |found: String| SensorError::ObjectDamaged { found };
    let parsed = Object::parse(object).map_err(|error| damaged(error.to_string()))?;
    let table = parsed
        .maps
        .get(TABLE_SECTION)
        .ok_or_else(|| damaged(format!("it has no section {TABLE_SECTION}")))?;
    if table.data() != TABLE.to_bytes() {
        return Err(damaged(
            "its records are laid out differently from this agent's".to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_object_speaks_this_wire_format() {
        check(OBJECT).expect("the object is the one just built");
    }

    #[test]
    fn other_objects_are_refused() {
        let check = |object: &[u8], expected: &str| {
            let error = check(object).expect_err("must be refused").to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(b"", "damaged");
        check(b"not an object", "damaged");
        check(&OBJECT[..OBJECT.len() / 2], "damaged");
        // The same object with one number of its table changed.
        let mut other = OBJECT.to_vec();
        let table = TABLE.to_bytes();
        let at = other
            .windows(table.len())
            .position(|window| window == table)
            .expect("the table is in the object");
        other[at + 8] ^= 1;
        check(&other, "laid out differently");
    }
}
