//! Alert text with `%field` placeholders: parsed once, written for every alert.
//!
//! A placeholder is the longest field that the text behind the sign names, or a transformer. Text and
//! typed JSON come out as Falco writes them: `<NA>` and `null` for what is absent, lists in parentheses,
//! times in nanoseconds.

use std::io::Write;

use serde_json::{Map, Number, Value as Json};

use crate::{
    FieldArgRef, FieldSource,
    ast::Span,
    check,
    diagnostic::Code,
    expr::{FieldRef, Operand},
    fields::{self, Field, Resolved},
    parser,
    semantics::{self, Computed},
    value::Value,
};

/// A parsed output: literal text and operands in turn.
#[derive(Clone, Debug, Default)]
pub struct Template {
    /// In order of appearance.
    pub parts: Vec<Part>,
}

/// A piece of a template.
#[derive(Clone, Debug)]
pub enum Part {
    /// Text, printed as it is.
    Text(String),
    /// `%proc.name`, `%toupper(proc.name)`: the name as written (the key in `output_fields`) and its operand.
    Field(String, Operand),
}

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// Which kind of error.
    pub code: Code,
    /// In one sentence.
    pub message: String,
    /// Where in the text.
    pub span: Span,
    /// What to do about it.
    pub help: Option<String>,
}

impl Template {
    /// Parses an output; every error, not only the first.
    pub fn parse(text: &str) -> Result<Self, Vec<TemplateError>> {
        // Falco's sign for "print even where a field is absent", which is always done.
        let start = usize::from(text.starts_with('*'));
        let mut parts = Vec::new();
        let mut errors = Vec::new();
        let mut literal = String::new();
        let mut at = start;
        while let Some(found) = text[at..].find('%') {
            literal.push_str(&text[at..at + found]);
            let sign = at + found;
            let behind = sign + 1;
            if text[behind..].starts_with('%') {
                literal.push('%');
                at = behind + 1;
                continue;
            }
            match placeholder(text, behind) {
                Ok((operand, end)) => {
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Field(text[behind..end].to_owned(), operand));
                    at = end;
                }
                Err(error) => {
                    errors.push(error);
                    at = behind;
                }
            }
        }
        literal.push_str(&text[at..]);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        if errors.is_empty() {
            Ok(Self { parts })
        } else {
            Err(errors)
        }
    }

    /// The text for an event.
    pub fn render<S: FieldSource + ?Sized>(&self, source: &S) -> String {
        let mut out = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Field(_, operand) => write_operand(operand, source, &mut out),
            }
        }
        String::from_utf8(out)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// The placeholders' values for an event, by name as written.
    pub fn output_fields<S: FieldSource + ?Sized>(&self, source: &S) -> Map<String, Json> {
        let mut map = Map::new();
        for part in &self.parts {
            if let Part::Field(name, operand) = part {
                map.insert(name.clone(), to_json(operand, source));
            }
        }
        map
    }

    /// Every field that the output needs.
    pub fn fields(&self) -> Vec<&FieldRef> {
        let mut found = Vec::new();
        for part in &self.parts {
            if let Part::Field(_, operand) = part {
                collect_fields(operand, &mut found);
            }
        }
        found
    }
}

/// The field or transformer at a position behind a percent sign, and where it ends.
fn placeholder(text: &str, start: usize) -> Result<(Operand, usize), TemplateError> {
    let rest = &text[start..];
    let error = |code, message: String, len: usize, help: Option<String>| TemplateError {
        code,
        message,
        span: Span::new(start - 1, start + len),
        help,
    };
    let word = rest
        .bytes()
        .position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.')))
        .unwrap_or(rest.len());
    if word == 0 {
        let message = "invalid formatting syntax: expected a field behind '%'".to_owned();
        let help = "write `%%` for a percent sign".to_owned();
        return Err(error(Code::OutputSyntax, message, 0, Some(help)));
    }
    if rest[word..].starts_with('(') && !rest[..word].contains('.') {
        let len = call_len(rest, word);
        return match parser::parse_operand(&rest[..len]) {
            Err(syntax) => Err(error(Code::OutputSyntax, syntax.message, len, None)),
            Ok(operand) => match check::check_output_operand(&operand) {
                Ok(operand) => Ok((operand, start + len)),
                Err(diagnostics) => {
                    let message = diagnostics
                        .into_iter()
                        .next()
                        .map_or_else(String::new, |diagnostic| diagnostic.message);
                    Err(error(Code::OutputField, message, len, None))
                }
            },
        };
    }
    // The longest beginning of the word that names a field; the rest is text, such as a full stop.
    for len in (1..=word).rev() {
        let name = &rest[..len];
        let arg = (len == word).then(|| bracketed(&rest[len..])).flatten();
        let (resolved, end) = match arg {
            Some(arg) => (fields::resolve(name, Some(arg)), len + arg.len() + 2),
            None => (fields::resolve(name, None), len),
        };
        match resolved {
            Resolved::Field(field) if is_filter_only(field.field) => {
                let message =
                    format!("{name} is filter only and cannot be used as a display field");
                let help = "print fd.sip, fd.cip, fd.sport or fd.cport".to_owned();
                return Err(error(Code::OutputField, message, len, Some(help)));
            }
            Resolved::Field(field) => return Ok((Operand::Field(field), start + end)),
            Resolved::BadArg(..) if len == word => {
                let message = format!("invalid formatting token {}", &rest[..end]);
                let help = "the field's argument is missing or does not fit".to_owned();
                return Err(error(Code::OutputField, message, end, Some(help)));
            }
            _ => {}
        }
    }
    let name = rest[..word].trim_end_matches('.');
    let help = fields::suggest(name).map(|near| format!("did you mean `%{near}`?"));
    Err(error(
        Code::OutputField,
        format!("invalid formatting token {name}"),
        name.len(),
        help,
    ))
}

