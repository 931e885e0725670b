//! The straightforward evaluator: walks a condition's tree for every event, left to right, stopping early.
//!
//! It is Falco's design and the definition of what conditions mean; the engine must agree with it on
//! every event. Benchmarks measure the engine against it, so nothing here is slow on purpose: patterns
//! are compiled and sets are hashed once.

use crate::{FieldSource, expr::Expr, semantics::PreparedTest};

/// A condition made ready for evaluation.
#[derive(Debug)]
pub struct Prepared {
    root: Node,
}

#[derive(Debug)]
enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Test(PreparedTest),
}

impl Prepared {
    /// Compiles patterns and hashes sets.
    pub fn new(expr: &Expr) -> Self {
        Self {
            root: Node::new(expr),
        }
    }

    /// Whether an event meets the condition.
    pub fn evaluate<S: FieldSource + ?Sized>(&self, source: &S) -> bool {
        self.root.holds(source)
    }
}

/// Whether an event meets a condition that is evaluated this once.
pub fn evaluate<S: FieldSource + ?Sized>(expr: &Expr, source: &S) -> bool {
    Prepared::new(expr).evaluate(source)
}

impl Node {
    fn new(expr: &Expr) -> Self {
        match expr {
            Expr::And(parts) => Node::And(parts.iter().map(Node::new).collect()),
            Expr::Or(parts) => Node::Or(parts.iter().map(Node::new).collect()),
            Expr::Not(part) => Node::Not(Box::new(Node::new(part))),
            Expr::Test(test) => Node::Test(PreparedTest::new(test)),
        }
    }

    fn holds<S: FieldSource + ?Sized>(&self, source: &S) -> bool {
        match self {
            Node::And(parts) => parts.iter().all(|part| part.holds(source)),
            Node::Or(parts) => parts.iter().any(|part| part.holds(source)),
            Node::Not(part) => !part.holds(source),
            Node::Test(test) => test.holds(source),
        }
    }
}
