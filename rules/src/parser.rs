//! The condition grammar: text to syntax tree, or one syntax error with its place.
//!
//! The grammar is Falco's, with its peculiarities: `and`, `or` and `not` need a blank or a parenthesis
//! behind them, word operators need a blank except `in`, `intersects` and `pmatch`, and behind `or(`
//! comes no `and`. Messages carry Falco's wording, which tools look for.

use thiserror::Error;

use crate::{
    ast::{Expr, Field, Name, Operand, Rhs, Span, Test, Transform, Value},
    diagnostic::nearest,
    expr::{Modifier, Op, TransformKind},
    lexer::{EscapeError, Lexer},
};

/// How deep parentheses and transformers may nest. Every later walk over a condition recurses no deeper
/// than this times the depth of macros, so the stack is safe.
pub const DEPTH_MAX: u32 = 100;

/// Text that is no condition.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{message}")]
pub struct SyntaxError {
    /// What was expected or found.
    pub message: String,
    /// Where.
    pub span: Span,
    /// What is perhaps meant.
    pub help: Option<String>,
}

/// Parses a condition. Names are not looked up.
pub fn parse(text: &str) -> Result<Expr, SyntaxError> {
    let mut parser = Parser {
        lexer: Lexer::new(text),
        text,
        depth: 0,
        last: Span::default(),
        last_value: None,
    };
    if text.is_empty() {
        return Err(parser.error("filter input string is empty"));
    }
    let expr = parser.or_expr()?;
    if !parser.lexer.is_at_end() {
        let last = &text[parser.last.start..parser.last.end];
        let mut error = parser.error(format!(
            "unexpected token after '{last}', expecting 'or', 'and'"
        ));
        if parser.last_value == Some(parser.last)
            && !text[error.span.start..].starts_with(['(', ')'])
        {
            error.help = Some("a value with blanks stands in quotes: `'a b'`".to_owned());
        }
        return Err(error);
    }
    Ok(expr)
}

/// Parses a single field or transformer, as exceptions and outputs name them.
pub fn parse_operand(text: &str) -> Result<Operand, SyntaxError> {
    let mut parser = Parser {
        lexer: Lexer::new(text),
        text,
        depth: 0,
        last: Span::default(),
        last_value: None,
    };
    parser.lexer.blank();
    let operand = match parser.left_operand()? {
        Some(operand) => operand,
        None => return Err(parser.error("expected a field or a transformer")),
    };
    parser.lexer.blank();
    if !parser.lexer.is_at_end() {
        return Err(parser.error("unexpected text behind the field"));
    }
    Ok(operand)
}

/// Reads an operator and perhaps a modifier, as exceptions name them (`startswith oneof`).
pub(crate) fn parse_operator(text: &str) -> Option<(Op, Option<Modifier>)> {
    let mut words = text.split_ascii_whitespace();
    let op = words.next()?;
    let op = OPERATORS.iter().find(|row| row.text == op)?;
    let modifier = match words.next() {
        None => None,
        Some(word) if op.takes_modifier() => Some(modifier(word)?),
        Some(_) => return None,
    };
    words.next().is_none().then_some((op.op, modifier))
}

