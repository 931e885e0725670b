//! Comparisons that have no table form: answered by `semantics.rs`.

use std::sync::OnceLock;

use crate::{
    FieldSource,
    bundle::{Tables, codec},
    expr::Test,
    matcher::Span,
    semantics::PreparedTest,
};

/// A test of the bundle, made ready when it is first asked for: many are never.
#[derive(Debug)]
pub(super) struct LazyTest {
    bytes: Span,
    prepared: OnceLock<PreparedTest>,
}

impl LazyTest {
    pub fn new(bytes: Span) -> Self {
        Self {
            bytes,
            prepared: OnceLock::new(),
        }
    }

    #[inline]
    pub fn get(&self, tables: &Tables<'_>) -> &PreparedTest {
        self.prepared.get_or_init(|| {
            let bytes = tables.blob.get(self.bytes.range()).unwrap_or_default();
            let test = codec::decode_test(bytes);
            PreparedTest::new(
                &test.unwrap_or_else(|| unreachable!("loading a bundle decodes every test")),
            )
        })
    }
}

/// Whether the comparison holds for the event. For the compiler, which decides few comparisons; an engine prepares its own once.
pub(crate) fn general<S: FieldSource>(test: &Test, source: &S) -> bool {
    PreparedTest::new(test).holds(source)
}
