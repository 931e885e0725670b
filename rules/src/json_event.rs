//! Recorded events: one JSON object a line, whose keys are field names.
//!
//! `{"evt.type": "execve", "proc.name": "sh", "proc.aname[2]": "sshd"}`. A key that is absent or null is a
//! field that cannot be extracted. Values are read by the table's types: numbers may be written as text,
//! addresses are text, several values are an array. Text is the bytes of its UTF-8 form; a byte that is not
//! UTF-8 is written as the lone surrogate U+DC00 plus the byte (`"\udcff"` for 0xFF), as Python's
//! `surrogateescape` does.
//!
//! What follows from other keys need not be repeated: `fd.ip`, `fd.port` and the networks come from the ends
//! of the connection, a process's and parent's names are its first ancestors', and `proc.args.hosts` stands in `proc.args`.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use rustc_hash::FxHashMap;
use self_cell::self_cell;
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::{
    FieldArgRef, FieldSource,
    expr::{FieldArg, FieldRef},
    fields::{self, Field, Resolved},
    hosts::hosts,
    value::{FieldType, Value},
};

/// A line that is no event.
#[derive(Debug, Error)]
pub enum JsonEventError {
    /// It is not a JSON object.
    #[error("not a JSON object")]
    Json(#[source] serde_json::Error),
    /// A key names no field.
    #[error("unknown field '{key}'{}", suggestion(.near.as_deref()))]
    UnknownField {
        /// The key.
        key: String,
        /// The field that is perhaps meant.
        near: Option<String>,
    },
    /// A value does not have the field's type.
    #[error("'{key}' must be {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// In words.
        expected: &'static str,
    },
}

/// A recorded event.
#[derive(Debug, Default)]
pub struct JsonEvent {
    values: FxHashMap<Field, Vec<(FieldArg, Stored)>>,
}

#[derive(Debug)]
enum Stored {
    One(Scalar),
    Many(StoredList),
}

#[derive(Clone, Debug)]
enum Scalar {
    Bytes(Vec<u8>),
    Uint(u64),
    Int(i64),
    Double(f64),
    Bool(bool),
    Ip(IpAddr),
}

type Values<'a> = Vec<Value<'a>>;

self_cell!(
    struct StoredList {
        owner: Vec<Scalar>,
        #[covariant]
        dependent: Values,
    }

    impl {Debug}
);

impl JsonEvent {
    /// Reads one line.
    pub fn parse(line: &str) -> Result<Self, JsonEventError> {
        let entries: BTreeMap<String, &RawValue> =
            serde_json::from_str(line).map_err(JsonEventError::Json)?;
        let mut event = Self::default();
        for (key, raw) in entries {
            let Some(field) = resolve_key(&key) else {
                let name = key.split('[').next().unwrap_or(&key);
                let near = fields::suggest(name).map(str::to_owned);
                return Err(JsonEventError::UnknownField { key, near });
            };
            if let Some(stored) = read(&key, &field, raw)? {
                event.insert(field, stored);
            }
        }
        event.derive();
        Ok(event)
    }

    /// Its kind, where it says one.
    pub fn kind(&self) -> Option<String> {
        match self.scalar(Field::EvtType, FieldArgRef::None)? {
            Scalar::Bytes(name) => String::from_utf8(name).ok(),
            _ => None,
        }
    }

    fn insert(&mut self, field: FieldRef, stored: Stored) {
        let values = self.values.entry(field.field).or_default();
        match values.iter_mut().find(|(arg, _)| *arg == field.arg) {
            Some((_, old)) => *old = stored,
            None => values.push((field.arg, stored)),
        }
    }

    fn scalar(&self, field: Field, arg: FieldArgRef<'_>) -> Option<Scalar> {
        let (_, stored) = self
            .values
            .get(&field)?
            .iter()
            .find(|(own, _)| FieldArgRef::from(own) == arg)?;
        match stored {
            Stored::One(scalar) => Some(scalar.clone()),
            Stored::Many(_) => None,
        }
    }

    /// Adds what other keys imply, where it is not written itself.
    fn derive(&mut self) {
        let line = [Field::ProcArgs, Field::ProcCmdline]
            .iter()
            .find_map(|field| self.scalar(*field, FieldArgRef::None));
        if let Some(Scalar::Bytes(args)) = line {
            let hosts = hosts(&args).map(|host| Scalar::Bytes(host.to_vec()));
            self.derive_list(Field::ProcArgsHosts, hosts.collect());
        }
        for (field, ends) in ENDS {
            let scalars: Vec<_> = ends
                .iter()
                .filter_map(|end| self.scalar(*end, FieldArgRef::None))
                .collect();
            self.derive_list(*field, scalars);
        }
        for (field, own, parent) in ANCESTORS {
            for (index, of) in [(0, own), (1, parent)] {
                if let Some(scalar) = self.scalar(*of, FieldArgRef::None)
                    && self.scalar(*field, FieldArgRef::Index(index)).is_none()
                {
                    let field = FieldRef {
                        field: *field,
                        arg: FieldArg::Index(index),
                    };
                    self.insert(field, Stored::One(scalar));
                }
            }
            let mut ancestors: Vec<(u32, Scalar)> = Vec::new();
            for (arg, stored) in self.values.get(field).into_iter().flatten() {
                if let (FieldArg::Index(index @ 1..), Stored::One(scalar)) = (arg, stored) {
                    ancestors.push((*index, scalar.clone()));
                }
            }
            ancestors.sort_by_key(|(index, _)| *index);
            self.derive_list(
                *field,
                ancestors.into_iter().map(|(_, scalar)| scalar).collect(),
            );
        }
    }