struct Operator {
    text: &'static str,
    op: Op,
    right: Right,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Right {
    None,
    Number,
    /// A value; a symbol needs no blank behind it.
    Symbol,
    /// A value, with a blank before it.
    Word,
    List,
}

impl Operator {
    fn takes_modifier(&self) -> bool {
        matches!(self.right, Right::Symbol | Right::Word)
    }
}

/// In the order in which they are tried.
const OPERATORS: [Operator; 20] = [
    operator("exists", Op::Exists, Right::None),
    operator("<=", Op::Le, Right::Number),
    operator("<", Op::Lt, Right::Number),
    operator(">=", Op::Ge, Right::Number),
    operator(">", Op::Gt, Right::Number),
    operator("==", Op::Eq, Right::Symbol),
    operator("=", Op::Eq, Right::Symbol),
    operator("!=", Op::Ne, Right::Symbol),
    operator("glob", Op::Glob, Right::Word),
    operator("iglob", Op::IGlob, Right::Word),
    operator("contains", Op::Contains, Right::Word),
    operator("icontains", Op::IContains, Right::Word),
    operator("bcontains", Op::BContains, Right::Word),
    operator("startswith", Op::StartsWith, Right::Word),
    operator("bstartswith", Op::BStartsWith, Right::Word),
    operator("endswith", Op::EndsWith, Right::Word),
    operator("regex", Op::Regex, Right::Word),
    operator("intersects", Op::Intersects, Right::List),
    operator("in", Op::In, Right::List),
    operator("pmatch", Op::PMatch, Right::List),
];

const fn operator(text: &'static str, op: Op, right: Right) -> Operator {
    Operator { text, op, right }
}

/// `val` stands apart: it is no transformer on the left, nor inside another.
const TRANSFORMERS: [(&str, TransformKind); 8] = [
    ("tolower(", TransformKind::ToLower),
    ("toupper(", TransformKind::ToUpper),
    ("b64(", TransformKind::B64),
    ("basename(", TransformKind::Basename),
    ("len(", TransformKind::Len),
    ("join(", TransformKind::Join),
    ("concat(", TransformKind::Concat),
    ("getopt(", TransformKind::Getopt),
];

const TRANSFORMER_NAMES: &str =
    "'val', 'tolower', 'toupper', 'b64', 'basename', 'len', 'join', 'concat', 'getopt'";

struct Parser<'a> {
    lexer: Lexer<'a>,
    text: &'a str,
    depth: u32,
    /// The last token that was read, for messages.
    last: Span,
    /// The last bare value that was read.
    last_value: Option<Span>,
}

type Parsed<T> = Result<T, SyntaxError>;

