//! Turns the text of an expression into its checked form. The syntax is read by the `cel` crate, whose types end here.

use cel::{
    common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, MapExpr, operators},
    parser::PrattParser,
};
use tidegate_core::limits;

use super::{
    calls::{self, Style},
    node::{Binary, Compiled, Loop, Node},
};

/// Deepest nesting that the parser may go into by itself.
const PARSER_DEPTH_MAX: u16 = 32;
/// Most conditions `a ? b : c` of one expression; the parser goes one level deeper for each in a chain.
const CONDITIONS_MAX: usize = 32;
/// Largest compiled form of one pattern.
const PATTERN_BYTES_MAX: usize = 256 * 1024;
/// Names of types, which may stand beside `type(x)`.
const TYPES: [&str; 9] = ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "timestamp"];

pub(super) fn compile(source: &str) -> Result<Compiled, String> {
    if source.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    if source.len() > limits::EXPRESSION_BYTES_MAX {
        return Err(format!("is longer than {} bytes", limits::EXPRESSION_BYTES_MAX));
    }
    if source.matches('?').count() > CONDITIONS_MAX {
        return Err(format!("has more than {CONDITIONS_MAX} question marks"));
    }
    let parsed = PrattParser::new().max_recursion_depth(PARSER_DEPTH_MAX).parse(source).map_err(|errors| {
        let Some(error) = errors.errors.first() else { return "is not readable".to_owned() };
        let (line, column) = error.pos;
        let message = error.msg.strip_prefix("Syntax error: ").unwrap_or(&error.msg);
        // An error of the whole, such as too deep a nesting, has no place.
        if line < 1 {
            return message.to_owned();
        }
        format!("{}: {message}", place(source, line.unsigned_abs(), column.unsigned_abs()))
    })?;
    let mut compiler = Compiler { source, locals: Vec::new(), names: Vec::new(), depth: 0 };
    let root = compiler.node(&parsed)?;
    Ok(Compiled { root, names: compiler.names })
}

/// Says where in an expression something is: the column, and the line when there are several.
fn place(source: &str, line: usize, column: usize) -> String {
    if source.trim_end().contains('\n') { format!("line {line}, column {column}") } else { format!("column {column}") }
}

/// Says where a word first stands in an expression, outside of quotes and not behind a dot.
pub(super) fn place_of(source: &str, word: &str) -> String {
    let (mut line, mut column) = (1, 1);
    let mut quote = None;
    let mut before = ' ';
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    for (index, c) in source.char_indices() {
        let rest = &source[index..];
        let here = quote.is_none() && !part_of_word(before) && rest.starts_with(word);
        if here && !rest[word.len()..].starts_with(part_of_word) {
            return place(source, line, column);
        }
        match quote {
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(open) if c == open && before != '\\' => quote = None,
            _ => {}
        }
        before = c;
        column += 1;
        if c == '\n' {
            (line, column) = (line + 1, 1);
        }
    }
    place(source, 1, 1)
}

struct Compiler<'s> {
    source: &'s str,
    locals: Vec<String>,
    names: Vec<String>,
    depth: usize,
}

