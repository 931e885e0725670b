//! All bounds that a number meets: sorted bounds, of which a number meets a prefix or a suffix.
//!
//! Numbers of every type are mapped to `u64` so that their order is kept; strict bounds become inclusive ones of the next number.

use super::{Pool, PoolRef, Span};

/// Lower and upper bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Bounds {
    /// Two quads each: the bound (`value >= bound`), ascending; the key.
    pub at_least: Span,
    /// Two quads each: the bound (`value <= bound`), descending; the key.
    pub at_most: Span,
}

/// A bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bound {
    /// Met by numbers from here on.
    AtLeast(u64),
    /// Met by numbers up to here.
    AtMost(u64),
}

/// Builds the table. Each bound stands once.
pub fn build(pool: &mut Pool, bounds: impl Iterator<Item = (Bound, u32)>) -> Bounds {
    let (mut at_least, mut at_most) = (Vec::new(), Vec::new());
    for (bound, key) in bounds {
        match bound {
            Bound::AtLeast(bound) => at_least.push([bound, u64::from(key)]),
            Bound::AtMost(bound) => at_most.push([bound, u64::from(key)]),
        }
    }
    at_least.sort_unstable();
    at_most.sort_unstable_by_key(|&bound| core::cmp::Reverse(bound));
    Bounds {
        at_least: pool.add_quads(at_least.as_flattened()),
        at_most: pool.add_quads(at_most.as_flattened()),
    }
}

/// Calls `hit` with the key of every bound that the number meets.
#[inline]
pub fn find(pool: PoolRef<'_>, table: Bounds, number: u64, mut hit: impl FnMut(u32)) {
    let least = pool.quads(table.at_least).as_chunks::<2>().0;
    for bound in least.iter().take_while(|bound| bound[0] <= number) {
        hit(bound[1] as u32);
    }
    let most = pool.quads(table.at_most).as_chunks::<2>().0;
    for bound in most.iter().take_while(|bound| bound[0] >= number) {
        hit(bound[1] as u32);
    }
}

/// An `i64` as a `u64` of the same order.
#[inline]
pub fn ordered_int(number: i64) -> u64 {
    (number as u64) ^ (1 << 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bounds: &[Bound], number: u64, expected: &[u32]) {
        let mut pool = Pool::default();
        let table = build(
            &mut pool,
            bounds
                .iter()
                .enumerate()
                .map(|(key, &bound)| (bound, key as u32)),
        );
        let mut found = Vec::new();
        find(pool.as_ref(), table, number, |key| found.push(key));
        found.sort_unstable();
        assert_eq!(found, expected, "{number} against {bounds:?}");
    }

    #[test]
    fn yields_every_bound_met() {
        use Bound::{AtLeast, AtMost};
        let bounds = [
            AtLeast(10),
            AtLeast(0),
            AtLeast(u64::MAX),
            AtMost(10),
            AtMost(0),
            AtMost(u64::MAX),
        ];
        check(&bounds, 10, &[0, 1, 3, 5]);
        check(&bounds, 9, &[1, 3, 5]);
        check(&bounds, 11, &[0, 1, 5]);
        check(&bounds, 0, &[1, 3, 4, 5]);
        check(&bounds, u64::MAX, &[0, 1, 2, 5]);
    }

    #[test]
    fn keeps_the_order_of_signed_numbers() {
        let numbers = [i64::MIN, -2, -1, 0, 1, i64::MAX];
        assert!(numbers.map(ordered_int).is_sorted());
    }
}