    fn derive_list(&mut self, field: Field, scalars: Vec<Scalar>) {
        let reference = FieldRef {
            field,
            arg: FieldArg::None,
        };
        let is_written = self
            .values
            .get(&field)
            .is_some_and(|all| all.iter().any(|(arg, _)| *arg == FieldArg::None));
        if !is_written && !scalars.is_empty() {
            self.insert(reference, many(scalars));
        }
    }
}

impl FieldSource for JsonEvent {
    fn event_type(&self) -> Option<&[u8]> {
        match self.field(Field::EvtType, FieldArgRef::None) {
            Some(Value::Bytes(bytes)) => Some(bytes),
            _ => None,
        }
    }

    fn field<'a>(&'a self, field: Field, arg: FieldArgRef<'a>) -> Option<Value<'a>> {
        let (_, stored) = self
            .values
            .get(&field)?
            .iter()
            .find(|(own, _)| FieldArgRef::from(own) == arg)?;
        Some(match stored {
            Stored::One(scalar) => scalar.value(),
            Stored::Many(list) => Value::List(list.borrow_dependent()),
        })
    }
}

/// Fields that stand for several others.
const ENDS: &[(Field, &[Field])] = &[
    (
        Field::FdIp,
        &[Field::FdCip, Field::FdSip, Field::FdLip, Field::FdRip],
    ),
    (
        Field::FdNet,
        &[Field::FdCip, Field::FdSip, Field::FdLip, Field::FdRip],
    ),
    (Field::FdCnet, &[Field::FdCip]),
    (Field::FdSnet, &[Field::FdSip]),
    (Field::FdLnet, &[Field::FdLip]),
    (Field::FdRnet, &[Field::FdRip]),
    (
        Field::FdPort,
        &[
            Field::FdCport,
            Field::FdSport,
            Field::FdLport,
            Field::FdRport,
        ],
    ),
    (
        Field::FdProto,
        &[
            Field::FdCport,
            Field::FdSport,
            Field::FdLport,
            Field::FdRport,
        ],
    ),
];

/// Fields of ancestors, with those of the process itself and its parent.
const ANCESTORS: &[(Field, Field, Field)] = &[
    (Field::ProcAname, Field::ProcName, Field::ProcPname),
    (Field::ProcAexe, Field::ProcExe, Field::ProcPexe),
    (Field::ProcAexepath, Field::ProcExepath, Field::ProcPexepath),
    (Field::ProcAcmdline, Field::ProcCmdline, Field::ProcPcmdline),
    (Field::ProcApid, Field::ProcPid, Field::ProcPpid),
];

impl Scalar {
    fn value(&self) -> Value<'_> {
        match self {
            Scalar::Bytes(bytes) => Value::Bytes(bytes),
            Scalar::Uint(number) => Value::Uint(*number),
            Scalar::Int(number) => Value::Int(*number),
            Scalar::Double(number) => Value::Double(*number),
            Scalar::Bool(is) => Value::Bool(*is),
            Scalar::Ip(address) => Value::Ip(*address),
        }
    }
}

fn many(scalars: Vec<Scalar>) -> Stored {
    Stored::Many(StoredList::new(scalars, |scalars| {
        scalars.iter().map(Scalar::value).collect()
    }))
}

/// `proc.name`, `proc.aname[2]`, `evt.arg.flags`, `evt.arg[flags]`.
fn resolve_key(key: &str) -> Option<FieldRef> {
    let (name, arg) = match key.strip_suffix(']').and_then(|key| key.split_once('[')) {
        Some((name, arg)) => (name, Some(arg)),
        None => (key, None),
    };
    match fields::resolve(name, arg) {
        Resolved::Field(field) => Some(field),
        _ => None,
    }
}

