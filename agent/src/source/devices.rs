//! Which device numbers are accelerators, and what their nodes are called.
//!
//! NVIDIA's main driver has major 195 by registration; the majors of its other drivers, and of others' where they are
//! not registered, are given out at load time and read from `/proc/devices`.

use std::fs;

use saker_ebpf::config::{DEVICE_RANGES_MAX, DeviceRange};
use saker_ebpf::wire::device::NODE_CHARACTER;

const NVIDIA_MAJOR: u32 = 195;
const DRM_MAJOR: u32 = 226;
/// From here on the nodes are for computing and rendering, not for driving a screen.
const DRM_RENDER_FIRST: u32 = 128;

/// What paths of accelerators' nodes start with. They stand in for the device hook where it cannot be attached.
pub const NODE_PREFIXES: [&[u8]; 4] = [
    b"/dev/nvidia",
    b"/dev/kfd",
    b"/dev/dri/render",
    b"/dev/accel",
];

/// The accelerator drivers of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accelerators {
    /// Character device drivers by major number, as `/proc/devices` names them.
    drivers: Vec<(u32, String)>,
}

impl Accelerators {
    /// Asks the running kernel. Without `/proc/devices` only the registered numbers are known.
    pub fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/devices").unwrap_or_default())
    }

    /// From the text of `/proc/devices`.
    pub fn parse(devices: &str) -> Self {
        let mut drivers: Vec<(u32, String)> = devices
            .lines()
            .skip_while(|line| !line.starts_with("Character devices"))
            .skip(1)
            .take_while(|line| !line.is_empty() && !line.ends_with(':'))
            .filter_map(|line| {
                let (major, name) = line.trim().split_once(' ')?;
                let major = major.parse().ok()?;
                is_accelerator(name).then(|| (major, name.to_owned()))
            })
            .collect();
        // A node can be made before its driver is loaded, and be opened the moment it is.
        for (major, name) in [(NVIDIA_MAJOR, "nvidia"), (DRM_MAJOR, "drm")] {
            if !drivers.iter().any(|(known, _)| *known == major) {
                drivers.push((major, name.to_owned()));
            }
        }
        drivers.sort();
        drivers.dedup();
        Self { drivers }
    }

    /// Those that a capture names; a replay has no others.
    pub fn recorded(drivers: Vec<(u32, String)>) -> Self {
        Self { drivers }
    }

    /// Drivers by major number.
    pub fn drivers(&self) -> &[(u32, String)] {
        &self.drivers
    }

    /// The ranges to report, as many as the kernel programs can hold.
    pub fn ranges(&self) -> Vec<DeviceRange> {
        let mut drivers = self.drivers.clone();
        drivers.dedup_by_key(|(major, _)| *major);
        drivers
            .iter()
            .map(|(major, name)| DeviceRange {
                node: NODE_CHARACTER,
                major: *major,
                minor_first: if name == "drm" { DRM_RENDER_FIRST } else { 0 },
                minor_last: u32::MAX,
            })
            .take(DEVICE_RANGES_MAX)
            .collect()
    }

    /// The node's usual path, whatever it was called when it was opened; `None` for no accelerator.
    pub fn path(&self, major: u32, minor: u32) -> Option<String> {
        let (_, name) = self.drivers.iter().find(|(known, _)| *known == major)?;
        Some(match (name.as_str(), minor) {
            ("nvidia" | "nvidia-frontend", 255) => "/dev/nvidiactl".to_owned(),
            ("nvidia" | "nvidia-frontend", 254) => "/dev/nvidia-modeset".to_owned(),
            ("nvidia" | "nvidia-frontend", _) => format!("/dev/nvidia{minor}"),
            ("nvidiactl", _) => "/dev/nvidiactl".to_owned(),
            ("nvidia-modeset", _) => "/dev/nvidia-modeset".to_owned(),
            ("nvidia-uvm", 0) => "/dev/nvidia-uvm".to_owned(),
            ("nvidia-uvm", 1) => "/dev/nvidia-uvm-tools".to_owned(),
            ("nvidia-caps", _) => format!("/dev/nvidia-caps/nvidia-cap{minor}"),
            ("nvidia-caps-imex-channels", _) => {
                format!("/dev/nvidia-caps-imex-channels/channel{minor}")
            }
            ("nvidia-nvswitch", 255) => "/dev/nvidia-nvswitchctl".to_owned(),
            ("nvidia-nvswitch", _) => format!("/dev/nvidia-nvswitch{minor}"),
            ("kfd", _) => "/dev/kfd".to_owned(),
            ("drm", _) if minor >= DRM_RENDER_FIRST => format!("/dev/dri/renderD{minor}"),
            ("drm", _) => format!("/dev/dri/card{minor}"),
            ("accel", _) => format!("/dev/accel/accel{minor}"),
            (name, _) => format!("/dev/{name}{minor}"),
        })
    }
}

fn is_accelerator(driver: &str) -> bool {
    driver.starts_with("nvidia") || matches!(driver, "kfd" | "drm" | "accel")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICES: &str = "Character devices:\n  1 mem\n195 nvidia\n195 nvidiactl\n226 drm\n235 nvidia-caps\n\
                           236 nvidia-nvswitch\n507 nvidia-uvm\n510 kfd\n261 accel\n\nBlock devices:\n  8 sd\n195 nvidia\n";

    #[test]
    fn reads_majors_of_accelerators_only() {
        let majors = |devices: &str| -> Vec<u32> {
            Accelerators::parse(devices)
                .ranges()
                .iter()
                .map(|range| range.major)
                .collect()
        };
        assert_eq!(majors(DEVICES), [195, 226, 235, 236, 261, 507, 510]);
        assert_eq!(majors(""), [195, 226]);
        assert_eq!(majors("Character devices:\nx y\n5 /dev/tty\n"), [195, 226]);
    }

    #[test]
    fn names_nodes_by_number() {
        let accelerators = Accelerators::parse(DEVICES);
        let check = |major, minor, expected: Option<&str>| {
            assert_eq!(
                accelerators.path(major, minor).as_deref(),
                expected,
                "{major}:{minor}"
            );
        };
        check(195, 0, Some("/dev/nvidia0"));
        check(195, 255, Some("/dev/nvidiactl"));
        check(195, 254, Some("/dev/nvidia-modeset"));
        check(507, 0, Some("/dev/nvidia-uvm"));
        check(507, 1, Some("/dev/nvidia-uvm-tools"));
        check(235, 3, Some("/dev/nvidia-caps/nvidia-cap3"));
        check(226, 128, Some("/dev/dri/renderD128"));
        check(510, 0, Some("/dev/kfd"));
        check(261, 2, Some("/dev/accel/accel2"));
        check(1, 3, None);
        check(8, 0, None);
    }

    #[test]
    fn screens_are_not_reported() {
        let drm = Accelerators::parse("").ranges();
        assert_eq!(drm[1].minor_first, 128);
    }
}
