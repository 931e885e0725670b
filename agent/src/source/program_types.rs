//! Program types that no hook uses yet and that this kernel would load: what `saker doctor` says of them.

use aya::programs::{LsmAttachType, ProgramType};
use aya::sys::is_program_supported;

use super::status::HookStatus;

/// Each: its name, its type, what it needs.
const TYPES: &[(&str, ProgramType, &str)] = &[(
    "lsm",
    ProgramType::Lsm(LsmAttachType::Mac),
    "Linux 5.7, BTF; to be attached, `bpf` in the kernel's list of security modules",
)];

/// A row for each type of which this kernel has just loaded a program that does nothing. A kernel that refuses, for
/// whatever reason, has no row: nothing is lost where no hook uses the type.
pub fn loadable() -> Vec<HookStatus> {
    TYPES
        .iter()
        .filter(|(_, program, _)| matches!(is_program_supported(*program), Ok(true)))
        .map(|(name, _, needs)| HookStatus {
            kind: name,
            wanted: false,
            hook: Some("loads, unused"),
            needs,
            lost: Vec::new(),
            refused: Vec::new(),
        })
        .collect()
}
