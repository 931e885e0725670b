//! Operands that are computed: transformers and literals.

use crate::{
    FieldSource,
    expr::{FieldArg, Literal, Operand, Transform, TransformKind},
    template,
    value::Value,
};

/// An operand's value: borrowed from the event or made for it.
#[derive(Clone, Debug)]
pub(crate) enum Computed<'a> {
    Value(Value<'a>),
    Bytes(Vec<u8>),
    List(Vec<Computed<'a>>),
}

impl Computed<'_> {
    /// As a single value; a list's elements are never lists.
    pub(super) fn as_value(&self) -> Value<'_> {
        match self {
            Computed::Value(value) => *value,
            Computed::Bytes(bytes) => Value::Bytes(bytes),
            Computed::List(_) => Value::List(&[]),
        }
    }

    /// As the right side of a comparison.
    pub(super) fn to_literals(&self) -> Vec<Literal> {
        let mut literals = Vec::new();
        self.for_each(&mut |value| literals.push(literal(value)));
        literals
    }

    fn for_each(&self, each: &mut impl FnMut(Value<'_>)) {
        match self {
            Computed::Value(Value::List(values)) => values.iter().for_each(|value| each(*value)),
            Computed::Value(value) => each(*value),
            Computed::Bytes(bytes) => each(Value::Bytes(bytes)),
            Computed::List(parts) => parts.iter().for_each(|part| part.for_each(each)),
        }
    }

    fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        self.for_each(&mut |value| template::write_value(value, &mut text));
        text
    }
}

/// An operand's value for an event, or `None` where something in it cannot be extracted.
pub(crate) fn evaluate<'a, S: FieldSource + ?Sized>(
    operand: &'a Operand,
    source: &'a S,
) -> Option<Computed<'a>> {
    match operand {
        Operand::Field(field) => source
            .field(field.field, (&field.arg).into())
            .map(Computed::Value),
        Operand::Literal(Literal::Bytes(bytes)) => Some(Computed::Value(Value::Bytes(bytes))),
        // The grammar has no other literals among a transformer's arguments.
        Operand::Literal(_) => None,
        Operand::List(parts) => parts
            .iter()
            .map(|part| evaluate(part, source))
            .collect::<Option<_>>()
            .map(Computed::List),
        Operand::Transform(transform) => apply(transform, source),
    }
}

fn apply<'a, S: FieldSource + ?Sized>(
    transform: &'a Transform,
    source: &'a S,
) -> Option<Computed<'a>> {
    let mut args = transform.args.iter().map(|arg| evaluate(arg, source));
    let first = args.next()??;
    match transform.kind {
        TransformKind::Val => Some(first),
        TransformKind::ToLower => map(first, &|bytes| Some(bytes.to_ascii_lowercase())),
        TransformKind::ToUpper => map(first, &|bytes| Some(bytes.to_ascii_uppercase())),
        TransformKind::Basename => map(first, &|bytes| {
            let start = bytes
                .iter()
                .rposition(|byte| *byte == b'/')
                .map_or(0, |at| at + 1);
            Some(bytes[start..].to_vec())
        }),
        TransformKind::B64 => map(first, &decode_base64),
        TransformKind::Len => Some(Computed::Value(Value::Uint(len(&first)))),
        TransformKind::Join => {
            let parts = args.next()??;
            let separator = first.text();
            let mut joined = Vec::new();
            let mut is_first = true;
            parts.for_each(&mut |value| {
                if !std::mem::take(&mut is_first) {
                    joined.extend_from_slice(&separator);
                }
                template::write_value(value, &mut joined);
            });
            Some(Computed::Bytes(joined))
        }
        TransformKind::Concat => {
            let mut joined = first.text();
            for part in args {
                joined.extend(part?.text());
            }
            Some(Computed::Bytes(joined))
        }
        TransformKind::Getopt => {
            let options = args.next()??.text();
            getopt(&words(&first), &options, &transform.arg)
        }
    }
}

/// Applies a function to a string, or to each of a list.
fn map<'a>(
    computed: Computed<'a>,
    function: &dyn Fn(&[u8]) -> Option<Vec<u8>>,
) -> Option<Computed<'a>> {
    match computed {
        Computed::Value(Value::Bytes(bytes)) => function(bytes).map(Computed::Bytes),
        Computed::Bytes(bytes) => function(&bytes).map(Computed::Bytes),
        Computed::Value(Value::List(values)) => values
            .iter()
            .map(|value| map(Computed::Value(*value), function))
            .collect::<Option<_>>()
            .map(Computed::List),
        Computed::List(parts) => parts
            .into_iter()
            .map(|part| map(part, function))
            .collect::<Option<_>>()
            .map(Computed::List),
        Computed::Value(_) => None,
    }
}

