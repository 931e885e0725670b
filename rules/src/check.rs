//! From syntax to typed conditions: names are resolved, values read by the type of the field beside them.
//!
//! Every error of a condition is reported, not only the first. Macros come typed from the caller, so
//! that each is checked once however often it is used.

pub(crate) mod lint;
mod literal;
mod operand;
pub(crate) mod reach;

use crate::{
    ast,
    diagnostic::{Code, Diagnostic},
    expr::{Expr, Literal, Modifier, Op, Operand, Rhs, Test},
    loader::Text,
    value::FieldType,
};

pub(crate) use operand::{OperandType, check_output_operand};

/// Bounds on a condition after macros are expanded. The depth keeps every recursive walk within the
/// stack; the nodes keep a chain of macros, each using the last one twice, from doubling without end.
pub(crate) const DEPTH_MAX: usize = 400;
pub(crate) const NODES_MAX: usize = 200_000;
/// Wrong values of one list that are reported: a list of words beside a number is wrong in each.
const LIST_ERRORS_MAX: usize = 8;
/// Wrong parts of one `and` or `or` that are reported.
const PART_ERRORS_MAX: usize = 100;

/// A typed condition and its size.
#[derive(Clone, Debug)]
pub(crate) struct Typed {
    pub(crate) expr: Expr,
    pub(crate) nodes: usize,
    pub(crate) depth: usize,
    /// Values in lists, for what all conditions of a load may take together.
    pub(crate) values: usize,
}

/// Why a macro's name yields no condition.
pub(crate) enum MacroError {
    /// With the macro that is perhaps meant.
    Undefined(Option<String>),
    /// It is defined behind its use.
    Later,
    /// It is used in its own definition.
    Loop,
    /// Its own condition is broken, as reported.
    Broken,
}

/// Checks conditions of one text.
pub(crate) struct Checker<'a> {
    pub(crate) text: &'a Text,
    pub(crate) diagnostics: &'a mut Vec<Diagnostic>,
    pub(crate) macros: &'a mut dyn FnMut(&ast::Name) -> Result<Typed, MacroError>,
}

