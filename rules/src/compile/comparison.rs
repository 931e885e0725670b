//! A comparison as its row: the constants it refers to, its automaton, or a general test where no row is closer.

use regex_automata::{
    dfa::{StartKind, dense},
    nfa::thompson,
    util::syntax,
};

use super::{
    CompileError,
    atoms::{self, Class, Const, Form, Method, Needle},
    registry::{self, KeyRef, Registry},
};
use crate::{
    bundle::{
        Builder, codec,
        rows::{AtomRow, SetRow, kind},
    },
    expr::{Op, Operand, Test},
    semantics,
};

/// Regular expressions whose automaton would be larger are compiled when they are first needed, and matched by a slower engine.
const AUTOMATON_BYTES_MAX: usize = 256 << 10;

/// The constants that a comparison's row refers to.
pub(super) fn keys_of(registry: &mut Registry, test: &Test) -> Vec<KeyRef> {
    let Operand::Field(field) = &test.lhs else {
        return Vec::new();
    };
    let mut key = |constant: &Const<'_>| {
        Some(match constant {
            Const::Bytes(bytes) => {
                registry.key(field, Method::EqualBytes, &Needle::Bytes((*bytes).into()))
            }
            Const::Word(class, word) => {
                registry.key(field, registry::equal_method(*class)?, &Needle::Word(*word))
            }
            Const::Ip(address) => registry.key(field, Method::EqualIp, &Needle::Ip(*address)),
        })
    };
    match atoms::form(test) {
        Form::In(constants) => match constants[..] {
            [Const::Word(..)] => Vec::new(),
            _ => constants.iter().filter_map(&mut key).collect(),
        },
        Form::Ne(constant) => key(&constant).into_iter().collect(),
        Form::Contains(text) => {
            vec![registry.key(field, Method::Contains, &Needle::Bytes(text.into()))]
        }
        _ => Vec::new(),
    }
}

impl Builder {
    pub(super) fn atom(
        &mut self,
        test: &Test,
        registry: &mut Registry,
        keys: &[KeyRef],
        row_of: impl Fn(KeyRef) -> u32,
    ) -> Result<AtomRow, CompileError> {
        let slot = match &test.lhs {
            Operand::Field(field) => registry.slot(field),
            _ => 0,
        };
        let row = |kind, class: Option<Class>, a, b| AtomRow {
            kind,
            op: 0,
            class: class.map_or(0, |class| class as u8),
            once: 0,
            slot,
            a,
            b,
        };
        let split = |word: u64| (word as u32, (word >> 32) as u32);
        let is_in = u8::from(test.op == Op::In);
        Ok(match (atoms::form(test), keys) {
            (Form::Exists, _) => row(kind::EXISTS, None, 0, 0),
            (Form::In(constants), []) if let [Const::Word(class, word)] = constants[..] => {
                let (a, b) = split(word);
                AtomRow {
                    op: is_in,
                    ..row(kind::WORD, Some(class), a, b)
                }
            }
            (Form::In(constants), keys) if constants.len() == keys.len() => match keys {
                [key] => AtomRow {
                    op: is_in,
                    ..row(kind::EQUAL, None, row_of(*key), key.table)
                },
                [first, rest @ ..] if rest.iter().all(|key| key.table == first.table) => {
                    let mut list: Vec<u32> = keys.iter().map(|&key| row_of(key)).collect();
                    list.sort_unstable();
                    let keys = self.add_list(&list);
                    self.sets.push(SetRow {
                        table: first.table,
                        keys,
                    });
                    row(kind::IN, None, self.sets.len() as u32 - 1, 0)
                }
                _ => self.general(test)?,
            },
            (Form::Ne(_), [key]) => row(kind::NOT_EQUAL, None, row_of(*key), key.table),
            (Form::Contains(_), [key]) => row(kind::CONTAINS, None, row_of(*key), key.table),
            (Form::Regex(pattern), _) => self.regex(test, slot, pattern)?,
            (Form::StartsWith(text), _) => {
                let text = self.add_text(text);
                row(kind::STARTS_WITH, None, text.start, text.len)
            }
            (Form::EndsWith(text), _) => {
                let text = self.add_text(text);
                row(kind::ENDS_WITH, None, text.start, text.len)
            }
            (Form::Compare(class, op, word), _) => {
                let (a, b) = split(word);
                let op = match op {
                    Op::Lt => 0,
                    Op::Le => 1,
                    Op::Gt => 2,
                    _ => 3,
                };
                AtomRow {
                    op,
                    ..row(kind::COMPARE, Some(class), a, b)
                }
            }
            _ => self.general(test)?,
        })
    }

    /// A regular expression as an automaton in the bundle; where it would be too large, a general test.
    fn regex(&mut self, test: &Test, slot: u32, pattern: &[u8]) -> Result<AtomRow, CompileError> {
        let general = self.general(test)?;
        let built = dense::Builder::new()
            .configure(
                dense::Config::new()
                    .start_kind(StartKind::Anchored)
                    .accelerate(false)
                    .dfa_size_limit(Some(AUTOMATON_BYTES_MAX))
                    .determinize_size_limit(Some(AUTOMATON_BYTES_MAX)),
            )
            .syntax(
                syntax::Config::new()
                    .unicode(false)
                    .utf8(false)
                    .multi_line(true),
            )
            .thompson(
                thompson::Config::new()
                    .utf8(false)
                    .nfa_size_limit(Some(AUTOMATON_BYTES_MAX)),
            )
            .build(&semantics::regex_pattern(pattern))
            .ok()
            .and_then(|dense| dense.to_sparse().ok());
        Ok(match built {
            None => general,
            Some(automaton) => {
                let span = self.add_blob(&automaton.to_bytes_little_endian());
                self.automata.push(span);
                AtomRow {
                    kind: kind::REGEX,
                    slot,
                    a: self.automata.len() as u32 - 1,
                    b: general.a,
                    ..general
                }
            }
        })
    }

    fn general(&mut self, test: &Test) -> Result<AtomRow, CompileError> {
        let bytes = codec::encode_test(test).ok_or_else(|| CompileError::TransformersTooDeep {
            rule: String::new(),
        })?;
        let span = self.add_blob(&bytes);
        self.tests.push(span);
        let a = self.tests.len() as u32 - 1;
        Ok(AtomRow {
            kind: kind::GENERAL,
            op: 0,
            class: 0,
            once: 0,
            slot: 0,
            a,
            b: 0,
        })
    }
}
