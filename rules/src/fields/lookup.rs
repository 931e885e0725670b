//! From a field's written form to its row: names, dotted arguments, brackets, and near misses.

use std::{collections::HashMap, sync::OnceLock};

use super::{ArgRule, FIELDS, Field, rawargs};
use crate::{
    expr::{FieldArg, FieldRef},
    value::FieldType,
};

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// A field with a fitting argument.
    Field(FieldRef),
    /// No field has this name.
    Unknown,
    /// The field exists and the argument does not fit it.
    BadArg(Field, ArgError),
}

/// Why an argument does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgError {
    /// The field takes none.
    NotAllowed,
    /// The field needs one.
    Missing,
    /// It must be a number.
    NotANumber,
    /// No event has an argument of this name.
    UnknownEventArgument,
    /// It must be a window of time.
    NotAWindow,
}

/// Fields whose argument may also follow a dot: `evt.arg.flags`.
const DOTTED: [Field; 13] = [
    Field::EvtArg,
    Field::EvtRawarg,
    Field::EvtTypeIs,
    Field::EvtAbspath,
    Field::ThreadCgroup,
    Field::ContainerLabel,
    Field::K8sPodLabel,
    Field::K8sPodAnnotation,
    Field::K8sNsLabel,
    Field::K8sRcLabel,
    Field::K8sRsLabel,
    Field::K8sSvcLabel,
    Field::K8sDeploymentLabel,
];

/// Resolves a field's name, and what stood in brackets behind it.
pub fn resolve(name: &str, arg: Option<&str>) -> Resolved {
    if let Some(&field) = by_name().get(name) {
        return with_arg(field, arg);
    }
    for field in DOTTED {
        let Some(rest) = name.strip_prefix(field.info().name) else {
            continue;
        };
        if let Some(dotted) = rest.strip_prefix('.').filter(|rest| !rest.is_empty()) {
            return match arg {
                None => with_arg(field, Some(dotted)),
                Some(_) => Resolved::BadArg(field, ArgError::NotAllowed),
            };
        }
    }
    Resolved::Unknown
}

/// The type of a field's value. It depends on the argument for `evt.rawarg` alone.
pub fn field_type(field: &FieldRef) -> FieldType {
    match (field.field, &field.arg) {
        (Field::EvtRawarg, FieldArg::Key(key)) => match rawargs::kind(key) {
            Some(rawargs::Kind::Typed(ty)) => ty,
            _ => FieldType::Int,
        },
        (field, _) => field.info().ty,
    }
}

/// The field as a rule would write it.
pub fn format_ref(field: &FieldRef) -> String {
    let name = field.field.info().name;
    match &field.arg {
        FieldArg::None => name.to_owned(),
        FieldArg::Index(index) => format!("{name}[{index}]"),
        FieldArg::Key(key) if DOTTED.contains(&field.field) && is_dotted_name(key) => {
            format!("{name}.{key}")
        }
        FieldArg::Key(key) => format!("{name}[{key}]"),
    }
}

/// The field whose name is nearest to an unknown one, if any is near.
pub fn suggest(name: &str) -> Option<&'static str> {
    crate::diagnostic::nearest(name, FIELDS.iter().map(|row| row.name))
}

fn by_name() -> &'static HashMap<&'static str, Field> {
    static MAP: OnceLock<HashMap<&'static str, Field>> = OnceLock::new();
    MAP.get_or_init(|| {
        (0..FIELDS.len())
            .filter_map(|index| Some((FIELDS[index].name, Field::from_index(index)?)))
            .collect()
    })
}

fn with_arg(field: Field, arg: Option<&str>) -> Resolved {
    let bad = |error| Resolved::BadArg(field, error);
    let fits = |arg| Resolved::Field(FieldRef { field, arg });
    let rule = field.info().arg;
    let Some(text) = arg else {
        return match rule {
            ArgRule::None
            | ArgRule::OptionalIndex
            | ArgRule::OptionalKey
            | ArgRule::OptionalIndexOrKey => fits(FieldArg::None),
            ArgRule::Index | ArgRule::Key | ArgRule::IndexOrKey => bad(ArgError::Missing),
        };
    };
    let index = parse_index(text);
    let key = || FieldArg::Key(text.into());
    match rule {
        ArgRule::None => bad(ArgError::NotAllowed),
        // evt.around takes a moment, which does not fit an index.
        ArgRule::Index if field == Field::EvtAround => match text.parse::<u64>() {
            Ok(_) => fits(key()),
            Err(_) => bad(ArgError::NotANumber),
        },
        ArgRule::Index | ArgRule::OptionalIndex => match index {
            Some(index) => fits(FieldArg::Index(index)),
            None => bad(ArgError::NotANumber),
        },
        ArgRule::Key if is_windowed(field) && window_ns(text).is_none() => {
            bad(ArgError::NotAWindow)
        }
        ArgRule::Key | ArgRule::OptionalKey => fits(key()),
        ArgRule::IndexOrKey | ArgRule::OptionalIndexOrKey => match index {
            Some(index) => fits(FieldArg::Index(index)),
            None if field == Field::EvtRawarg && rawargs::kind(text).is_none() => {
                bad(ArgError::UnknownEventArgument)
            }
            None => fits(key()),
        },
    }
}

fn is_windowed(field: Field) -> bool {
    matches!(
        field,
        Field::GpuUtilMean | Field::GpuUtilStddev | Field::GpuUtilMin
    )
}

/// The length of a window such as `30s`, `5m` or `1h`, in nanoseconds; `None` where it is none, or not from 1s to 1h.
pub fn window_ns(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit_s = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return None,
    };
    let count: u64 = u64::from(parse_index(digits)?);
    let seconds = count.checked_mul(unit_s)?;
    (1..=3_600)
        .contains(&seconds)
        .then_some(seconds * 1_000_000_000)
}

/// Decimal digits only, so that one index has one spelling.
fn parse_index(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn is_dotted_name(key: &str) -> bool {
    key.split('.').all(|part| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

/// Whether values of the field can be compared at all. `evt.rawarg` yields addresses and other
/// structures under some names.
pub(crate) fn is_opaque(field: &FieldRef) -> bool {
    matches!((field.field, &field.arg), (Field::EvtRawarg, FieldArg::Key(key))
        if rawargs::kind(key) == Some(rawargs::Kind::Opaque))
}

/// Whether some event of Falco has an argument of this name.
pub(crate) fn is_event_argument(name: &str) -> bool {
    rawargs::kind(name).is_some()
}