impl Checker<'_> {
    /// The typed condition, or `None` after reporting why there is none.
    pub(crate) fn expr(&mut self, expr: &ast::Expr) -> Option<Typed> {
        let typed = match expr {
            ast::Expr::And(parts) => self.parts(parts, true),
            ast::Expr::Or(parts) => self.parts(parts, false),
            ast::Expr::Not(part, _) => {
                let part = self.expr(part)?;
                Some(Typed {
                    expr: Expr::Not(Box::new(part.expr)),
                    nodes: part.nodes + 1,
                    depth: part.depth + 1,
                    values: part.values,
                })
            }
            ast::Expr::Macro(name) => self.macro_(name),
            ast::Expr::Test(test) => {
                let values = match &test.rhs {
                    ast::Rhs::List(values) => values.len(),
                    _ => 0,
                };
                let test = self.test(test)?;
                Some(Typed {
                    expr: Expr::Test(test),
                    nodes: 1 + values / 16,
                    depth: 1,
                    values,
                })
            }
        }?;
        if typed.depth > DEPTH_MAX || typed.nodes > NODES_MAX {
            return self.too_large(expr);
        }
        Some(typed)
    }

    fn too_large<T>(&mut self, expr: &ast::Expr) -> Option<T> {
        let message = format!(
            "condition is too large once macros are expanded (at most {DEPTH_MAX} levels and {NODES_MAX} comparisons)"
        );
        self.report(Code::TooLarge, message, expr.span());
        None
    }

    fn parts(&mut self, parts: &[ast::Expr], is_and: bool) -> Option<Typed> {
        let mut typed = Vec::with_capacity(parts.len());
        let (mut nodes, mut depth, mut values) = (1, 1, 0);
        let mut wrong = 0;
        for expr in parts {
            let Some(part) = self.expr(expr) else {
                wrong += 1;
                if wrong == PART_ERRORS_MAX {
                    break;
                }
                continue;
            };
            nodes += part.nodes;
            values += part.values;
            // Not only at the end: every use of a large macro is a copy of it.
            if nodes > NODES_MAX {
                return self.too_large(expr);
            }
            depth = depth.max(part.depth + 1);
            match part.expr {
                Expr::And(inner) if is_and => typed.extend(inner),
                Expr::Or(inner) if !is_and => typed.extend(inner),
                other => typed.push(other),
            }
        }
        let expr = if is_and {
            Expr::And(typed)
        } else {
            Expr::Or(typed)
        };
        (wrong == 0).then_some(Typed {
            expr,
            nodes,
            depth,
            values,
        })
    }

    fn macro_(&mut self, name: &ast::Name) -> Option<Typed> {
        let error = match (self.macros)(name) {
            Ok(typed) => return Some(typed),
            Err(error) => error,
        };
        match error {
            MacroError::Broken => {}
            MacroError::Undefined(Some(near)) => {
                self.undefined(name, &format!("did you mean `{near}`?"));
            }
            MacroError::Undefined(None) => self.undefined(
                name,
                "a macro must be defined in this file or in one loaded before it",
            ),
            MacroError::Later => self.undefined(
                name,
                "it is defined further on; a macro sees only those that are defined before it",
            ),
            MacroError::Loop => self.undefined(name, "a macro cannot use itself"),
        }
        None
    }

    fn undefined(&mut self, name: &ast::Name, help: &str) {
        let message = format!("Undefined macro '{}' used in filter.", name.text);
        let place = self.text.place(name.span);
        self.diagnostics.push(
            Diagnostic::new(Code::UndefinedMacro, message)
                .at(place, "")
                .help(help),
        );
    }

    fn test(&mut self, test: &ast::Test) -> Option<Test> {
        let lhs = self.operand(&test.lhs);
        let right = match &test.rhs {
            ast::Rhs::Operand(operand) => Some(self.right_operand(operand)),
            _ => None,
        };
        let (lhs, ty) = lhs?;
        self.operator(test, &lhs, ty)?;
        let rhs = match (&test.rhs, right) {
            (ast::Rhs::None, _) => Rhs::None,
            (_, Some(right)) => {
                let (operand, right_ty) = right?;
                self.right_side(test, &lhs, ty, &operand, right_ty)?;
                Rhs::Operand(operand)
            }
            (ast::Rhs::Value(value), _) => Rhs::Values(vec![self.literal(test, &lhs, ty, value)?]),
            (ast::Rhs::List(values), _) => Rhs::Values(without_duplicates(
                self.list(test, &lhs, ty, values)?,
                test.modifier,
            )),
            (ast::Rhs::Operand(_), None) => unreachable!("an operand on the right was checked"),
        };
        Some(Test {
            lhs,
            op: test.op,
            modifier: test.modifier,
            rhs,
        })
    }

    fn list(
        &mut self,
        test: &ast::Test,
        lhs: &Operand,
        ty: OperandType,
        values: &[ast::Value],
    ) -> Option<Vec<Literal>> {
        let mut read = Vec::with_capacity(values.len());
        let mut wrong = 0;
        for value in values {
            match self.literal(test, lhs, ty, value) {
                Some(literal) => read.push(literal),
                None => wrong += 1,
            }
            if wrong == LIST_ERRORS_MAX {
                break;
            }
        }
        (wrong == 0).then_some(read)
    }

    fn literal(
        &mut self,
        test: &ast::Test,
        lhs: &Operand,
        ty: OperandType,
        value: &ast::Value,
    ) -> Option<Literal> {
        lint::value(self, test.op, value);
        match literal::read(test.op, lhs, ty.ty, &value.bytes) {
            Ok(literal) => Some(literal),
            Err(error) => {
                let place = self.text.place(value.span);
                let mut diagnostic = Diagnostic::new(error.code, error.message).at(place, "");
                if let Some(help) = error.help {
                    diagnostic = diagnostic.help(help);
                }
                if !self.text.is_written(value.span) {
                    diagnostic = diagnostic.help("it is an item of the list that is named here");
                }
                self.diagnostics.push(diagnostic);
                None
            }
        }
    }

    fn operator(&mut self, test: &ast::Test, lhs: &Operand, ty: OperandType) -> Option<()> {
        if test.op == Op::Exists {
            return Some(());
        }
        let name = ast::op_name(test.op);
        let opaque = matches!(lhs, Operand::Field(field) if crate::fields::is_opaque(field));
        let group = if opaque {
            Some("structure".to_owned())
        } else if ty.list && !matches!(test.op, Op::In | Op::Intersects) {
            Some("list".to_owned())
        } else if !applies(test.op, ty.ty) {
            Some(group_name(ty.ty).to_owned())
        } else {
            None
        };
        let Some(group) = group else {
            return Some(());
        };
        let message = format!("filter error: '{name}' operator not supported for {group} filters");
        let usable: Vec<_> = Op::ALL
            .into_iter()
            .filter(|&op| {
                op == Op::Exists
                    || (!opaque
                        && applies(op, ty.ty)
                        && (!ty.list || matches!(op, Op::In | Op::Intersects)))
            })
            .map(|op| format!("`{}`", ast::op_name(op)))
            .collect();
        let diagnostic = Diagnostic::new(Code::OperatorType, message)
            .at(self.text.place(test.op_span), "")
            .help(format!(
                "`{}` can be compared by {}",
                test.lhs,
                usable.join(", ")
            ));
        self.diagnostics.push(diagnostic);
        None
    }

    /// Whether the operand on the right may stand there.
    fn right_side(
        &mut self,
        test: &ast::Test,
        lhs: &Operand,
        left: OperandType,
        rhs: &Operand,
        right: OperandType,
    ) -> Option<()> {
        let name = ast::op_name(test.op);
        let message = if matches!(test.op, Op::PMatch | Op::Regex) {
            format!("operator '{name}' doesn't support right-hand side fields")
        } else if left.ty == FieldType::Net {
            "field type 'IPNET' doesn't support right-hand side fields".to_owned()
        } else if operand::is_bound_to_constants(lhs) {
            format!(
                "field '{}' doesn't support right-hand side fields",
                test.lhs
            )
        } else if operand::is_bound_to_constants(rhs) {
            "this field can't be used as a right-hand side field".to_owned()
        } else if left.list != right.list || !same_type(left.ty, right.ty) {
            format!(
                "'{}' has type {left} while the right-hand side has incompatible type {right}",
                test.lhs
            )
        } else {
            return Some(());
        };
        let span = match &test.rhs {
            ast::Rhs::Operand(operand) => operand.span(),
            _ => test.span,
        };
        self.report(Code::RightSideField, message, span);
        None
    }

    pub(crate) fn report(&mut self, code: Code, message: String, span: ast::Span) {
        let place = self.text.place(span);
        self.diagnostics
            .push(Diagnostic::new(code, message).at(place, ""));
    }
}

