//! The checked form of an expression, which is what runs.

use std::sync::Arc;

use regex::Regex;

use super::calls::Function;

/// One step of an expression.
#[derive(Debug)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// The name of a type, such as `int`.
    Type(&'static str),
    /// A part of the scope.
    Name(String),
    /// A variable of a macro, by its place on the stack.
    Local(usize),
    Field(Box<Self>, String),
    /// `has(of.field)`.
    Has(Box<Self>, String),
    Index(Box<[Self; 2]>),
    And(Box<[Self; 2]>),
    Or(Box<[Self; 2]>),
    Not(Box<Self>),
    Negate(Box<Self>),
    If(Box<[Self; 3]>),
    Binary(Binary, Box<[Self; 2]>),
    List(Vec<Self>),
    Map(Vec<(Self, Self)>),
    Call(Function, Vec<Self>),
    /// `matches` with a pattern that stands in the expression.
    Matches(Box<Self>, Regex),
    /// What the loop of a macro has gathered, taken out, plus something.
    Gather(usize, Box<Self>),
    /// Whether the loop of `all` or `exists` may go on.
    NotFalse(Box<Self>),
    Loop(Box<Loop>),
}

/// The loop into which a macro unfolds. What it has gathered is at `place` of the stack and the element behind it.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) range: Node,
    pub(super) start: Node,
    pub(super) place: usize,
    pub(super) go_on: Node,
    pub(super) step: Node,
    pub(super) result: Node,
}

/// Operators of two sides that look at both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
}

impl Binary {
    /// Returns how it is written.
    pub(super) fn sign(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
            Self::Equal => "==",
            Self::Unequal => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::In => "in",
        }
    }
}

/// A compiled expression with the names of the scope that it looks at.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) root: Node,
    pub(super) names: Vec<String>,
}

/// Why an expression stopped.
#[derive(Debug, Clone)]
pub(super) enum Stop {
    /// A step failed; `&&`, `||`, `all` and `exists` may do without it.
    Failed(Arc<str>),
    /// It took more steps than the limit.
    Exhausted,
}

impl Stop {
    pub(super) fn failed(what: impl Into<Arc<str>>) -> Self {
        Self::Failed(what.into())
    }
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(what) => f.write_str(what),
            Self::Exhausted => {
                write!(f, "takes more than {} steps", tidegate_core::limits::EXPRESSION_STEPS_MAX)
            }
        }
    }
}