/// Bytes of a string, elements of a list.
fn len(computed: &Computed<'_>) -> u64 {
    let len = match computed {
        Computed::Value(Value::Bytes(bytes)) => bytes.len(),
        Computed::Value(Value::List(values)) => values.len(),
        Computed::Bytes(bytes) => bytes.len(),
        Computed::List(parts) => parts.len(),
        Computed::Value(_) => 0,
    };
    len as u64
}

/// The arguments that getopt reads: a list's elements, or the words of a command line.
fn words(computed: &Computed<'_>) -> Vec<Vec<u8>> {
    let split = |line: &[u8]| {
        line.split(|byte| *byte == b' ')
            .filter(|word| !word.is_empty())
            .map(<[u8]>::to_vec)
            .collect()
    };
    match computed {
        Computed::Value(Value::Bytes(line)) => split(line),
        Computed::Bytes(line) => split(line),
        list => {
            let mut words = Vec::new();
            list.for_each(&mut |value| {
                let mut word = Vec::new();
                template::write_value(value, &mut word);
                words.push(word);
            });
            words
        }
    }
}

/// Reads short options as getopt(3) does. Without a wanted option: every option's letter, with its
/// argument behind it, `?` for one that is not known, and nothing for one whose argument is missing but an
/// empty string. With one: the last argument of that option, or its letter if it takes none.
fn getopt<'a>(words: &[Vec<u8>], options: &[u8], wanted: &FieldArg) -> Option<Computed<'a>> {
    let wanted = match wanted {
        FieldArg::Key(key) => Some(*key.as_bytes().first()?),
        FieldArg::Index(digit) => Some(*digit.to_string().as_bytes().first()?),
        FieldArg::None => None,
    };
    let mut found: Vec<Vec<u8>> = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == b"--" {
            break;
        }
        if word.len() > 2 && word.starts_with(b"--") {
            continue;
        }
        let Some((b'-', letters @ [_, ..])) = word.split_first() else {
            break;
        };
        for (index, &letter) in letters.iter().enumerate() {
            let is_wanted = wanted.is_none_or(|wanted| wanted == letter);
            let Some(takes_argument) = option(options, letter) else {
                if wanted.is_none() {
                    found.push(b"?".to_vec());
                }
                continue;
            };
            if !takes_argument {
                if is_wanted {
                    found.push(vec![letter]);
                }
                continue;
            }
            let argument = match &letters[index + 1..] {
                [] => words.next().cloned(),
                attached => Some(attached.to_vec()),
            };
            if is_wanted {
                match (argument, wanted) {
                    (None, _) => found.push(Vec::new()),
                    (Some(argument), Some(_)) => found.push(argument),
                    (Some(argument), None) => found.extend([vec![letter], argument]),
                }
            }
            break;
        }
    }
    match wanted {
        Some(_) => found.pop().map(Computed::Bytes),
        None => Some(Computed::List(
            found.into_iter().map(Computed::Bytes).collect(),
        )),
    }
}

/// Whether an option takes an argument; `None` where there is no such option.
fn option(options: &[u8], letter: u8) -> Option<bool> {
    if letter == b':' {
        return None;
    }
    let at = options.iter().position(|byte| *byte == letter)?;
    Some(options.get(at + 1) == Some(&b':'))
}

/// Characters outside the alphabet are skipped, and padding may be missing.
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0u32);
    for &byte in text {
        let sextet = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => continue,
        };
        bits = (bits << 6) | u32::from(sextet);
        count += 1;
        if count == 4 {
            decoded.extend_from_slice(&bits.to_be_bytes()[1..]);
            (bits, count) = (0, 0);
        }
    }
    match count {
        1 => return None,
        2 => decoded.push((bits >> 4) as u8),
        3 => decoded.extend_from_slice(&((bits >> 2) as u16).to_be_bytes()),
        _ => {}
    }
    Some(decoded)
}

fn literal(value: Value<'_>) -> Literal {
    match value {
        Value::Bytes(bytes) => Literal::Bytes(bytes.into()),
        Value::Uint(number) => Literal::Uint(number),
        Value::Int(number) => Literal::Int(number),
        Value::Double(number) => Literal::Double(number.to_bits()),
        Value::Bool(is) => Literal::Bool(is),
        Value::Ip(address) => Literal::Ip(address),
        // No element of a list is a list.
        Value::List(_) => Literal::Bytes(Box::default()),
    }
}
