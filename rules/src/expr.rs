//! The typed condition: what the checker hands to the compiler and to the reference evaluator.
//!
//! Macros and lists are already expanded, every name is resolved, every literal is parsed by the type
//! of the field that it is compared with. Text positions stay in the syntax tree (`ast.rs`).

use std::net::IpAddr;

use crate::fields::Field;

/// A condition. `And` and `Or` hold at least two parts and are flattened by the checker.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// All parts hold, evaluated left to right.
    And(Vec<Expr>),
    /// At least one part holds, evaluated left to right.
    Or(Vec<Expr>),
    /// The part does not hold; true also where a field could not be extracted.
    Not(Box<Expr>),
    /// One comparison.
    Test(Test),
}

/// One comparison: `lhs op modifier rhs`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Test {
    /// What is compared.
    pub lhs: Operand,
    /// How.
    pub op: Op,
    /// How the values of a list on the right are combined. `None` where the text has no modifier.
    pub modifier: Option<Modifier>,
    /// With what.
    pub rhs: Rhs,
}

/// Comparison operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is the operator of the same name")]
pub enum Op {
    Exists,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    Intersects,
    PMatch,
    Contains,
    IContains,
    BContains,
    StartsWith,
    BStartsWith,
    EndsWith,
    Glob,
    IGlob,
    Regex,
}

impl Op {
    /// Every operator, in the order of declaration, which is also its number in a bundle.
    pub const ALL: [Op; 19] = [
        Op::Exists,
        Op::Eq,
        Op::Ne,
        Op::Lt,
        Op::Le,
        Op::Gt,
        Op::Ge,
        Op::In,
        Op::Intersects,
        Op::PMatch,
        Op::Contains,
        Op::IContains,
        Op::BContains,
        Op::StartsWith,
        Op::BStartsWith,
        Op::EndsWith,
        Op::Glob,
        Op::IGlob,
        Op::Regex,
    ];
}

/// Right-hand modifiers (`= oneof (a, b)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Modifier {
    /// Exactly as Falco defines it; see `docs/falco-compatibility.md`.
    OneOf,
    /// At least one value of the right side satisfies the comparison.
    AnyOf,
    /// Every value of the right side satisfies the comparison.
    AllOf,
}

/// A field, or transformers around fields and literals.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// `proc.name`, `proc.aname[2]`.
    Field(FieldRef),
    /// `tolower(proc.name)`, `getopt(proc.args, "nt:")["t"]`.
    Transform(Box<Transform>),
    /// A literal inside a transformer's arguments.
    Literal(Literal),
    /// Several operands in parentheses inside a transformer's arguments (`join("-", (fd.name, "x"))`).
    List(Vec<Operand>),
}

/// A field with its argument.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldRef {
    /// Which.
    pub field: Field,
    /// What stood in brackets.
    pub arg: FieldArg,
}

/// The text in brackets behind a field or transformer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FieldArg {
    /// No brackets.
    None,
    /// A number.
    Index(u32),
    /// Any other text.
    Key(Box<str>),
}

/// A transformer applied to operands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transform {
    /// Which.
    pub kind: TransformKind,
    /// What it is applied to.
    pub args: Vec<Operand>,
    /// What stood in brackets behind it (`getopt(…)["t"]`).
    pub arg: FieldArg,
}

/// The transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is the transformer of the same name")]
pub enum TransformKind {
    ToLower,
    ToUpper,
    B64,
    Basename,
    Len,
    Join,
    Concat,
    Getopt,
    Val,
}

/// The right side of a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Rhs {
    /// `exists` has none.
    None,
    /// One value; a list in parentheses (`in (…)`) keeps its order. Duplicates are dropped where they
    /// cannot matter: everywhere but beside `oneof`.
    Values(Vec<Literal>),
    /// Another operand (`proc.name = val(proc.pname)`).
    Operand(Operand),
}

/// A literal, read by the type of the field beside it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Literal {
    /// For `Str`, `Path` and `Bytes` fields.
    Bytes(Box<[u8]>),
    /// For `Uint`, `Port`, `RelTime` and `AbsTime` fields.
    Uint(u64),
    /// For `Int` fields.
    Int(i64),
    /// For `Double` fields, as its bits so that literals can be hashed.
    Double(u64),
    /// For `Bool` fields.
    Bool(bool),
    /// For `Ip` fields.
    Ip(IpAddr),
    /// For `Net` fields, and for `Ip` fields beside a CIDR: address and prefix length.
    Net(IpAddr, u8),
}
