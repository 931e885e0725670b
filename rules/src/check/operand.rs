//! Operands: which field is meant, which type it has, and what transformers make of types.

use std::fmt;

use super::Checker;
use crate::{
    ast,
    diagnostic::{Code, Diagnostic},
    expr::{FieldArg, FieldRef, Literal, Operand, Transform, TransformKind},
    fields::{self, ArgError, ArgRule, Field, Resolved},
    value::FieldType,
};

/// The type of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OperandType {
    pub(crate) ty: FieldType,
    pub(crate) list: bool,
}

impl fmt::Display for OperandType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "'{:?}'{}",
            self.ty,
            if self.list { " (list)" } else { "" }
        )
    }
}

type Checked = Option<(Operand, OperandType)>;

const TEXT: OperandType = OperandType {
    ty: FieldType::Str,
    list: false,
};

impl Checker<'_> {
    pub(super) fn operand(&mut self, operand: &ast::Operand) -> Checked {
        match operand {
            ast::Operand::Field(field) => self.field(field),
            ast::Operand::Transform(transform) => self.transform(transform),
            ast::Operand::Value(value) => Some((
                Operand::Literal(Literal::Bytes(value.bytes.clone().into())),
                TEXT,
            )),
            ast::Operand::List(parts, span) => {
                let checked: Vec<_> = parts.iter().map(|part| self.operand(part)).collect();
                let mut operands = Vec::with_capacity(checked.len());
                for part in checked {
                    let (operand, ty) = part?;
                    if ty.list {
                        let message = "a list among a transformer's arguments holds single values";
                        self.report(Code::TransformerArgument, message.to_owned(), *span);
                        return None;
                    }
                    operands.push(operand);
                }
                // Numbers and addresses are joined as outputs print them.
                Some((
                    Operand::List(operands),
                    OperandType {
                        ty: FieldType::Str,
                        list: true,
                    },
                ))
            }
        }
    }

    pub(super) fn right_operand(&mut self, operand: &ast::Operand) -> Checked {
        let ast::Operand::Transform(transform) = operand else {
            return self.operand(operand);
        };
        if transform.kind != TransformKind::Val {
            return self.transform(transform);
        }
        // `val` only tells a field from a text; it does nothing.
        self.transform_arg(transform)?;
        self.operand(transform.args.first()?)
    }

    fn field(&mut self, field: &ast::Field) -> Checked {
        let name = field.name.text.as_str();
        let arg = field
            .arg
            .as_ref()
            .map(|arg| String::from_utf8_lossy(&arg.bytes).into_owned());
        // An empty argument is as good as none.
        let arg = arg.as_deref().filter(|arg| !arg.is_empty());
        match fields::resolve(name, arg) {
            Resolved::Field(reference) => {
                let ty = field_type(&reference);
                super::lint::field(self, &reference, field);
                Some((Operand::Field(reference), ty))
            }
            Resolved::Unknown => {
                let place = self.text.place(field.name.span);
                let message = format!("filter_check called with nonexistent field {name}");
                let mut diagnostic =
                    Diagnostic::new(Code::UnknownField, message).at(place, "no such field");
                if let Some(near) = fields::suggest(name) {
                    diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
                }
                self.diagnostics.push(diagnostic);
                None
            }
            Resolved::BadArg(known, error) => {
                let place = self.text.place(field.span);
                let (message, help) = describe(known, error, name);
                let diagnostic = Diagnostic::new(Code::FieldArgument, message).at(place, "");
                self.diagnostics.push(diagnostic.help(help));
                None
            }
        }
    }

    fn transform(&mut self, transform: &ast::Transform) -> Checked {
        let arg = self.transform_arg(transform);
        let checked: Vec<_> = transform.args.iter().map(|arg| self.operand(arg)).collect();
        let arg = arg?;
        let mut args = Vec::with_capacity(checked.len());
        let mut types = Vec::with_capacity(checked.len());
        for part in checked {
            let (operand, ty) = part?;
            args.push(operand);
            types.push(ty);
        }
        let kind = transform.kind;
        if let Some(field) = args.iter().find(|arg| is_bound_to_constants(arg)) {
            let name = describe_operand(field);
            let message = format!("field '{name}' does not support transformers");
            self.report(Code::TransformerArgument, message, transform.span);
            return None;
        }
        match result_type(kind, &args, &types, &arg) {
            Ok(ty) => Some((
                Operand::Transform(Box::new(Transform { kind, args, arg })),
                ty,
            )),
            Err(message) => {
                self.report(Code::TransformerArgument, message, transform.span);
                None
            }
        }
    }

    /// The argument in brackets behind a transformer, which only `getopt` takes.
    fn transform_arg(&mut self, transform: &ast::Transform) -> Option<FieldArg> {
        let Some(arg) = &transform.arg else {
            return Some(FieldArg::None);
        };
        let text = String::from_utf8_lossy(&arg.bytes);
        let message = if transform.kind != TransformKind::Getopt {
            let name = ast::transform_name(transform.kind);
            format!("filter error: transformer '{name}' does not support field arguments")
        } else if arg.bytes.len() != 1 {
            "getopt() field argument must be a single option character".to_owned()
        } else {
            return Some(FieldArg::Key(text.into()));
        };
        self.report(Code::TransformerArgument, message, arg.span);
        None
    }
}

