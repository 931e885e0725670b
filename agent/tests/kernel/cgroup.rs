//! New cgroups, by real ones.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use saker::event::Body;
use saker::source::{Kind, SensorConfig, ShareLimit};
use saker_ebpf::wire::CgroupMkdir;
use saker_ebpf::wire::share::{CGROUP_WEIGHT, SHARE_OF_CGROUPS};
use saker_tests::cgroup::mount;

use crate::{kinds, watch};

/// A cgroup for a test to make others in. All are removed at its end.
struct Parent(PathBuf);

impl Parent {
    fn new(mount: &Path, name: &str) -> Self {
        let path = mount.join(format!("saker-test-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("a cgroup is made");
        Self(path)
    }

    fn make(&self, children: u32) {
        for child in 0..children {
            fs::create_dir(self.0.join(child.to_string())).expect("a cgroup is made");
        }
    }

    /// Its name, as the paths of those in it begin.
    fn prefix(&self) -> String {
        let name = self.0.file_name().expect("not the root");
        format!("/{}/", name.to_string_lossy())
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        for child in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if child.path().is_dir() {
                let _ = fs::remove_dir(child.path());
            }
        }
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_new_cgroup_tells_its_number_and_its_path() {
    let Some(mut watch) = watch(kinds(&[Kind::CgroupMkdir])) else {
        return;
    };
    let mount = match mount() {
        Ok(mount) => mount,
        Err(why) => return saker_tests::skip(&why.to_string()),
    };
    let name = format!("saker-test-cgroup-{}", std::process::id());
    let folder = mount.join(&name);
    let inner = folder.join("inner");
    fs::create_dir_all(&inner).expect("cgroups are made");
    let number = fs::metadata(&inner).expect("it is there").ino();
    fs::remove_dir(&inner).expect("it is empty");
    fs::remove_dir(&folder).expect("it is empty");
    // What is gone before its record is read is known all the same.
    let (id, path, by) = watch.until("new cgroup", |event| match event.body {
        Body::CgroupMkdir(made) if made.path.bytes.ends_with(b"/inner") => {
            Some((made.id, made.path.bytes.to_vec(), event.tgid))
        }
        _ => None,
    });
    assert_eq!((id, by), (number, std::process::id()));
    let path = String::from_utf8(path).expect("a path of the test's");
    assert_eq!(path, format!("/{name}/inner"));
}

#[test]
fn who_makes_many_cgroups_loses_those_beyond_his_share() {
    const MANY: u32 = 60;
    const AT_ONCE: u32 = 10;
    const FEW: u32 = 3;
    let weight = u32::try_from(CGROUP_WEIGHT).expect("a small number");
    let Some(mut watch) = watch(SensorConfig {
        // One a second.
        share: ShareLimit {
            events_per_s: weight,
            burst: weight * AT_ONCE,
        },
        ..kinds(&[Kind::CgroupMkdir])
    }) else {
        return;
    };
    let mount = match mount() {
        Ok(mount) => mount,
        Err(why) => return saker_tests::skip(&why.to_string()),
    };
    let (noisy, quiet) = (Parent::new(&mount, "noisy"), Parent::new(&mount, "quiet"));
    noisy.make(MANY);
    quiet.make(FEW);
    let noisy_id = fs::metadata(&noisy.0).expect("it is there").ino();
    let (mut of_noisy, mut of_quiet) = (0, 0);
    watch.finish(&mut |event| {
        if let Body::CgroupMkdir(made) = &event.body {
            let path = String::from_utf8_lossy(made.path.bytes);
            of_noisy += u32::from(path.starts_with(&noisy.prefix()));
            of_quiet += u32::from(path.starts_with(&quiet.prefix()));
        }
    });
    assert!((AT_ONCE..MANY).contains(&of_noisy), "{of_noisy}");
    assert_eq!(of_quiet, FEW);
    let counters = watch.sensor.counters().expect("counters");
    let counts = counters.kind(Kind::CgroupMkdir);
    let left_out = u64::from(MANY - of_noisy);
    assert_eq!(counts.lost_over_share, left_out, "{counts:?}");
    assert_eq!(
        counts.seen,
        counts.filtered + counts.submitted + counts.lost()
    );
    let shares = watch.sensor.shares().left_out().expect("shares");
    let [(key, count)] = shares.as_slice() else {
        panic!("{shares:?}");
    };
    assert_eq!(
        (key.cgroup_id, key.part, *count),
        (noisy_id, SHARE_OF_CGROUPS, left_out)
    );
}

#[test]
fn new_cgroups_leave_half_of_the_ring_to_all_else() {
    const RING_BYTES: usize = 16384;
    let Some(mut watch) = watch(SensorConfig {
        ring_bytes: RING_BYTES as u32,
        // Whoever has many parents has as many shares.
        share: ShareLimit {
            events_per_s: 0,
            burst: 0,
        },
        ..kinds(&[Kind::CgroupMkdir])
    }) else {
        return;
    };
    let mount = match mount() {
        Ok(mount) => mount,
        Err(why) => return saker_tests::skip(&why.to_string()),
    };
    Parent::new(&mount, "half").make(40);
    let mut came = 0u64;
    watch.finish(&mut |_| came += 1);
    let [waited, _] = watch.sensor.rings().take_waited_bytes();
    // What a record takes in the ring, with the kernel's header of it.
    let record = size_of::<CgroupMkdir>() + 8;
    assert!(
        (RING_BYTES / 2..=RING_BYTES / 2 + record).contains(&waited),
        "{waited}"
    );
    let counters = watch.sensor.counters().expect("counters");
    let counts = counters.kind(Kind::CgroupMkdir);
    assert_eq!((counts.submitted, counts.lost_over_share), (came, 0));
    assert!(counts.lost_ring_full >= 41 - came, "{counts:?}");
}
