//! All networks that an address lies in: networks nest or are disjoint, so the innermost one is found by binary search and names its parent.
//!
//! Each family has its own table: whether an IPv4 address lies in an IPv6 network is not for a table to say.

use super::{Pool, PoolRef, Span};
use std::net::IpAddr;

/// Sorted starts of segments, and what holds in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Nets {
    /// IPv4: two words each: first address of a segment, its innermost network plus one.
    pub v4: Span,
    /// IPv6: five words each: first address, highest word first, innermost network plus one.
    pub v6: Span,
    /// Two words a network: key, parent plus one.
    pub nets: Span,
}

/// Builds the table. Each network stands once; host bits are ignored.
pub fn build(pool: &mut Pool, networks: impl Iterator<Item = ((IpAddr, u8), u32)>) -> Nets {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for ((address, len), key) in networks {
        match address {
            IpAddr::V4(address) => v4.push(range(u128::from(u32::from(address)), len, 32, key)),
            IpAddr::V6(address) => v6.push(range(u128::from(address), len, 128, key)),
        }
    }
    let mut nets = Vec::new();
    let v4 = segments(v4, &mut nets);
    let v6 = segments(v6, &mut nets);
    let v4: Vec<u32> = v4
        .iter()
        .filter_map(|&(start, net)| Some([u32::try_from(start).ok()?, net]))
        .flatten()
        .collect();
    let v6: Vec<u32> = v6
        .iter()
        .flat_map(|&(start, net)| {
            [
                (start >> 96) as u32,
                (start >> 64) as u32,
                (start >> 32) as u32,
                start as u32,
                net,
            ]
        })
        .collect();
    Nets {
        v4: pool.add_words(&v4),
        v6: pool.add_words(&v6),
        nets: pool.add_words(&nets),
    }
}

/// First and last address, and the key.
fn range(address: u128, len: u8, bits: u8, key: u32) -> (u128, u128, u32) {
    let host = u32::from(bits - len.min(bits));
    let hosts = 1_u128.checked_shl(host).map_or(u128::MAX, |size| size - 1);
    (address & !hosts, address | hosts, key)
}

fn segments(mut ranges: Vec<(u128, u128, u32)>, nets: &mut Vec<u32>) -> Vec<(u128, u32)> {
    // Outer networks before inner ones that start at the same address.
    ranges.sort_unstable_by_key(|&(first, last, key)| (first, core::cmp::Reverse(last), key));
    let mut segments: Vec<(u128, u32)> = Vec::new();
    let mut open: Vec<(u128, u32)> = Vec::new();
    let mut add = |start, net| match segments.last_mut() {
        Some(segment) if segment.0 == start => segment.1 = net,
        _ => segments.push((start, net)),
    };
    for (first, last, key) in ranges {
        while let Some(&(end, _)) = open.last().filter(|&&(end, _)| end < first) {
            open.pop();
            add(end + 1, open.last().map_or(0, |&(_, net)| net));
        }
        nets.extend([key, open.last().map_or(0, |&(_, net)| net)]);
        let net = (nets.len() / 2) as u32;
        add(first, net);
        open.push((last, net));
    }
    while let Some((end, _)) = open.pop() {
        if let Some(after) = end.checked_add(1) {
            add(after, open.last().map_or(0, |&(_, net)| net));
        }
    }
    segments
}

/// Calls `hit` with the key of every network that the address lies in.
#[inline]
pub fn find(pool: PoolRef<'_>, table: Nets, address: IpAddr, mut hit: impl FnMut(u32)) {
    let mut net = match address {
        IpAddr::V4(address) => {
            let address = u32::from(address);
            let starts = pool.words(table.v4).as_chunks::<2>().0;
            let above = starts.partition_point(|segment| segment[0] <= address);
            above
                .checked_sub(1)
                .and_then(|at| starts.get(at))
                .map_or(0, |segment| segment[1])
        }
        IpAddr::V6(address) => {
            let address = u128::from(address);
            let starts = pool.words(table.v6).as_chunks::<5>().0;
            let above = starts.partition_point(|segment| {
                let start = segment[..4]
                    .iter()
                    .fold(0_u128, |start, &word| start << 32 | u128::from(word));
                start <= address
            });
            above
                .checked_sub(1)
                .and_then(|at| starts.get(at))
                .map_or(0, |segment| segment[4])
        }
    };
    let nets = pool.words(table.nets).as_chunks::<2>().0;
    // A parent stands before its child, so the chain ends, also in a damaged table.
    while let Some(&[key, parent]) = net
        .checked_sub(1)
        .and_then(|index| nets.get(index as usize))
    {
        hit(key);
        net = if parent < net { parent } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> (IpAddr, u8) {
        let (address, len) = text.split_once('/').unwrap();
        (address.parse().unwrap(), len.parse().unwrap())
    }

    fn check(nets: &[&str], address: &str, expected: &[u32]) {
        let mut pool = Pool::default();
        let table = build(
            &mut pool,
            nets.iter()
                .enumerate()
                .map(|(key, text)| (net(text), key as u32)),
        );
        let mut found = Vec::new();
        find(pool.as_ref(), table, address.parse().unwrap(), |key| {
            found.push(key);
        });
        found.sort_unstable();
        assert_eq!(found, expected, "{address} in {nets:?}");
    }

    #[test]
    fn yields_every_network_around_an_address() {
        let nets = [
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.2.0/24",
            "192.168.0.0/16",
            "0.0.0.0/0",
            "2001:db8::/32",
            "255.255.255.255/32",
        ];
        check(&nets, "10.1.2.3", &[0, 1, 2, 4]);
        check(&nets, "10.1.3.3", &[0, 1, 4]);
        check(&nets, "10.2.0.0", &[0, 4]);
        check(&nets, "9.255.255.255", &[4]);
        check(&nets, "192.168.255.255", &[3, 4]);
        check(&nets, "192.169.0.0", &[4]);
        check(&nets, "255.255.255.255", &[4, 6]);
        check(&nets, "2001:db8::1", &[5]);
        check(&nets, "2001:db9::1", &[]);
        check(&nets, "::ffff:10.1.2.3", &[]);
        check(&["10.0.0.0/8"], "11.0.0.0", &[]);
        check(
            &["::/0", "ffff::/16"],
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            &[0, 1],
        );
        check(&[], "1.2.3.4", &[]);
    }
}
