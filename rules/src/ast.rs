//! Conditions as written: names unresolved, values unread, and a byte span on every part.
//!
//! Also prints conditions in Falco's canonical form and escapes text the way the grammar unescapes it.
//! What names and values mean is decided in `check.rs`.

use std::fmt::{self, Display, Write};

use crate::expr::{Modifier, Op, TransformKind};

/// A range of bytes in the parsed text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One behind the last byte.
    pub end: usize,
}

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// At least two parts joined by `and`.
    And(Vec<Expr>),
    /// At least two parts joined by `or`.
    Or(Vec<Expr>),
    /// An odd number of `not` before a part.
    Not(Box<Expr>, Span),
    /// A name standing alone: a macro.
    Macro(Name),
    /// A comparison.
    Test(Box<Test>),
}

/// A name and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// As written.
    pub text: String,
    /// Where.
    pub span: Span,
}

/// A comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// What is compared.
    pub lhs: Operand,
    /// How.
    pub op: Op,
    /// The operator as written; `=` and `==` are one operator.
    pub op_text: &'static str,
    /// Where the operator stands.
    pub op_span: Span,
    /// `oneof`, `anyof` or `allof` before the right side.
    pub modifier: Option<Modifier>,
    /// With what.
    pub rhs: Rhs,
    /// From the left side's first byte to the right side's last.
    pub span: Span,
}

/// The right side of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum Rhs {
    /// `exists` has none.
    None,
    /// One value.
    Value(Value),
    /// Values in parentheses.
    List(Vec<Value>),
    /// A transformer, perhaps `val`.
    Operand(Operand),
}

/// A value as the grammar reads it: quotes and escapes removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Not necessarily UTF-8, because of `\xHH`.
    pub bytes: Vec<u8>,
    /// Where, quotes included.
    pub span: Span,
    /// Whether it stood in quotes.
    pub quoted: bool,
}

/// A field, a transformer, or what stands among a transformer's arguments.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A field.
    Field(Field),
    /// A transformer.
    Transform(Transform),
    /// A quoted string or a number among a transformer's arguments.
    Value(Value),
    /// Operands in parentheses among a transformer's arguments.
    List(Vec<Operand>, Span),
}

/// A field's name and argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Parts joined by dots.
    pub name: Name,
    /// What stood in brackets.
    pub arg: Option<Value>,
    /// Name and brackets.
    pub span: Span,
}

/// A transformer applied to arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Transform {
    /// Which.
    pub kind: TransformKind,
    /// To what.
    pub args: Vec<Operand>,
    /// What stood in brackets behind it.
    pub arg: Option<Value>,
    /// Name, arguments and brackets.
    pub span: Span,
}

impl Span {
    /// From `start` to before `end`.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }
}

impl Expr {
    /// From the first byte to the last.
    pub fn span(&self) -> Span {
        match self {
            Expr::And(parts) | Expr::Or(parts) => {
                let first = parts.first().map(Expr::span).unwrap_or_default();
                let last = parts.last().map(Expr::span).unwrap_or_default();
                Span::new(first.start, last.end)
            }
            Expr::Not(_, span) => *span,
            Expr::Macro(name) => name.span,
            Expr::Test(test) => test.span,
        }
    }
}

impl Operand {
    /// From the first byte to the last.
    pub fn span(&self) -> Span {
        match self {
            Operand::Field(field) => field.span,
            Operand::Transform(transform) => transform.span,
            Operand::Value(value) => value.span,
            Operand::List(_, span) => *span,
        }
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expr::And(parts) => write_joined(f, parts, " and "),
            Expr::Or(parts) => write_joined(f, parts, " or "),
            Expr::Not(part, _) => write!(f, "not {part}"),
            Expr::Macro(name) => f.write_str(&name.text),
            Expr::Test(test) => write!(f, "{test}"),
        }
    }
}

