//! New cgroups, by a real one.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use saker::event::Body;
use saker::source::Kind;
use saker_tests::cgroup::mount;

use crate::{kinds, watch};

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