impl Compiler<'_> {
    fn node(&mut self, expr: &IdedExpr) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > limits::EXPRESSION_DEPTH_MAX {
            return Err(format!("is nested deeper than {} levels", limits::EXPRESSION_DEPTH_MAX));
        }
        let node = self.kind(&expr.expr)?;
        self.depth -= 1;
        Ok(node)
    }

    fn boxed(&mut self, expr: &IdedExpr) -> Result<Box<Node>, String> {
        self.node(expr).map(Box::new)
    }

    fn nodes(&mut self, exprs: &[IdedExpr]) -> Result<Vec<Node>, String> {
        exprs.iter().map(|expr| self.node(expr)).collect()
    }

    fn kind(&mut self, expr: &Expr) -> Result<Node, String> {
        match expr {
            Expr::Unspecified => Err("is not readable".to_owned()),
            Expr::Literal(literal) => Ok(self.literal(literal)),
            Expr::Ident(name) => Ok(self.name(name)),
            Expr::Select(select) if select.test => Ok(Node::Has(self.boxed(&select.operand)?, select.field.clone())),
            Expr::Select(select) => Ok(Node::Field(self.boxed(&select.operand)?, select.field.clone())),
            Expr::List(list) => self.nodes(&list.elements).map(Node::List),
            Expr::Map(map) => self.map(map),
            Expr::Struct(made) => Err(format!(
                "{}: there is no type {:?} to make; a map is written {{\"key\": value}}",
                place_of(self.source, &made.type_name),
                made.type_name
            )),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Call(call) => self.call(call),
        }
    }

    fn literal(&self, literal: &LiteralValue) -> Node {
        match literal {
            LiteralValue::Null => Node::Null,
            LiteralValue::Boolean(truth) => Node::Bool(*truth.inner()),
            LiteralValue::Int(number) => Node::Int(*number.inner()),
            LiteralValue::UInt(number) => Node::Uint(*number.inner()),
            LiteralValue::Double(number) => Node::Double(*number.inner()),
            LiteralValue::String(text) => Node::Text(text.inner().to_owned()),
            LiteralValue::Bytes(bytes) => Node::Bytes(bytes.inner().to_vec()),
        }
    }

    fn name(&mut self, name: &str) -> Node {
        if let Some(place) = self.locals.iter().rposition(|local| local == name) {
            return Node::Local(place);
        }
        if let Some(kind) = TYPES.iter().find(|kind| **kind == name) {
            return Node::Type(kind);
        }
        if !self.names.iter().any(|known| known == name) {
            self.names.push(name.to_owned());
        }
        Node::Name(name.to_owned())
    }

    fn map(&mut self, map: &MapExpr) -> Result<Node, String> {
        let mut entries = Vec::with_capacity(map.entries.len());
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { return Err("is not readable".to_owned()) };
            entries.push((self.node(&entry.key)?, self.node(&entry.value)?));
        }
        Ok(Node::Map(entries))
    }

    fn comprehension(&mut self, from: &ComprehensionExpr) -> Result<Node, String> {
        let range = self.node(&from.iter_range)?;
        let start = self.node(&from.accu_init)?;
        let place = self.locals.len();
        self.locals.push(from.accu_var.clone());
        self.locals.push(from.iter_var.clone());
        let go_on = self.node(&from.loop_cond)?;
        let step = self.node(&from.loop_step)?;
        self.locals.pop();
        let result = self.node(&from.result)?;
        self.locals.pop();
        Ok(Node::Loop(Box::new(Loop { range, start, place, go_on, step, result })))
    }

    fn call(&mut self, call: &CallExpr) -> Result<Node, String> {
        if call.target.is_none()
            && let Some(node) = self.operator(call)?
        {
            return Ok(node);
        }
        let name = call.func_name.as_str();
        let here = || place_of(self.source, name);
        let given = call.args.len() + usize::from(call.target.is_some());
        if name == "matches" && given == 2 {
            return self.matches(call);
        }
        let known = calls::ALL.iter().filter(|(known, _, _, _)| *known == name);
        let styled = known.clone().find(|(_, style, _, _)| match style {
            Style::Plain => call.target.is_none(),
            Style::Member => call.target.is_some(),
            Style::Both => true,
        });
        let Some((_, _, takes, function)) = styled else {
            let how = if call.target.is_some() { format!("x.{name}()") } else { format!("{name}()") };
            return Err(format!("{}: there is no function {how}", here()));
        };
        if given != *takes {
            return Err(format!("{}: {name} takes {takes} arguments, not {given}", here()));
        }
        let mut arguments = Vec::with_capacity(given);
        if let Some(target) = &call.target {
            arguments.push(self.node(target)?);
        }
        arguments.extend(self.nodes(&call.args)?);
        Ok(Node::Call(*function, arguments))
    }

    /// A pattern is compiled once, and never comes from an event.
    fn matches(&mut self, call: &CallExpr) -> Result<Node, String> {
        let (Some(of), Some(pattern)) = (call.target.as_deref().or(call.args.first()), call.args.last()) else {
            return Err("matches takes 2 arguments".to_owned());
        };
        let here = place_of(self.source, "matches");
        let Expr::Literal(LiteralValue::String(pattern)) = &pattern.expr else {
            return Err(format!("{here}: the pattern of matches must stand in the expression as text"));
        };
        let pattern = regex::RegexBuilder::new(pattern.inner())
            .size_limit(PATTERN_BYTES_MAX)
            .dfa_size_limit(PATTERN_BYTES_MAX)
            .build()
            .map_err(|error| {
                let last = error.to_string();
                format!("{here}: the pattern is not right: {}", last.lines().last().unwrap_or_default())
            })?;
        Ok(Node::Matches(self.boxed(of)?, pattern))
    }

    fn operator(&mut self, call: &CallExpr) -> Result<Option<Node>, String> {
        let binary = match call.func_name.as_str() {
            operators::ADD => Binary::Add,
            operators::SUBSTRACT => Binary::Subtract,
            operators::MULTIPLY => Binary::Multiply,
            operators::DIVIDE => Binary::Divide,
            operators::MODULO => Binary::Remainder,
            operators::EQUALS => Binary::Equal,
            operators::NOT_EQUALS => Binary::Unequal,
            operators::LESS => Binary::Less,
            operators::LESS_EQUALS => Binary::LessOrEqual,
            operators::GREATER => Binary::Greater,
            operators::GREATER_EQUALS => Binary::GreaterOrEqual,
            operators::IN => Binary::In,
            _ => return self.special(call),
        };
        let [left, right] = call.args.as_slice() else { return Err("is not readable".to_owned()) };
        if binary == Binary::Add
            && let Expr::Ident(name) = &left.expr
            // No expression can be written with this sign in a name: it is what a macro gathers.
            && name.starts_with('@')
            && let Node::Local(place) = self.name(name)
        {
            return Ok(Some(Node::Gather(place, self.boxed(right)?)));
        }
        Ok(Some(Node::Binary(binary, self.pair(left, right)?)))
    }

    fn special(&mut self, call: &CallExpr) -> Result<Option<Node>, String> {
        Ok(Some(match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::CONDITIONAL, [condition, yes, no]) => {
                Node::If(Box::new([self.node(condition)?, self.node(yes)?, self.node(no)?]))
            }
            (operators::LOGICAL_AND, [left, right]) => Node::And(self.pair(left, right)?),
            (operators::LOGICAL_OR, [left, right]) => Node::Or(self.pair(left, right)?),
            (operators::INDEX, [of, at]) => Node::Index(self.pair(of, at)?),
            (operators::LOGICAL_NOT, [of]) => Node::Not(self.boxed(of)?),
            (operators::NEGATE, [of]) => Node::Negate(self.boxed(of)?),
            (operators::NOT_STRICTLY_FALSE, [of]) => Node::NotFalse(self.boxed(of)?),
            _ => return Ok(None),
        }))
    }

    fn pair(&mut self, left: &IdedExpr, right: &IdedExpr) -> Result<Box<[Node; 2]>, String> {
        Ok(Box::new([self.node(left)?, self.node(right)?]))
    }
}
