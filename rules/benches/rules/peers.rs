//! The contenders besides the engine, each indexed by event kind as Falco is.

use std::collections::HashMap;

use saker_rules::{
    FieldSource,
    expr::{Expr, FieldArg, FieldRef, Literal, Modifier, Op, Operand, Rhs, Test},
    fields::Field,
    reference::Prepared,
    ruleset::{Detection, RuleSet},
    value::{FieldType, Value},
};
use wirefilter::{ExecutionContext, Filter, Scheme, Type};

use crate::events::BenchEvent;

/// The reference evaluator over every rule of the event's kind.
pub struct TreeWalk {
    by_kind: HashMap<Vec<u8>, Vec<Prepared>>,
}

impl TreeWalk {
    pub fn new(rules: &RuleSet, events: &[BenchEvent]) -> Self {
        let by_kind = kinds(events)
            .into_iter()
            .map(|kind| {
                let prepared = of_kind(rules, &kind)
                    .map(|(_, expr)| Prepared::new(expr))
                    .collect();
                (kind, prepared)
            })
            .collect();
        Self { by_kind }
    }

    pub fn matches(&self, event: &BenchEvent) -> usize {
        self.by_kind.get(&event.kind).map_or(0, |rules| {
            rules.iter().filter(|rule| rule.evaluate(event)).count()
        })
    }

    /// Rules visited for an event of each kind, on average over events.
    pub fn visited(&self, events: &[BenchEvent]) -> f64 {
        let total: usize = events
            .iter()
            .map(|event| self.by_kind.get(&event.kind).map_or(0, Vec::len))
            .sum();
        total as f64 / events.len() as f64
    }
}

fn kinds(events: &[BenchEvent]) -> Vec<Vec<u8>> {
    let mut kinds: Vec<_> = events.iter().map(|event| event.kind.clone()).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

/// Rules that an event of the kind can match.
fn of_kind<'r>(rules: &'r RuleSet, kind: &'r [u8]) -> impl Iterator<Item = (&'r str, &'r Expr)> {
    rules
        .rules
        .iter()
        .filter(|rule| rule.enabled)
        .filter_map(move |rule| match &rule.detection {
            Detection::Event(expr) if may(expr, kind) != Some(false) => {
                Some((rule.name.as_str(), expr))
            }
            _ => None,
        })
}

/// What the kind alone says of a condition.
fn may(expr: &Expr, kind: &[u8]) -> Option<bool> {
    match expr {
        Expr::And(parts) => {
            let parts: Vec<_> = parts.iter().map(|part| may(part, kind)).collect();
            if parts.contains(&Some(false)) {
                Some(false)
            } else {
                parts.iter().all(|part| *part == Some(true)).then_some(true)
            }
        }
        Expr::Or(parts) => {
            let parts: Vec<_> = parts.iter().map(|part| may(part, kind)).collect();
            if parts.contains(&Some(true)) {
                Some(true)
            } else {
                parts
                    .iter()
                    .all(|part| *part == Some(false))
                    .then_some(false)
            }
        }
        Expr::Not(part) => may(part, kind).map(|holds| !holds),
        Expr::Test(test) => match (&test.lhs, &test.rhs) {
            (
                Operand::Field(FieldRef {
                    field: Field::EvtType,
                    arg: FieldArg::None,
                }),
                Rhs::Values(values),
            ) if test.modifier.is_none() && matches!(test.op, Op::Eq | Op::In) => {
                Some(values.contains(&Literal::Bytes(kind.into())))
            }
            _ => None,
        },
    }
}