fn read(key: &str, field: &FieldRef, raw: &RawValue) -> Result<Option<Stored>, JsonEventError> {
    let text = raw.get();
    let ty = fields::field_type(field);
    let scalar = |text: &str| {
        read_scalar(ty, text).ok_or_else(|| JsonEventError::WrongType {
            key: key.to_owned(),
            expected: expected(ty),
        })
    };
    if text == "null" {
        return Ok(None);
    }
    if text.starts_with('[') {
        let items: Vec<&RawValue> = serde_json::from_str(text).map_err(JsonEventError::Json)?;
        if !field.field.info().list && !stands_for_several(field) {
            // Falco's extraction yields lists of one; its plugins write them so.
            return match items.as_slice() {
                [] => Ok(None),
                [only] if !only.get().starts_with('[') => read(key, field, only),
                _ => Err(JsonEventError::WrongType {
                    key: key.to_owned(),
                    expected: "a single value",
                }),
            };
        }
        let scalars: Result<Vec<_>, _> = items.into_iter().map(|item| scalar(item.get())).collect();
        return scalars.map(|scalars| Some(many(scalars)));
    }
    let scalar = scalar(text)?;
    Ok(Some(if field.field.info().list {
        many(vec![scalar])
    } else {
        Stored::One(scalar)
    }))
}

fn stands_for_several(field: &FieldRef) -> bool {
    field.arg == FieldArg::None
        && (ENDS.iter().any(|(own, _)| *own == field.field)
            || ANCESTORS.iter().any(|(own, ..)| *own == field.field)
            || matches!(
                field.field,
                Field::ProcAenv
                    | Field::ProcAargs
                    | Field::FdSipName
                    | Field::FdCipName
                    | Field::FdRipName
                    | Field::FdLipName
            ))
}

fn read_scalar(ty: FieldType, text: &str) -> Option<Scalar> {
    let unquoted = match text.starts_with('"') {
        true => Some(serde_json::from_str::<Text>(text).ok()?.0),
        false => None,
    };
    if matches!(ty, FieldType::Str | FieldType::Path | FieldType::Bytes) {
        return match unquoted {
            Some(bytes) => Some(Scalar::Bytes(bytes)),
            None if text.starts_with('{') => None,
            // A number or a truth value, as it is written.
            None => Some(Scalar::Bytes(text.as_bytes().to_vec())),
        };
    }
    let word = match &unquoted {
        Some(bytes) => std::str::from_utf8(bytes).ok()?.trim(),
        None => text,
    };
    match ty {
        FieldType::Uint | FieldType::RelTime | FieldType::AbsTime => match whole(word)? {
            // "No user" is -1 to some tools and the largest 32-bit number to Falco.
            -1 => Some(Scalar::Uint(u32::MAX.into())),
            number => number.try_into().ok().map(Scalar::Uint),
        },
        FieldType::Port => word
            .parse::<u16>()
            .ok()
            .map(|port| Scalar::Uint(port.into())),
        // Some tools write what the kernel returned as the unsigned number of the same bits.
        FieldType::Int => {
            let number = whole(word)?;
            let wrapped = u64::try_from(number).ok().map(u64::cast_signed);
            let number = number.try_into().ok().or(wrapped);
            number.map(Scalar::Int)
        }
        FieldType::Double => word
            .parse::<f64>()
            .ok()
            .filter(|number| number.is_finite())
            .map(Scalar::Double),
        FieldType::Bool => match word {
            "true" | "1" => Some(Scalar::Bool(true)),
            "false" | "0" => Some(Scalar::Bool(false)),
            _ => None,
        },
        FieldType::Ip | FieldType::Net if unquoted.is_some() => word.parse().ok().map(Scalar::Ip),
        _ => None,
    }
}

/// A whole number, which some tools write as `7.0` or `1e3`.
fn whole(word: &str) -> Option<i128> {
    // Beyond it a double does not hold every whole number.
    const EXACT_MAX: f64 = (1u64 << 53) as f64;
    word.parse().ok().or_else(|| {
        let number = word.parse::<f64>().ok()?;
        (number.fract() == 0.0 && number.abs() <= EXACT_MAX).then_some(number as i128)
    })
}

fn expected(ty: FieldType) -> &'static str {
    match ty {
        FieldType::Str | FieldType::Path | FieldType::Bytes => "text",
        FieldType::Uint => "a number that is not negative",
        FieldType::Int => "a whole number",
        FieldType::Double => "a number",
        FieldType::Bool => "true or false",
        FieldType::Ip | FieldType::Net => "an IP address as text",
        FieldType::Port => "a port number",
        FieldType::RelTime | FieldType::AbsTime => "a number of nanoseconds",
    }
}

fn suggestion(near: Option<&str>) -> String {
    near.map_or_else(String::new, |near| format!("; did you mean '{near}'?"))
}

/// A JSON string as bytes, lone surrogates for bytes included.
struct Text(Vec<u8>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl Visitor<'_> for TextVisitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Text, E> {
                Ok(Text(unescape_surrogates(bytes)))
            }
        }

        // The JSON reader passes lone surrogates on where bytes are asked for, in three bytes each.
        deserializer.deserialize_bytes(TextVisitor)
    }
}

fn unescape_surrogates(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        match rest {
            // U+DC80 to U+DCFF.
            [0xed, second @ 0xb2..=0xb3, third @ 0x80..=0xbf, tail @ ..] => {
                out.push(((second & 0x3) << 6) | (third & 0x3f));
                rest = tail;
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}
