//! Names of addresses: what each container was told by DNS.
//!
//! Not reverse DNS, which says what the owner of an address likes, and not shared: what one container was told means nothing
//! for another. An address has every name that led to it, the aliases between included. They are kept as long as the answer
//! allows, but at least ten minutes, because programs go on using an address long after it, and at most a day.
//!
//! A container that runs its own server can be told anything by it: the names are as true as the answers that it gets.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use rustc_hash::FxHashMap;

use super::{container::Owner, dns::Answer};

const SECOND_NS: u64 = 1_000_000_000;
const KEPT_MIN_S: u32 = 600;
const KEPT_MAX_S: u32 = 86_400;

/// Names of one address, addresses of one container, and names and bytes of all together.
const NAMES_MAX: usize = 32;
const ADDRESSES_MAX: usize = 4_096;
const ENTRIES_MAX: usize = 65_536;
const BYTES_MAX: usize = 8 << 20;

/// Addresses that are forgotten at a time when all together are too many: looking for the container that has most costs more
/// than forgetting.
const FORGOTTEN_AT_ONCE: usize = 64;

/// What an entry takes besides its name, roughly.
const ENTRY_BYTES: usize = 96;

/// The names that each container knows addresses by.
#[derive(Debug, Default)]
pub struct Resolved {
    containers: FxHashMap<Arc<str>, Names>,
    entries: usize,
    bytes: usize,
    evicted: u64,
}

#[derive(Debug, Default)]
struct Names {
    /// Addresses are chosen by whoever answers, so the hash is one that cannot be computed from outside.
    by_address: HashMap<IpAddr, Vec<Entry>>,
    /// The addresses, the one that was learnt first in front.
    order: VecDeque<IpAddr>,
    entries: usize,
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    until_ns: u64,
}

impl Entry {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.name.len()
    }
}

/// The containers' names are apart from the host's, which has none for a key.
fn key(owner: &Owner) -> Option<&str> {
    match owner {
        Owner::Host => Some(""),
        _ => owner.full_id(),
    }
}

impl Resolved {
    /// Takes in what an owner was told at `now_ns`, on the boot clock. What nobody known was told is nobody's.
    pub fn learn(&mut self, owner: &Owner, answer: &Answer, now_ns: u64) {
        let (Some(key), Some(asked)) = (key(owner), &answer.name) else {
            return;
        };
        if answer.addresses.is_empty() {
            return;
        }
        let kept_s = answer.ttl_s.clamp(KEPT_MIN_S, KEPT_MAX_S);
        let until_ns = now_ns.saturating_add(u64::from(kept_s) * SECOND_NS);
        let chain: Vec<Arc<str>> = std::iter::once(asked)
            .chain(&answer.cnames)
            .take(NAMES_MAX)
            .map(|name| Arc::from(&**name))
            .collect();
        if !self.containers.contains_key(key) {
            self.containers.insert(key.into(), Names::default());
        }
        let Some(names) = self.containers.get_mut(key) else {
            return;
        };
        for address in &answer.addresses {
            if !names.by_address.contains_key(address) {
                if names.order.len() >= ADDRESSES_MAX {
                    let (entries, bytes) = names.forget_first();
                    self.entries -= entries;
                    self.bytes -= bytes;
                    self.evicted += entries as u64;
                }
                names.order.push_back(*address);
            }
            let known = names.by_address.entry(*address).or_default();
            for name in &chain {
                if let Some(entry) = known.iter_mut().find(|entry| entry.name == *name) {
                    entry.until_ns = entry.until_ns.max(until_ns);
                    continue;
                }
                let entry = Entry {
                    name: Arc::clone(name),
                    until_ns,
                };
                self.bytes += entry.bytes();
                if known.len() < NAMES_MAX {
                    known.push(entry);
                    names.entries += 1;
                    self.entries += 1;
                } else if let Some(soonest) = known.iter_mut().min_by_key(|entry| entry.until_ns) {
                    self.bytes -= soonest.bytes();
                    self.evicted += 1;
                    *soonest = entry;
                }
            }
        }
        self.shrink();
    }

    /// The names that an owner knows an address by, in the order in which they were learnt.
    pub fn names<'a>(
        &'a self,
        owner: &Owner,
        address: IpAddr,
        now_ns: u64,
    ) -> impl Iterator<Item = &'a str> + use<'a> {
        key(owner)
            .and_then(|key| self.containers.get(key))
            .and_then(|names| names.by_address.get(&address))
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .filter(move |entry| entry.until_ns >= now_ns)
            .map(|entry| &*entry.name)
    }

    /// Forgets what is too old. Looks at everything, so it is for now and then.
    pub fn sweep(&mut self, now_ns: u64) {
        let (mut entries, mut bytes) = (0, 0);
        self.containers.retain(|_, names| {
            names.by_address.retain(|_, known| {
                known.retain(|entry| entry.until_ns >= now_ns);
                entries += known.len();
                bytes += known.iter().map(Entry::bytes).sum::<usize>();
                !known.is_empty()
            });
            names.entries = names.by_address.values().map(Vec::len).sum();
            let by_address = &names.by_address;
            names
                .order
                .retain(|address| by_address.contains_key(address));
            !names.order.is_empty()
        });
        (self.entries, self.bytes) = (entries, bytes);
    }

    /// Names that are kept, their bytes, and how many were forgotten for room.
    pub fn sizes(&self) -> (usize, usize, u64) {
        (self.entries, self.bytes, self.evicted)
    }

    /// While all containers together have too many, the one with most loses its oldest.
    fn shrink(&mut self) {
        while self.entries > ENTRIES_MAX || self.bytes > BYTES_MAX {
            let Some(most) = self
                .containers
                .values_mut()
                .max_by_key(|names| names.entries)
            else {
                return;
            };
            for _ in 0..FORGOTTEN_AT_ONCE.min(most.order.len()) {
                let (entries, bytes) = most.forget_first();
                self.entries -= entries;
                self.bytes -= bytes;
                self.evicted += entries as u64;
            }
            self.containers.retain(|_, names| !names.order.is_empty());
        }
    }
}

impl Names {
    /// Forgets the address that was learnt first; returns its names and their bytes.
    fn forget_first(&mut self) -> (usize, usize) {
        let known = self
            .order
            .pop_front()
            .and_then(|address| self.by_address.remove(&address))
            .unwrap_or_default();
        self.entries -= known.len();
        (known.len(), known.iter().map(Entry::bytes).sum())
    }
}

#[cfg(test)]
mod tests;
