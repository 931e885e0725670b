//! How many connections there may be, in all and of each peer, and how many there are.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The bounds, and who is there.
pub struct Peers<K: Copy + Eq + Hash>(Arc<Inner<K>>);

struct Inner<K> {
    all_max: usize,
    peer_max: usize,
    open: Mutex<HashMap<K, usize>>,
    /// Is told how many there are whenever that changes, in that order.
    show: Box<dyn Fn(usize) + Send + Sync>,
}

impl<K: Copy + Eq + Hash> Peers<K> {
    /// Nobody is there yet.
    pub fn new(
        all_max: usize,
        peer_max: usize,
        show: impl Fn(usize) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            all_max,
            peer_max,
            open: Mutex::default(),
            show: Box::new(show),
        }))
    }

    /// A place for one more connection, if there is one.
    pub fn enter(&self, peer: K) -> Option<Place<K>> {
        let mut open = self.open();
        let all: usize = open.values().sum();
        let of_peer = open.get(&peer).copied().unwrap_or(0);
        if all >= self.0.all_max || of_peer >= self.0.peer_max {
            return None;
        }
        open.insert(peer, of_peer + 1);
        (self.0.show)(all + 1);
        Some(Place {
            peers: self.clone(),
            peer,
        })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash> Clone for Peers<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Copy + Eq + Hash> fmt::Debug for Peers<K> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Peers").finish_non_exhaustive()
    }
}

/// One connection's place; given back when it is dropped.
#[derive(Debug)]
pub struct Place<K: Copy + Eq + Hash> {
    peers: Peers<K>,
    peer: K,
}

impl<K: Copy + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut open = self.peers.open();
        if let Some(count) = open.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.peer);
            }
        }
        (self.peers.0.show)(open.values().sum());
    }
}
