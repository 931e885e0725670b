//! What became of each event kind's hooks: what `saker doctor` and the start-up log say.

use serde::Serialize;

/// How an event kind is supplied on this machine, or why it is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HookStatus {
    /// The kind's short name.
    pub kind: &'static str,
    /// Did the caller ask for it? Nothing was tried otherwise.
    pub wanted: bool,
    /// The hook in use; `None` when there is none.
    pub hook: Option<&'static str>,
    /// What that hook needs from the machine.
    pub needs: &'static str,
    /// What is lost: by a hook that is not the preferred one, by a part of it that is missing, or by having none.
    pub lost: Vec<String>,
    /// The hooks that were tried before, or all when none worked.
    pub refused: Vec<Refusal>,
}

/// A hook that could not be attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The hook.
    pub hook: &'static str,
    /// Why, in one line.
    pub reason: String,
    /// The verifier's log, when it was the verifier.
    pub verifier_log: Option<String>,
}
