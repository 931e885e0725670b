//! Comparisons that have no table form, and values of unexpected type: answered by `semantics.rs`.

use crate::{FieldSource, expr::*, value::Value};

/// Whether the comparison holds for the event.
pub fn general<S: FieldSource>(test: &Test, source: &S) -> bool {
    let Operand::Field(f) = &test.lhs else { return false };
    let Some(v) = source.field(f.field, super::arg_ref(&f.arg)) else { return false };
    if test.op == Op::Exists { return true }
    let Rhs::Values(values) = &test.rhs else { return false };
    let Value::Bytes(b) = v else { return false };
    let any = |f: &dyn Fn(&[u8]) -> bool| values.iter().any(|l| matches!(l, Literal::Bytes(x) if f(x)));
    match test.op {
        Op::Eq | Op::In => any(&|x| x == b),
        Op::Ne => !any(&|x| x == b),
        Op::StartsWith => any(&|x| b.starts_with(x)),
        _ => false,
    }
}