impl Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.lhs, self.op_text)?;
        if let Some(modifier) = self.modifier {
            write!(f, " {}", modifier_name(modifier))?;
        }
        match &self.rhs {
            Rhs::None => Ok(()),
            Rhs::Value(value) => write!(f, " {value}"),
            Rhs::List(values) => {
                f.write_char(' ')?;
                write_joined(f, values, ", ")
            }
            Rhs::Operand(operand) => write!(f, " {operand}"),
        }
    }
}

impl Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Field(field) => {
                f.write_str(&field.name.text)?;
                write_arg(f, field.arg.as_ref())
            }
            Operand::Transform(transform) => {
                f.write_str(transform_name(transform.kind))?;
                write_joined(f, &transform.args, ", ")?;
                write_arg(f, transform.arg.as_ref())
            }
            // A quoted number would otherwise come back as a number, and a bare word not at all.
            Operand::Value(value) if value.quoted => {
                let escaped = escape(&value.bytes);
                if escaped.starts_with('"') {
                    f.write_str(&escaped)
                } else {
                    write!(f, "\"{escaped}\"")
                }
            }
            Operand::Value(value) => write!(f, "{value}"),
            Operand::List(parts, _) => write_joined(f, parts, ", "),
        }
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes.as_slice() {
            [] => f.write_str("\"\""),
            bytes => f.write_str(&escape(bytes)),
        }
    }
}

/// The word for a modifier.
pub fn modifier_name(modifier: Modifier) -> &'static str {
    match modifier {
        Modifier::OneOf => "oneof",
        Modifier::AnyOf => "anyof",
        Modifier::AllOf => "allof",
    }
}

/// The word for a transformer.
pub fn transform_name(kind: TransformKind) -> &'static str {
    match kind {
        TransformKind::ToLower => "tolower",
        TransformKind::ToUpper => "toupper",
        TransformKind::B64 => "b64",
        TransformKind::Basename => "basename",
        TransformKind::Len => "len",
        TransformKind::Join => "join",
        TransformKind::Concat => "concat",
        TransformKind::Getopt => "getopt",
        TransformKind::Val => "val",
    }
}

/// The usual word for an operator.
pub fn op_name(op: Op) -> &'static str {
    match op {
        Op::Exists => "exists",
        Op::Eq => "=",
        Op::Ne => "!=",
        Op::Lt => "<",
        Op::Le => "<=",
        Op::Gt => ">",
        Op::Ge => ">=",
        Op::In => "in",
        Op::Intersects => "intersects",
        Op::PMatch => "pmatch",
        Op::Contains => "contains",
        Op::IContains => "icontains",
        Op::BContains => "bcontains",
        Op::StartsWith => "startswith",
        Op::BStartsWith => "bstartswith",
        Op::EndsWith => "endswith",
        Op::Glob => "glob",
        Op::IGlob => "iglob",
        Op::Regex => "regex",
    }
}

/// Writes bytes as Falco does: bare, or in double quotes where blanks, quotes, backslashes or bytes that
/// cannot be shown ask for them. The grammar reads the text back unless it holds one of `( ) = ,`.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    let mut quoted = false;
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let escaped = match c {
                '\u{8}' => "\\b",
                '\u{c}' => "\\f",
                '\n' => "\\n",
                '\r' => "\\r",
                '\t' => "\\t",
                '\\' => "\\\\",
                '"' => "\\\"",
                ' ' => " ",
                '\'' => "'",
                '\0' => "\\x00",
                _ => {
                    out.push(c);
                    continue;
                }
            };
            quoted = true;
            out.push_str(escaped);
        }
        for byte in chunk.invalid() {
            quoted = true;
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    if quoted { format!("\"{out}\"") } else { out }
}

fn write_joined<T: Display>(
    f: &mut fmt::Formatter<'_>,
    parts: &[T],
    separator: &str,
) -> fmt::Result {
    f.write_char('(')?;
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            f.write_str(separator)?;
        }
        write!(f, "{part}")?;
    }
    f.write_char(')')
}

fn write_arg(f: &mut fmt::Formatter<'_>, arg: Option<&Value>) -> fmt::Result {
    match arg {
        None => Ok(()),
        Some(arg) => write!(f, "[{arg}]"),
    }
}