/// Checks a field or transformer of an output; the error's message and help.
pub(crate) fn check_output_operand(operand: &ast::Operand) -> Result<Operand, Vec<Diagnostic>> {
    let mut diagnostics = Vec::new();
    let text = crate::loader::Text::default();
    let mut checker = Checker {
        text: &text,
        diagnostics: &mut diagnostics,
        macros: &mut |_| Err(super::MacroError::Broken),
    };
    let checked = checker.operand(operand);
    match checked {
        Some((operand, _)) => Ok(operand),
        None => Err(diagnostics),
    }
}

fn field_type(reference: &FieldRef) -> OperandType {
    let info = reference.field.info();
    OperandType {
        ty: fields::field_type(reference),
        list: info.list,
    }
}

/// Fields that Falco compares with constants only, because they yield several values at once, have no
/// fixed type, or cannot be extracted on their own. Transformers do not apply to them either.
pub(super) fn is_bound_to_constants(operand: &Operand) -> bool {
    let Operand::Field(reference) = operand else {
        return false;
    };
    matches!(
        reference.field,
        Field::FdIp
            | Field::FdPort
            | Field::FdProto
            | Field::FdNet
            | Field::FdCnet
            | Field::FdSnet
            | Field::FdLnet
            | Field::FdRnet
            | Field::FdCipName
            | Field::FdSipName
            | Field::FdLipName
            | Field::FdRipName
            | Field::EvtRawarg
            | Field::EvtAround
            | Field::ProcApid
            | Field::ProcAname
            | Field::ProcAexe
            | Field::ProcAexepath
            | Field::ProcAcmdline
            | Field::ProcAargs
            | Field::ProcAenv
    )
}

fn describe_operand(operand: &Operand) -> String {
    match operand {
        Operand::Field(reference) => fields::format_ref(reference),
        _ => String::new(),
    }
}

fn describe(field: Field, error: ArgError, name: &str) -> (String, String) {
    let known = field.info().name;
    match error {
        ArgError::NotAllowed => (
            format!(
                "filter_check called with nonexistent field {name}: '{known}' takes no argument"
            ),
            format!("write `{known}`"),
        ),
        ArgError::Missing => {
            let example = match field.info().arg {
                ArgRule::Index => format!("{known}[0]"),
                _ => format!("{known}[name]"),
            };
            (
                format!("filter error: '{known}' requires an argument but none provided"),
                format!("write `{example}`"),
            )
        }
        ArgError::NotANumber => (
            format!("filter error: the argument of '{known}' must be a number"),
            format!("write `{known}[1]`"),
        ),
        ArgError::NotAWindow => (
            format!("filter error: the argument of '{known}' must be a window of 1s to 1h"),
            format!("write `{known}[5m]`"),
        ),
        ArgError::UnknownEventArgument => (
            format!("unknown event argument in '{name}'"),
            "the argument must be one of an event's, such as `flags` or `fd`".to_owned(),
        ),
    }
}

/// What a transformer yields, or why it does not apply.
fn result_type(
    kind: TransformKind,
    args: &[Operand],
    types: &[OperandType],
    arg: &FieldArg,
) -> Result<OperandType, String> {
    let name = ast::transform_name(kind);
    let is_text = |ty: &OperandType| matches!(ty.ty, FieldType::Str | FieldType::Path);
    match kind {
        TransformKind::Join => match types {
            [separator, _] if separator.list => Err(
                "join() first argument (separator) must be a single value, not a list".to_owned(),
            ),
            [_, list] if !list.list => Err("join() second argument must be a list".to_owned()),
            [separator, _] if is_text(separator) => Ok(TEXT),
            [_, _] => Err("join() first argument (separator) must be a string".to_owned()),
            _ => Err("join() requires exactly 2 arguments: separator and list".to_owned()),
        },
        TransformKind::Concat => {
            if types.len() < 2 {
                return Err("concat() requires at least 2 arguments".to_owned());
            }
            if types.iter().any(|ty| ty.list || !is_text(ty)) {
                return Err("concat() arguments must be strings".to_owned());
            }
            Ok(TEXT)
        }
        TransformKind::Getopt => match types {
            // proc.args is one string here; its words are what getopt reads.
            [words, _] if !words.list && !is_command_line(args.first()) => {
                Err("getopt() first argument must be a list".to_owned())
            }
            [_, options] if options.list => {
                Err("getopt() second argument (optstring) must be a single value".to_owned())
            }
            [words, options] if is_text(words) && is_text(options) => Ok(OperandType {
                ty: FieldType::Str,
                list: *arg == FieldArg::None,
            }),
            [_, _] => Err("getopt() arguments must be strings".to_owned()),
            _ => Err("getopt() requires exactly 2 arguments: args list and optstring".to_owned()),
        },
        _ => {
            let [ty] = types else {
                return Err(format!("{name}() requires exactly 1 argument"));
            };
            let result = match kind {
                TransformKind::ToLower | TransformKind::ToUpper | TransformKind::Basename => {
                    is_text(ty).then_some(*ty)
                }
                TransformKind::B64 => (is_text(ty) || ty.ty == FieldType::Bytes).then_some(*ty),
                TransformKind::Len => (ty.list || is_text(ty) || ty.ty == FieldType::Bytes)
                    .then_some(OperandType {
                        ty: FieldType::Uint,
                        list: false,
                    }),
                _ => Some(*ty),
            };
            result.ok_or_else(|| {
                format!("can't add field transformer: type {ty} is not supported by '{name}'")
            })
        }
    }
}

fn is_command_line(operand: Option<&Operand>) -> bool {
    matches!(operand, Some(Operand::Field(reference)) if reference.field == Field::ProcArgs)
}