/// Length of a transformer's call, its brackets included.
fn call_len(text: &str, open: usize) -> usize {
    let mut depth = 0usize;
    let mut quote = None;
    for (at, c) in text.char_indices().skip_while(|(at, _)| *at < open) {
        match (quote, c) {
            (Some(wanted), c) if c == wanted => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => {
                depth -= 1;
                if depth == 0 {
                    let len = at + 1;
                    return len + bracketed(&text[len..]).map_or(0, |arg| arg.len() + 2);
                }
            }
            _ => {}
        }
    }
    text.len()
}

fn bracketed(text: &str) -> Option<&str> {
    let inside = text.strip_prefix('[')?;
    inside.split_once(']').map(|(arg, _)| arg)
}

fn is_filter_only(field: Field) -> bool {
    matches!(
        field,
        Field::FdIp
            | Field::FdPort
            | Field::FdProto
            | Field::FdNet
            | Field::FdCnet
            | Field::FdSnet
            | Field::FdLnet
            | Field::FdRnet
            | Field::EvtAround
    )
}

fn collect_fields<'a>(operand: &'a Operand, found: &mut Vec<&'a FieldRef>) {
    match operand {
        Operand::Field(field) => found.push(field),
        Operand::Transform(transform) => {
            transform
                .args
                .iter()
                .for_each(|arg| collect_fields(arg, found));
        }
        Operand::List(parts) => parts.iter().for_each(|part| collect_fields(part, found)),
        Operand::Literal(_) => {}
    }
}

fn write_operand<S: FieldSource + ?Sized>(operand: &Operand, source: &S, out: &mut Vec<u8>) {
    match semantics::evaluate(operand, source) {
        None => out.extend_from_slice(b"<NA>"),
        Some(computed) => write_computed(&computed, out),
    }
}

fn write_computed(computed: &Computed<'_>, out: &mut Vec<u8>) {
    match computed {
        Computed::Value(value) => write_value(*value, out),
        Computed::Bytes(bytes) => out.extend_from_slice(bytes),
        Computed::List(parts) => {
            out.push(b'(');
            for (index, part) in parts.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_computed(part, out);
            }
            out.push(b')');
        }
    }
}

/// Writes a value as Falco prints it.
pub(crate) fn write_value(value: Value<'_>, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = match value {
        Value::Bytes(bytes) => out.write_all(bytes),
        Value::Uint(number) => write!(out, "{number}"),
        Value::Int(number) => write!(out, "{number}"),
        Value::Double(number) => write!(out, "{number:.1}"),
        Value::Bool(is) => write!(out, "{is}"),
        Value::Ip(address) => write!(out, "{address}"),
        Value::List(values) => {
            out.push(b'(');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(*value, out);
            }
            out.push(b')');
            Ok(())
        }
    };
}

fn to_json<S: FieldSource + ?Sized>(operand: &Operand, source: &S) -> Json {
    // Falco gives these as text in the output and as numbers among the fields.
    if let Operand::Field(field) = operand
        && matches!(
            field.field,
            Field::EvtTime | Field::EvtTimeIso8601 | Field::EvtDatetime
        )
        && let Some(value) = source.field(Field::EvtRawtime, FieldArgRef::None)
    {
        return value_to_json(value);
    }
    match semantics::evaluate(operand, source) {
        None => Json::Null,
        Some(computed) => computed_to_json(&computed),
    }
}

fn computed_to_json(computed: &Computed<'_>) -> Json {
    match computed {
        Computed::Value(value) => value_to_json(*value),
        Computed::Bytes(bytes) => value_to_json(Value::Bytes(bytes)),
        Computed::List(parts) => Json::Array(parts.iter().map(computed_to_json).collect()),
    }
}

fn value_to_json(value: Value<'_>) -> Json {
    match value {
        Value::Bytes(bytes) => Json::String(String::from_utf8_lossy(bytes).into_owned()),
        Value::Uint(number) => number.into(),
        Value::Int(number) => number.into(),
        Value::Double(number) => Number::from_f64(number).map_or(Json::Null, Json::Number),
        Value::Bool(is) => is.into(),
        Value::Ip(address) => address.to_string().into(),
        Value::List(values) => values.iter().map(|value| value_to_json(*value)).collect(),
    }
}
