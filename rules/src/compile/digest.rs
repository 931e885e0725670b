//! The digest by which a bundle names the rules that it was compiled from.

use sha2::{Digest, Sha256};

use super::{CompileError, conditions};
use crate::{
    bundle::codec,
    expr::{Expr, Op, Operand, Rhs, Test},
    ruleset::{Detection, Rule, RuleSet},
};

/// A digest over everything that decides what the compiled rules do and say.
pub(super) fn digest(rules: &RuleSet) -> Result<[u8; 32], CompileError> {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for rule in &rules.rules {
        let texts = [&rule.name, &rule.desc, &rule.condition_text, &rule.source];
        for text in texts.into_iter().chain(&rule.tags).chain(&rule.inactive) {
            add(text.as_bytes());
        }
        add(&[rule.priority as u8, u8::from(rule.enabled)]);
        add(&codec::encode_template(&rule.output).ok_or_else(|| too_deep(rule))?);
        let span = match &rule.detection {
            Detection::Event(_) => 0,
            Detection::Sequence { within, .. } => within.as_nanos(),
            Detection::For { hold, .. } => hold.as_nanos(),
        };
        add(&span.to_le_bytes());
        if let Detection::Sequence { by, .. } = &rule.detection {
            let lhs = Operand::Field(by.clone());
            let exists = Test {
                lhs,
                op: Op::Exists,
                modifier: None,
                rhs: Rhs::None,
            };
            add(&codec::encode_test(&exists).ok_or_else(|| too_deep(rule))?);
        }
        for (role, expr) in conditions(rule) {
            add(&role.to_le_bytes());
            digest_expr(expr, &mut add).ok_or_else(|| too_deep(rule))?;
        }
    }
    Ok(hash.finalize().into())
}

fn digest_expr(expr: &Expr, add: &mut impl FnMut(&[u8])) -> Option<()> {
    let (tag, parts) = match expr {
        Expr::Test(test) => {
            add(&codec::encode_test(test)?);
            return Some(());
        }
        Expr::And(parts) => (b"and", &parts[..]),
        Expr::Or(parts) => (b"or ", &parts[..]),
        Expr::Not(part) => (b"not", std::slice::from_ref(&**part)),
    };
    add(tag);
    add(&(parts.len() as u64).to_le_bytes());
    parts.iter().try_for_each(|part| digest_expr(part, add))
}

fn too_deep(rule: &Rule) -> CompileError {
    CompileError::TransformersTooDeep {
        rule: rule.name.clone(),
    }
}
