//! Warnings on conditions that load and probably do not mean what they say.

use super::Checker;
use crate::{
    ast,
    diagnostic::{Code, Diagnostic},
    expr::{FieldArg, FieldRef, Op},
    fields::{self, Field, Resolved},
};

/// A value that reads like a field, a transformer, an absent value, or a needless regular expression.
pub(super) fn value(checker: &mut Checker<'_>, op: Op, value: &ast::Value) {
    let Ok(text) = std::str::from_utf8(&value.bytes) else {
        return;
    };
    // Values of this length are neither fields nor transformers, and lists may hold many of them.
    if text.len() > 256 {
        return;
    }
    let place = checker.text.place(value.span);
    let mut warn = |code, message: String, help: &str| {
        checker
            .diagnostics
            .push(Diagnostic::new(code, message).at(place, "").help(help));
    };
    if op == Op::Regex && is_needless_regex(text) {
        warn(
            Code::NeedlessRegex,
            format!(
                "regex check with '{text}' may be optimized with simpler operators such as '=', 'contains', 'startswith', 'endswith'"
            ),
            "regular expressions cost more than the other operators",
        );
    }
    if matches!(op, Op::Eq | Op::Ne | Op::In | Op::Intersects) && text == "<NA>" {
        warn(
            Code::NullComparison,
            "'<NA>' is how outputs print an absent value; where the field is absent this comparison is false"
                .to_owned(),
            "use `not FIELD exists` to ask whether a field is absent",
        );
    }
    if !text.contains(['.', '(']) {
        return;
    }
    let stripped: String = text.split_whitespace().collect();
    if is_field(&stripped) {
        warn(
            Code::FieldAsValue,
            format!("'{text}' may be a valid field misused as a const string value"),
            "write `val(FIELD)` to compare with the field's value",
        );
    }
    if is_transformer(&stripped) {
        warn(
            Code::FieldAsValue,
            format!("'{text}' may be a valid field transformer misused as a const string value"),
            "write the transformer without quotes and without a blank behind the parenthesis",
        );
    }
}

/// A deprecated field, or an event argument that no event has.
pub(super) fn field(checker: &mut Checker<'_>, reference: &FieldRef, written: &ast::Field) {
    let place = checker.text.place(written.span);
    if let Some(help) = deprecated(reference.field) {
        let name = reference.field.info().name;
        let message =
            format!("usage of deprecated field '{name}' has been detected in the rule condition");
        let diagnostic = Diagnostic::new(Code::DeprecatedField, message)
            .at(place, "")
            .help(help);
        checker.diagnostics.push(diagnostic);
    }
    if let (Field::EvtArg, FieldArg::Key(key)) = (reference.field, &reference.arg)
        && !fields::is_event_argument(key)
    {
        let message = format!("no event of Falco has an argument '{key}'");
        checker
            .diagnostics
            .push(Diagnostic::new(Code::UnknownArgument, message).at(place, ""));
    }
}

/// What to write instead of a deprecated field.
pub(crate) fn deprecated(field: Field) -> Option<&'static str> {
    match field {
        Field::EvtDir => Some("every event stands for a call that returned; leave the field out"),
        Field::EvtLatency
        | Field::EvtLatencyS
        | Field::EvtLatencyNs
        | Field::EvtLatencyQuantized
        | Field::EvtLatencyHuman
        | Field::EvtWaitLatency => Some("latencies are no longer measured"),
        _ => None,
    }
}

fn is_field(text: &str) -> bool {
    let (name, arg) = match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
        Some((name, arg)) => (name, Some(arg)),
        None => (text, None),
    };
    matches!(fields::resolve(name, arg), Resolved::Field(_))
}

fn is_transformer(text: &str) -> bool {
    const NAMES: [&str; 9] = [
        "val", "tolower", "toupper", "b64", "basename", "len", "join", "concat", "getopt",
    ];
    text.ends_with(')')
        && text
            .split_once('(')
            .is_some_and(|(name, _)| NAMES.contains(&name))
}

/// Whether nothing in a pattern needs a regular expression: anchors and any-characters at its ends aside,
/// it is plain text.
fn is_needless_regex(pattern: &str) -> bool {
    let bytes = pattern.as_bytes();
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let is_first = index == 0;
        let is_last = index + 1 == bytes.len();
        if (is_first && byte == b'^') || (is_last && byte == b'$') {
            index += 1;
            continue;
        }
        let repeated = matches!(bytes.get(index + 1), Some(b'+' | b'*' | b'?'));
        if byte == b'.' && repeated && (is_first || index + 2 == bytes.len()) {
            index += 2;
            continue;
        }
        if b".+*?^$()[]{}|\\".contains(&byte) {
            return false;
        }
        index += 1;
    }
    true
}