impl Parser<'_> {
    fn or_expr(&mut self) -> Parsed<Expr> {
        let mut parts = vec![self.and_expr()?];
        self.lexer.blank();
        while self.word("or") {
            parts.push(if self.lexer.blank() {
                self.and_expr()?
            } else if self.word("(") {
                self.parenthesis()?
            } else {
                return Err(self.error("expected blank or '(' after 'or'"));
            });
            self.lexer.blank();
        }
        Ok(one_or(parts, Expr::Or))
    }

    fn and_expr(&mut self) -> Parsed<Expr> {
        let mut parts = vec![self.not_expr()?];
        self.lexer.blank();
        while self.word("and") {
            parts.push(if self.lexer.blank() {
                self.not_expr()?
            } else if self.word("(") {
                self.parenthesis()?
            } else {
                return Err(self.error("expected blank or '(' after 'and'"));
            });
            self.lexer.blank();
        }
        Ok(one_or(parts, Expr::And))
    }

    fn not_expr(&mut self) -> Parsed<Expr> {
        self.lexer.blank();
        let start = self.lexer.pos();
        let mut negated = false;
        while self.lexer.not_word() {
            negated = !negated;
        }
        let part = if self.word("not(") {
            negated = !negated;
            self.parenthesis()?
        } else {
            self.check()?
        };
        if !negated {
            return Ok(part);
        }
        Ok(Expr::Not(
            Box::new(part),
            Span::new(start, self.lexer.pos()),
        ))
    }

    /// The inside of a parenthesis and its end; the opening was read.
    fn parenthesis(&mut self) -> Parsed<Expr> {
        self.nested(|parser| {
            let expr = parser.or_expr()?;
            parser.lexer.blank();
            if !parser.word(")") {
                let mut error = parser.error("expected a ')' token");
                if parser.lexer.is_at_end() {
                    error.help = Some("a parenthesis is not closed".to_owned());
                }
                return Err(error);
            }
            Ok(expr)
        })
    }

    fn check(&mut self) -> Parsed<Expr> {
        self.lexer.blank();
        let start = self.lexer.pos();
        if self.word("(") {
            return self.parenthesis();
        }
        if let Some(lhs) = self.left_operand()? {
            return self.condition(lhs, start);
        }
        if let Some(name) = self.identifier() {
            return Ok(Expr::Macro(name));
        }
        Err(self.error("expected a '(' token, a field check, or an identifier"))
    }

    fn left_operand(&mut self) -> Parsed<Option<Operand>> {
        if let Some(field) = self.field()? {
            return Ok(Some(Operand::Field(field)));
        }
        self.transformer()
    }

    fn condition(&mut self, lhs: Operand, start: usize) -> Parsed<Expr> {
        self.lexer.blank();
        let op_start = self.lexer.pos();
        let Some(row) = self.operator() else {
            let names: Vec<_> = OPERATORS
                .iter()
                .map(|row| format!("'{}'", row.text))
                .collect();
            let message = format!(
                "expected a valid check operator: one of {}",
                names.join(", ")
            );
            let mut error = self.error(message);
            let word = &self.text[error.span.start..error.span.end];
            error.help = nearest(word, OPERATORS.iter().map(|row| row.text))
                .map(|near| format!("did you mean `{near}`?"));
            return Err(error);
        };
        let op_span = Span::new(op_start, op_start + row.text.len());
        let mut modifier = None;
        let rhs = match row.right {
            Right::None => Rhs::None,
            Right::Number => self.number_or_transformer()?,
            Right::Symbol | Right::Word => match self.modified_list(row.right)? {
                Some((word, rhs)) => {
                    modifier = Some(word);
                    rhs
                }
                None => self.value_or_transformer()?,
            },
            Right::List => self.list_or_transformer()?,
        };
        let span = Span::new(start, self.lexer.pos());
        Ok(Expr::Test(Box::new(Test {
            lhs,
            op: row.op,
            op_text: row.text,
            op_span,
            modifier,
            rhs,
            span,
        })))
    }

    fn operator(&mut self) -> Option<&'static Operator> {
        let start = self.lexer.pos();
        for row in &OPERATORS {
            if !self.word(row.text) {
                continue;
            }
            if row.right == Right::Word && !self.lexer.clone().blank() {
                self.lexer.reset(start);
                return None;
            }
            return Some(row);
        }
        None
    }

    /// A modifier and its list. A modifier's word that no list follows is an ordinary value.
    fn modified_list(&mut self, right: Right) -> Parsed<Option<(Modifier, Rhs)>> {
        let start = self.lexer.pos();
        let found = self.try_modified_list(right)?;
        if found.is_none() {
            self.lexer.reset(start);
        }
        Ok(found)
    }

    fn try_modified_list(&mut self, right: Right) -> Parsed<Option<(Modifier, Rhs)>> {
        if !self.lexer.blank() && right == Right::Symbol {
            return Ok(None);
        }
        let Some(word) = self.lexer.identifier().and_then(modifier) else {
            return Ok(None);
        };
        if !self.lexer.blank() {
            return Ok(None);
        }
        if self.word("(") {
            return Ok(Some((word, Rhs::List(self.list()?))));
        }
        let start = self.lexer.pos();
        if let Some(name) = self.lexer.identifier()
            && !matches!(name, "and" | "or")
        {
            let value = self.value_at(start, name);
            return Ok(Some((word, Rhs::Value(value))));
        }
        Ok(None)
    }

    fn number_or_transformer(&mut self) -> Parsed<Rhs> {
        if let Some(operand) = self.right_transformer()? {
            return Ok(Rhs::Operand(operand));
        }
        match self.number() {
            Some(value) => Ok(Rhs::Value(value)),
            None => Err(self.error(format!(
                "expected a number value or a field with a valid transformer: {TRANSFORMER_NAMES}"
            ))),
        }
    }

    fn value_or_transformer(&mut self) -> Parsed<Rhs> {
        if let Some(operand) = self.right_transformer()? {
            return Ok(Rhs::Operand(operand));
        }
        match self.value()? {
            Some(value) => Ok(Rhs::Value(value)),
            None => {
                let mut error = self.error(format!(
                    "expected a string value or a field with a valid transformer: {TRANSFORMER_NAMES}"
                ));
                if self.text[error.span.start..].starts_with(['"', '\'']) {
                    error.help = Some("the string is not closed".to_owned());
                }
                Err(error)
            }
        }
    }

    fn list_or_transformer(&mut self) -> Parsed<Rhs> {
        self.lexer.blank();
        if self.word("(") {
            return Ok(Rhs::List(self.list()?));
        }
        if let Some(operand) = self.right_transformer()? {
            return Ok(Rhs::Operand(operand));
        }
        let start = self.lexer.pos();
        match self.lexer.identifier() {
            Some(name) => Ok(Rhs::Value(self.value_at(start, name))),
            None => Err(self.error(format!(
                "expected a list, an identifier, or a field with a valid transformer: {TRANSFORMER_NAMES}"
            ))),
        }
    }

    /// The inside of a list of values and its end; the opening was read.
    fn list(&mut self) -> Parsed<Vec<Value>> {
        let mut values = Vec::new();
        self.lexer.blank();
        if self.word(")") {
            return Ok(values);
        }
        loop {
            self.lexer.blank();
            match self.value()? {
                Some(value) => values.push(value),
                None => return Err(self.error("expected a string value")),
            }
            self.lexer.blank();
            if self.word(")") {
                return Ok(values);
            }
            if !self.word(",") {
                return Err(self.error("expected a ')' token"));
            }
        }
    }

    /// A transformer on the right side, where `val` is one too.
    fn right_transformer(&mut self) -> Parsed<Option<Operand>> {
        self.lexer.blank();
        let start = self.lexer.pos();
        if !self.word("val(") {
            return self.transformer();
        }
        self.lexer.blank();
        let Some(field) = self.field()? else {
            return Err(self.error("expected a field within 'val' transformer"));
        };
        self.lexer.blank();
        if !self.word(")") {
            return Err(self.error("expected a ')' token closing the transformer"));
        }
        let arg = self.arg()?;
        Ok(Some(Operand::Transform(Transform {
            kind: TransformKind::Val,
            args: vec![Operand::Field(field)],
            arg,
            span: Span::new(start, self.lexer.pos()),
        })))
    }

    fn transformer(&mut self) -> Parsed<Option<Operand>> {
        let start = self.lexer.pos();
        let Some(&(_, kind)) = TRANSFORMERS
            .iter()
            .find(|(text, _)| self.lexer.literal(text))
        else {
            return Ok(None);
        };
        self.last = Span::new(start, self.lexer.pos());
        self.nested(|parser| {
            let args = parser.operands("expected a ')' token closing the transformer", false)?;
            let arg = parser.arg()?;
            let span = Span::new(start, parser.lexer.pos());
            Ok(Some(Operand::Transform(Transform {
                kind,
                args,
                arg,
                span,
            })))
        })
    }

    /// Operands up to the closing parenthesis.
    fn operands(&mut self, unclosed: &str, is_list: bool) -> Parsed<Vec<Operand>> {
        let mut operands = Vec::new();
        self.lexer.blank();
        if self.word(")") {
            return Ok(operands);
        }
        loop {
            operands.push(self.transformer_arg(is_list)?);
            self.lexer.blank();
            if self.word(")") {
                return Ok(operands);
            }
            if !self.word(",") {
                return Err(self.error(unclosed));
            }
        }
    }

    fn transformer_arg(&mut self, is_list: bool) -> Parsed<Operand> {
        self.lexer.blank();
        let start = self.lexer.pos();
        if let Some(value) = self.number() {
            return Ok(Operand::Value(value));
        }
        if let Some(value) = self.quoted()? {
            return Ok(Operand::Value(value));
        }
        if !is_list && self.word("(") {
            return self.nested(|parser| {
                let operands = parser.operands("expected ')'", true)?;
                Ok(Operand::List(
                    operands,
                    Span::new(start, parser.lexer.pos()),
                ))
            });
        }
        if let Some(operand) = self.transformer()? {
            return Ok(operand);
        }
        if let Some(field) = self.field()? {
            return Ok(Operand::Field(field));
        }
        Err(self.error(if is_list {
            "expected transformer list argument: field, transformer, quoted string, or number"
        } else {
            "expected field transformer argument: field, transformer, quoted string, number, or transformer list"
        }))
    }

    fn field(&mut self) -> Parsed<Option<Field>> {
        let start = self.lexer.pos();
        let Some(text) = self.lexer.field_name() else {
            return Ok(None);
        };
        let span = Span::new(start, self.lexer.pos());
        self.last = span;
        let name = Name {
            text: text.to_owned(),
            span,
        };
        let arg = self.arg()?;
        Ok(Some(Field {
            name,
            arg,
            span: Span::new(start, self.lexer.pos()),
        }))
    }

    /// Brackets behind a field or transformer.
    fn arg(&mut self) -> Parsed<Option<Value>> {
        if !self.word("[") {
            return Ok(None);
        }
        let start = self.lexer.pos();
        let value = match self.quoted()? {
            // An empty argument is written with double quotes only.
            Some(value) if value.bytes.is_empty() && self.text[start..].starts_with('\'') => None,
            Some(value) => Some(value),
            None => self.lexer.bare_arg().map(|text| self.value_at(start, text)),
        };
        let Some(value) = value else {
            self.lexer.reset(start);
            return Err(
                self.error("expected a valid field argument: a quoted string or a bare string")
            );
        };
        if !self.word("]") {
            return Err(self.error("expected a ']' token"));
        }
        Ok(Some(value))
    }

    fn identifier(&mut self) -> Option<Name> {
        let start = self.lexer.pos();
        let text = self.lexer.identifier()?.to_owned();
        self.last = Span::new(start, self.lexer.pos());
        Some(Name {
            text,
            span: self.last,
        })
    }

    fn value(&mut self) -> Parsed<Option<Value>> {
        if let Some(value) = self.quoted()? {
            return Ok(Some(value));
        }
        let start = self.lexer.pos();
        Ok(self
            .lexer
            .bare_string()
            .map(|text| self.value_at(start, text)))
    }

    fn quoted(&mut self) -> Parsed<Option<Value>> {
        let value = self
            .lexer
            .quoted_string()
            .map_err(|EscapeError { message, span }| SyntaxError {
                message,
                span,
                help: None,
            })?;
        if let Some(value) = &value {
            self.last = value.span;
        }
        Ok(value)
    }

    fn number(&mut self) -> Option<Value> {
        let start = self.lexer.pos();
        let text = self.lexer.number()?;
        Some(self.value_at(start, text))
    }

    fn value_at(&mut self, start: usize, text: &str) -> Value {
        self.last = Span::new(start, start + text.len());
        self.last_value = Some(self.last);
        Value {
            bytes: text.as_bytes().to_vec(),
            span: self.last,
            quoted: false,
        }
    }

    fn word(&mut self, text: &str) -> bool {
        let start = self.lexer.pos();
        let found = self.lexer.literal(text);
        if found {
            self.last = Span::new(start, self.lexer.pos());
        }
        found
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.error(format!("exceeded max depth limit of {DEPTH_MAX}")));
        }
        let result = parse(self);
        self.depth -= 1;
        result
    }

    /// An error at the next token.
    fn error(&self, message: impl Into<String>) -> SyntaxError {
        let mut lexer = self.lexer.clone();
        lexer.blank();
        let rest = &self.text[lexer.pos()..];
        let word = rest
            .char_indices()
            .find(|&(index, c)| index > 0 && (c.is_whitespace() || matches!(c, '(' | ')' | ',')))
            .map_or(rest.len(), |(index, _)| index);
        let span = if rest.is_empty() {
            // Behind the last token; the blanks behind it may reach into the next line.
            let end = self.text.trim_end().len();
            Span::new(end, end)
        } else {
            Span::new(lexer.pos(), lexer.pos() + word)
        };
        SyntaxError {
            message: message.into(),
            span,
            help: None,
        }
    }
}

fn modifier(word: &str) -> Option<Modifier> {
    match word {
        "oneof" => Some(Modifier::OneOf),
        "anyof" => Some(Modifier::AnyOf),
        "allof" => Some(Modifier::AllOf),
        _ => None,
    }
}

/// The only part itself, or all parts joined.
fn one_or(mut parts: Vec<Expr>, join: impl FnOnce(Vec<Expr>) -> Expr) -> Expr {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            join(parts)
        }
        None => unreachable!("callers parse at least one part"),
    }
}
