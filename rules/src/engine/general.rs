//! Comparisons that have no table form: answered by `semantics.rs`.

use crate::{FieldSource, expr::Test, semantics::PreparedTest};

/// Whether the comparison holds for the event. For the compiler, which decides few comparisons; an engine prepares its own once.
pub(crate) fn general<S: FieldSource>(test: &Test, source: &S) -> bool {
    PreparedTest::new(test).holds(source)
}