/// `wirefilter-engine` on the rules that it can express. Operators that it lacks (`startswith`, `endswith`, `pmatch`, `glob`) become regexes,
/// which it has. What cannot be extracted is empty or zero, for wirefilter has no absent values: results may differ, costs do not.
pub struct Wirefilter {
    scheme: &'static Scheme,
    by_kind: HashMap<Vec<u8>, Vec<Filter<'static>>>,
    contexts: Vec<(usize, ExecutionContext<'static>)>,
    /// The rules that it can express.
    pub expressed: RuleSet,
}

impl Wirefilter {
    pub fn new(rules: &RuleSet, events: &'static [BenchEvent]) -> Self {
        let mut fields: HashMap<String, (FieldRef, Type)> = HashMap::new();
        let mut expressed: HashMap<&str, String> = HashMap::new();
        for rule in &rules.rules {
            let Detection::Event(expr) = &rule.detection else {
                continue;
            };
            let mut used = HashMap::new();
            if let Some(text) = express(expr, &mut used) {
                expressed.insert(&rule.name, text);
                fields.extend(used);
            }
        }
        // The contexts borrow the names; the benchmark ends before it matters.
        let fields: &'static HashMap<_, _> = Box::leak(Box::new(fields));
        let mut scheme = Scheme::default();
        for (name, (_, ty)) in fields {
            scheme
                .add_field(name.clone(), *ty)
                .expect("names are distinct");
        }
        let scheme: &'static Scheme = Box::leak(Box::new(scheme));
        // Its parser has the last word.
        expressed.retain(|name, text| match scheme.parse(text) {
            Ok(_) => true,
            Err(error) => {
                eprintln!("wirefilter refuses {name}: {error}");
                false
            }
        });
        let by_kind = kinds(events)
            .into_iter()
            .map(|kind| {
                let filters = of_kind(rules, &kind)
                    .filter_map(|(name, _)| {
                        let filter = scheme
                            .parse(expressed.get(name)?)
                            .expect("it was parsed before");
                        Some(filter.compile())
                    })
                    .collect();
                (kind, filters)
            })
            .collect();
        let contexts = events
            .iter()
            .enumerate()
            .map(|(index, event)| {
                let mut context = ExecutionContext::new(scheme);
                for (name, (field, ty)) in fields {
                    let value = event.field(field.field, (&field.arg).into());
                    let set = match (ty, value) {
                        (Type::Bytes, Some(Value::Bytes(bytes))) => {
                            context.set_field_value(name, bytes)
                        }
                        (Type::Bytes, _) => context.set_field_value(name, &b""[..]),
                        (Type::Int, Some(Value::Uint(number))) => {
                            context.set_field_value(name, number.min(i32::MAX as u64) as i32)
                        }
                        (Type::Int, Some(Value::Int(number))) => {
                            context.set_field_value(name, number as i32)
                        }
                        (Type::Int, _) => context.set_field_value(name, 0),
                        (Type::Bool, Some(Value::Bool(value))) => {
                            context.set_field_value(name, value)
                        }
                        (Type::Bool, _) => context.set_field_value(name, false),
                        (Type::Ip, Some(Value::Ip(address))) => {
                            context.set_field_value(name, address)
                        }
                        (Type::Ip, _) => {
                            context.set_field_value(name, std::net::IpAddr::from([0, 0, 0, 0]))
                        }
                    };
                    set.expect("the type is the scheme's");
                }
                (index, context)
            })
            .collect();
        let expressed = rules
            .rules
            .iter()
            .filter(|rule| expressed.contains_key(rule.name.as_str()))
            .cloned()
            .collect();
        Self {
            scheme,
            by_kind,
            contexts,
            expressed: RuleSet { rules: expressed },
        }
    }

