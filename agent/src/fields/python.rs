//! `pickle.*` and `python.*`: what an unpickler is asked to resolve.

use saker_rules::{fields::Field, value::Value};

use super::EventView;
use crate::context::pickle::{Judgement, classify};
use crate::event::{Body, Pickle, PyForm, PyText};

/// The field's value, where it is one of this family and known.
pub fn value<'a>(view: &'a EventView<'_>, field: Field) -> Option<Value<'a>> {
    let Body::Pickle(pickle) = &view.event.body else {
        return None;
    };
    Some(match field {
        Field::PickleModule => Value::Bytes(text(view, &pickle.module)?),
        Field::PickleName => Value::Bytes(text(view, &pickle.name)?),
        Field::PickleGlobal => {
            let (module, name) = (text(view, &pickle.module)?, text(view, &pickle.name)?);
            let mut global = bumpalo::collections::Vec::with_capacity_in(
                module.len() + name.len() + 1,
                view.arena,
            );
            global.extend_from_slice(module);
            global.push(b'.');
            global.extend_from_slice(name);
            Value::Bytes(global.into_bump_slice())
        }
        Field::PickleComponent => {
            let (module, name) = (text(view, &pickle.module)?, text(view, &pickle.name)?);
            let parts = |text: &'a [u8]| text.split(|byte| *byte == b'.');
            view.list(
                parts(module)
                    .chain(parts(name))
                    .filter(|part| !part.is_empty())
                    .map(Value::Bytes),
            )
        }
        Field::PickleDangerous => Value::Bool(judge(view, pickle)?.dangerous),
        Field::PickleClass => Value::Bytes(judge(view, pickle)?.class.as_str().as_bytes()),
        Field::PickleTruncated => Value::Bool(pickle.module.cut || pickle.name.cut),
        Field::PickleFile => Value::Bytes(view.python?.model_file.as_deref()?),
        Field::PythonVersion => Value::Bytes(view.python?.version.as_deref()?.as_bytes()),
        Field::PythonExe => {
            let exe = &view.process?.image.exe_path;
            (!exe.is_empty()).then_some(Value::Bytes(exe))?
        }
        _ => return None,
    })
}

/// A text that could not be read belongs to an unpickler that hides what it does, and is judged by what is left of it: nothing.
fn judge(view: &EventView<'_>, pickle: &Pickle<'_>) -> Option<Judgement> {
    Some(classify(
        text(view, &pickle.module)?,
        text(view, &pickle.name)?,
    ))
}

/// The text in UTF-8; absent where it could not be read.
fn text<'a>(view: &'a EventView<'_>, text: &PyText<'a>) -> Option<&'a [u8]> {
    if text.bytes.is_empty() {
        return None;
    }
    if text.form == PyForm::Ascii {
        return Some(text.bytes);
    }
    let mut utf8 = bumpalo::collections::String::new_in(view.arena);
    utf8.extend(text.chars());
    Some(utf8.into_bump_str().as_bytes())
}