/// Whether an operator applies to values of a type.
pub(crate) fn applies(op: Op, ty: FieldType) -> bool {
    match op {
        Op::Exists | Op::Eq | Op::Ne | Op::In | Op::Intersects => true,
        Op::Lt | Op::Le | Op::Gt | Op::Ge => {
            is_number(ty) || matches!(ty, FieldType::Str | FieldType::Path)
        }
        Op::PMatch | Op::IContains | Op::Glob | Op::IGlob | Op::Regex => {
            matches!(ty, FieldType::Str | FieldType::Path)
        }
        Op::Contains | Op::StartsWith | Op::EndsWith => {
            matches!(ty, FieldType::Str | FieldType::Path | FieldType::Bytes)
        }
        Op::BContains | Op::BStartsWith => ty == FieldType::Bytes,
    }
}

fn is_number(ty: FieldType) -> bool {
    matches!(
        ty,
        FieldType::Uint
            | FieldType::Int
            | FieldType::Double
            | FieldType::Port
            | FieldType::RelTime
            | FieldType::AbsTime
    )
}

fn group_name(ty: FieldType) -> &'static str {
    match ty {
        FieldType::Str | FieldType::Path => "string",
        FieldType::Bytes => "buffer",
        FieldType::Ip | FieldType::Net => "ip address and network",
        FieldType::Bool => "boolean",
        _ => "numeric",
    }
}

fn same_type(left: FieldType, right: FieldType) -> bool {
    let class = |ty| match ty {
        FieldType::Path => FieldType::Str,
        other => other,
    };
    class(left) == class(right)
}

/// Duplicates change nothing, except where exactly one value must hold.
fn without_duplicates(values: Vec<Literal>, modifier: Option<Modifier>) -> Vec<Literal> {
    if modifier == Some(Modifier::OneOf) {
        return values;
    }
    let mut seen = std::collections::HashSet::with_capacity(values.len());
    values
        .into_iter()
        .filter(|value| seen.insert(value.clone()))
        .collect()
}