    pub fn matches(&self, index: usize, event: &BenchEvent) -> usize {
        let _ = self.scheme;
        let context = &self.contexts[index].1;
        self.by_kind.get(&event.kind).map_or(0, |filters| {
            filters
                .iter()
                .filter(|filter| filter.execute(context).unwrap_or(false))
                .count()
        })
    }
}

type Fields = HashMap<String, (FieldRef, Type)>;

fn express(expr: &Expr, fields: &mut Fields) -> Option<String> {
    let join = |parts: &[Expr], with: &str, fields: &mut Fields| {
        let parts = parts
            .iter()
            .map(|part| express(part, fields))
            .collect::<Option<Vec<_>>>()?;
        Some(format!("({})", parts.join(with)))
    };
    match expr {
        Expr::And(parts) => join(parts, " && ", fields),
        Expr::Or(parts) => join(parts, " || ", fields),
        Expr::Not(part) => Some(format!("(not {})", express(part, fields)?)),
        Expr::Test(test) => express_test(test, fields),
    }
}

fn express_test(test: &Test, fields: &mut Fields) -> Option<String> {
    let Operand::Field(field) = &test.lhs else {
        return None;
    };
    if matches!(test.modifier, Some(Modifier::OneOf | Modifier::AllOf)) || field.field.info().list {
        return None;
    }
    let name = name(field);
    let ty = match field.field.info().ty {
        FieldType::Str | FieldType::Path | FieldType::Bytes => Type::Bytes,
        FieldType::Uint | FieldType::Int | FieldType::Port | FieldType::RelTime => Type::Int,
        FieldType::Bool => Type::Bool,
        FieldType::Ip | FieldType::Net => Type::Ip,
        FieldType::Double | FieldType::AbsTime => return None,
    };
    fields.insert(name.clone(), (field.clone(), ty));
    if test.op == Op::Exists {
        return match ty {
            Type::Bytes => Some(format!("{name} != \"\"")),
            Type::Int => Some(format!("{name} >= 0")),
            Type::Bool | Type::Ip => None,
        };
    }
    let Rhs::Values(values) = &test.rhs else {
        return None;
    };
    let text = |literal: &Literal| {
        Some(match literal {
            Literal::Bytes(bytes) => quote(bytes),
            Literal::Uint(number) => i32::try_from(*number).unwrap_or(i32::MAX).to_string(),
            Literal::Int(number) => i32::try_from(*number).ok()?.to_string(),
            Literal::Ip(address) => address.to_string(),
            Literal::Net(address, len) => format!("{address}/{len}"),
            Literal::Bool(_) | Literal::Double(_) => return None,
        })
    };
    if let [Literal::Bool(wanted)] = values[..] {
        return (test.op == Op::Eq).then(|| {
            if wanted {
                name.clone()
            } else {
                format!("(not {name})")
            }
        });
    }
    let first = values.first()?;
    let order = |sign: &str| Some(format!("{name} {sign} {}", text(first)?));
    let regexes = |build: &dyn Fn(String) -> String| {
        let parts = values
            .iter()
            .map(|value| match value {
                Literal::Bytes(bytes) => Some(build(escape(bytes))),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()?;
        Some(format!(
            "{name} matches \"{}\"",
            parts.join("|").replace('\\', "\\\\").replace('"', "\\\"")
        ))
    };
    match test.op {
        Op::Eq if !matches!(first, Literal::Net(..)) => order("=="),
        Op::Ne if !matches!(first, Literal::Net(..)) => order("!="),
        Op::Lt => order("<"),
        Op::Le => order("<="),
        Op::Gt => order(">"),
        Op::Ge => order(">="),
        Op::Eq | Op::In | Op::Intersects => {
            let values = values.iter().map(text).collect::<Option<Vec<_>>>()?;
            Some(format!("{name} in {{{}}}", values.join(" ")))
        }
        Op::Contains | Op::BContains => order("contains"),
        Op::IContains => regexes(&|text| format!("(?i){text}")),
        Op::Regex => match first {
            Literal::Bytes(pattern) => Some(format!(
                "{name} matches \"^(?:{})$\"",
                String::from_utf8_lossy(pattern)
                    .replace('\\', "\\\\")
                    .replace('"', "\\\"")
            )),
            _ => None,
        },
        Op::StartsWith => regexes(&|text| format!("^{text}")),
        Op::EndsWith => regexes(&|text| format!("{text}$")),
        Op::PMatch => regexes(&|text| format!("^{}(/|$)", text.trim_end_matches('/'))),
        Op::Glob => regexes(&|text| format!("^{}$", text.replace("\\*", ".*").replace("\\?", "."))),
        _ => None,
    }
}

fn name(field: &FieldRef) -> String {
    let arg = match &field.arg {
        FieldArg::None => String::new(),
        FieldArg::Index(index) => format!("_{index}"),
        FieldArg::Key(key) => format!("_{key}"),
    };
    format!("{}{arg}", field.field.info().name).replace(['.', '-', '/'], "_")
}

fn quote(bytes: &[u8]) -> String {
    let inner: String = bytes
        .iter()
        .map(|&byte| match byte {
            b'"' | b'\\' => format!("\\{}", char::from(byte)),
            b' '..=b'~' => char::from(byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        })
        .collect();
    format!("\"{inner}\"")
}

fn escape(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|&byte| match byte {
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'/'
            | b'_'
            | b' '
            | b'-'
            | b':'
            | b'='
            | b','
            | b'@' => char::from(byte).to_string(),
            _ => format!("\\{}", char::from(byte)),
        })
        .collect()
}
