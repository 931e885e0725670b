//! A cgroup's share of the ring of what can be shed: so many events a second, and so many at once. One that makes more loses
//! its own, and nobody else's. What it has of new cgroups, which go into the other ring, is counted apart.
//!
//! A share is one moment: up to when it is used up. It is moved on by one addition for each event, which is exact also when
//! processors do so at once; between looking and adding, each may let one more through. Spin locks are not for tracing programs.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use saker_ebpf::wire::Kind;
use saker_ebpf::wire::share::{
    CGROUP_WEIGHT, SHARE_OF_ACTS, SHARE_OF_CGROUPS, SHARE_OF_PACKETS, SHARES_MAX, Share, ShareKey,
};

use crate::emit::{self, Outcome};
use crate::settings;

/// By cgroup. Whoever makes cgroups by the thousand makes others' shares begin anew, which lets more through and not less.
#[map]
static SHARES: LruHashMap<ShareKey, Share> = LruHashMap::with_max_entries(SHARES_MAX, 0);

/// Is there room in the cgroup's share for this event, which has passed every filter? Where not, it is counted as lost.
#[inline(always)]
pub fn admits(kind: Kind, cgroup_id: u64) -> bool {
    // SAFETY: the helper takes nothing.
    admits_at(kind, cgroup_id, unsafe { bpf_ktime_get_boot_ns() })
}

/// Likewise where the moment is known already.
#[inline(always)]
pub fn admits_at(kind: Kind, cgroup_id: u64, now_ns: u64) -> bool {
    let (interval_ns, burst_ns) = settings::share();
    if interval_ns == 0 || cgroup_id == settings::root_cgroup_id() {
        return true;
    }
    let (part, weight) = match kind {
        Kind::Dns => (SHARE_OF_PACKETS, 1),
        Kind::CgroupMkdir => (SHARE_OF_CGROUPS, CGROUP_WEIGHT),
        _ => (SHARE_OF_ACTS, 1),
    };
    let key = ShareKey { cgroup_id, part };
    let interval_ns = interval_ns * weight;
    // Who was quiet for longer has saved no more than this.
    let quiet_ns = now_ns.saturating_sub(burst_ns);
    let Some(share) = SHARES.get_ptr_mut(&key) else {
        let share = Share {
            used_until_ns: quiet_ns + interval_ns,
            left_out: 0,
        };
        // Should it fail, the event is let through all the same, and the next one tries again.
        let _ = SHARES.insert(&key, &share, 0);
        return true;
    };
    // SAFETY: the map's value is a `Share`, aligned, and valid while the program runs.
    unsafe {
        let used_until = &raw mut (*share).used_until_ns;
        let used_until_ns = read_volatile(used_until);
        if used_until_ns > now_ns {
            emit::add(&raw mut (*share).left_out, 1);
            emit::count(kind, Outcome::OverShare);
            return false;
        }
        if used_until_ns < quiet_ns {
            write_volatile(used_until, quiet_ns);
        }
        emit::add(used_until, interval_ns);
    }
    true
}
