//! What of a value an alert may show: the same as rules see while nobody redacts.
//!
//! The other files of this folder ask here for whatever a program's starter chose: arguments, variables, labels. Each is looked
//! at by itself, before it is joined to others. What an alert identifies somebody by is never touched: whoever acts must
//! not be able to hide who he is.

use std::{borrow::Cow, sync::Arc};

use saker_rules::{
    FieldArgRef,
    fields::{FIELDS, Field},
    value::{FieldType, Value},
};

use super::EventView;
use crate::{
    context::process::Image,
    redact::{Line, Redactor},
};

impl EventView<'_> {
    /// `argv[0]`.
    pub(super) fn exe<'a>(&'a self, image: &'a Arc<Image>) -> &'a [u8] {
        self.of_line(image, |line| &line.exe, &image.argv0)
    }

    /// The arguments behind it.
    pub(super) fn args<'a>(&'a self, image: &'a Arc<Image>) -> &'a [u8] {
        self.of_line(image, Line::args, image.args())
    }

    /// Name and arguments.
    pub(super) fn cmdline<'a>(&'a self, image: &'a Arc<Image>) -> &'a [u8] {
        self.of_line(image, |line| &line.cmdline, &image.cmdline)
    }

    /// A part of what is shown of a command line, or where all of it may be, that part `as_is`.
    fn of_line<'a>(
        &'a self,
        image: &Arc<Image>,
        part: fn(&Line) -> &[u8],
        as_is: &'a [u8],
    ) -> &'a [u8] {
        let line = self.redactor.and_then(|redactor| redactor.line(image));
        line.map_or(as_is, |line| self.arena.alloc_slice_copy(part(&line)))
    }

    /// The value of a thing that somebody named: a variable, a label.
    pub(super) fn named<'a>(&'a self, name: &[u8], value: &'a [u8]) -> &'a [u8] {
        match self.redactor {
            Some(redactor) => self.kept(redactor.value(name, value)),
            None => value,
        }
    }

    /// Keeps a text until the event is done.
    fn kept<'a>(&'a self, text: Cow<'a, [u8]>) -> &'a [u8] {
        match text {
            Cow::Borrowed(text) => text,
            Cow::Owned(text) => self.arena.alloc_slice_copy(&text),
        }
    }
}

/// What is shown of a field's value, as far as it is one text and not put together in the ways above.
pub(super) fn value<'a>(
    view: &'a EventView<'_>,
    redactor: &'a Redactor,
    field: Field,
    arg: FieldArgRef<'_>,
    value: Value<'a>,
) -> Value<'a> {
    match (treatment(field, arg), value) {
        (Treatment::AsIs, _) => value,
        (Treatment::Path, Value::Bytes(text)) => Value::Bytes(view.kept(redactor.path(text))),
        (Treatment::Text, Value::Bytes(text)) => Value::Bytes(view.kept(redactor.text(text))),
        (treatment, Value::List(values)) => view.list(values.iter().map(|value| match value {
            Value::Bytes(text) if treatment == Treatment::Path => {
                Value::Bytes(view.kept(redactor.path(text)))
            }
            Value::Bytes(text) => Value::Bytes(view.kept(redactor.text(text))),
            other => *other,
        })),
        _ => value,
    }
}

/// How a field's text is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Treatment {
    /// It says who or what it was, or was looked at before it was joined.
    AsIs,
    /// A path or a name that a program chose: only the configuration's patterns apply.
    Path,
    /// Any text. Also that of fields that nobody thought of here.
    Text,
}

fn treatment(field: Field, arg: FieldArgRef<'_>) -> Treatment {
    let name = FIELDS[field as usize].name;
    match field {
        Field::ProcExe
        | Field::ProcPexe
        | Field::ProcAexe
        | Field::ProcArgs
        | Field::ProcArgsHosts
        | Field::ProcAargs
        | Field::ProcCmdline
        | Field::ProcPcmdline
        | Field::ProcAcmdline
        | Field::ProcExeline
        | Field::ProcSidExe
        | Field::ProcPgidExe
        | Field::ProcVpgidExe
        | Field::ProcEnv
        | Field::ProcAenv
        | Field::ContainerLabel
        | Field::ContainerLabels
        | Field::K8SPodLabels
        | Field::K8sPodLabel
        | Field::K8sPodAnnotation => Treatment::AsIs,
        Field::ProcExepath
        | Field::ProcPexepath
        | Field::ProcAexepath
        | Field::ProcSidExepath
        | Field::ProcPgidExepath
        | Field::ProcVpgidExepath
        | Field::ProcExecHistory
        | Field::PythonExe => Treatment::AsIs,
        Field::ContainerHealthcheck | Field::ContainerCniJson | Field::K8SPodCniJson => {
            Treatment::Text
        }
        Field::EvtArg => match arg {
            FieldArgRef::Key("filename" | "name" | "path" | "cwd") => Treatment::Path,
            _ => Treatment::AsIs,
        },
        _ if IDENTITY.iter().any(|family| name.starts_with(family)) => Treatment::AsIs,
        _ if NAMES.iter().any(|family| name.starts_with(family)) => Treatment::Path,
        _ if FIELDS[field as usize].ty == FieldType::Path => Treatment::Path,
        _ => Treatment::Text,
    }
}

/// Beginnings of the names of fields that say who, where and what kind.
const IDENTITY: &[&str] = &[
    "evt.",
    "syscall.",
    "user.",
    "group.",
    "container.",
    "k8s.",
    "thread.",
    "lost.",
    "gpu.",
    "python.",
    "proc.name",
    "proc.pname",
    "proc.aname",
    "proc.sname",
    "proc.pgid.name",
    "proc.vpgid.name",
    "fd.type",
    "fd.l4proto",
    "fd.sockfamily",
    "fd.uid",
    "fd.dev.name",
];

/// Of those that hold paths and names, not all of which the table calls paths.
const NAMES: &[&str] = &["fd.", "fs.", "proc.std", "dns.", "tls.", "pickle."];
