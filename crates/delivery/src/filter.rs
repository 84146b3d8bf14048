//! Filters of subscriptions: an expression in CEL over a message decides whether it is sent.
//!
//! | name | is |
//! |---|---|
//! | `body` | the message's JSON; text if it is none |
//! | `headers` | its AMQP headers, a map; empty for messages that came by HTTP |
//! | `queue` | the queue's name |
//! | `ttl` | seconds, as posted |
//!
//! The expression comes from a tenant and the body from another, so both are bounded: the text's length and nesting when
//! it is compiled, and what an evaluation could cost at worst before each. A filter that fails on a message (a member is
//! missing, a type is wrong, it would cost too much) does not match it.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::objects::{Key, Map};
use cel::{Context, Env, Value};
use serde_json::Value as Json;

/// Longest expression, in bytes.
pub const FILTER_BYTES_MAX: usize = 1024;

/// Deepest nesting of brackets, and of the tree. The parser is recursive, with frames of kilobytes.
const DEPTH_MAX: usize = 24;

/// Most operators: a chain of them is a tree as deep as it is long.
const OPERATORS_MAX: usize = 100;

/// Most levels of `all`, `exists`, `map` and `filter` inside of each other.
const LOOPS_MAX: u32 = 2;

/// Most work that an evaluation may be, in steps of some nanoseconds: about 10 ms.
const COST_MAX: u64 = 2_000_000;

/// Bytes of text or lists that one step handles.
const BYTES_PER_STEP: u64 = 64;

/// What an expression may refer to.
const VARIABLES: [&str; 4] = ["body", "headers", "queue", "ttl"];

/// What it may call, beside operators, which no text can spell.
const FUNCTIONS: [&str; 13] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "int",
    "uint",
    "double",
    "string",
    "bool",
    "bytes",
    "type",
    "dyn",
    "has",
];

/// Operators, and calls that macros leave behind, are written so that no name can be them.
const OPERATOR_MARKS: [char; 4] = ['_', '@', '!', '-'];

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled filter.
pub struct Filter {
    source: Box<str>,
    expression: IdedExpr,
}

/// Why an expression is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Longer than [`FILTER_BYTES_MAX`].
    #[error("a filter must be at most 1024 bytes, not {0}")]
    TooLong(usize),
    /// Nested too deeply.
    #[error("a filter must not be nested deeper than 24")]
    TooDeep,
    /// More than [`OPERATORS_MAX`] operators.
    #[error("a filter must not have more than 100 operators")]
    TooManyOperators,
    /// Loops inside of loops inside of loops.
    #[error(
        "a filter must not have more than 2 of all, exists, map and filter inside of each other"
    )]
    TooManyLoops,
    /// Not an expression.
    #[error("the filter is not an expression: {0}")]
    Syntax(String),
    /// A name that does not stand for anything.
    #[error("the filter refers to `{0}`; there are body, headers, queue and ttl")]
    UnknownVariable(String),
    /// A function that is not there.
    #[error("the filter calls `{0}`, which is not there")]
    UnknownFunction(String),
}

/// What a filter looks at.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The body, as JSON has it.
    pub body: &'a Json,
    /// Headers by name.
    pub headers: &'a [(String, Json)],
    /// Name of the queue.
    pub queue: &'a str,
    /// Time to live in seconds.
    pub ttl: u64,
    /// Bytes of the body; what an operation on all of it costs.
    pub body_bytes: usize,
}

/// Why a filter has no answer for a message. It does not match then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// It could cost more than a filter may.
    #[error("the filter would cost too much on this message")]
    TooExpensive,
    /// A member is missing, a type is wrong, a number overflows.
    #[error("the filter failed: {0}")]
    Failed(String),
    /// It is neither true nor false.
    #[error("the filter is neither true nor false")]
    NotBoolean,
}

impl Filter {
    /// Compiles an expression.
    ///
    /// # Errors
    ///
    /// [`FilterError`] with a text for whoever wrote it.
    pub fn compile(source: &str) -> Result<Self, FilterError> {
        if source.len() > FILTER_BYTES_MAX {
            return Err(FilterError::TooLong(source.len()));
        }
        measure(source)?;
        let parse = || ENVIRONMENT.parser().parse(source);
        // A parser that others wrote, and a text that anybody may write.
        let expression = match catch_unwind(AssertUnwindSafe(parse)) {
            Ok(Ok(expression)) => expression,
            Ok(Err(errors)) => {
                let first =
                    errors.errors.first().map_or_else(String::new, |error| error.msg.clone());
                return Err(FilterError::Syntax(first));
            }
            Err(_) => return Err(FilterError::Syntax("it cannot be read".to_owned())),
        };
        let mut scope = Vec::new();
        check(&expression, &mut scope, 0, 0)?;
        Ok(Self { source: source.into(), expression })
    }

    /// The expression as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether a message matches.
    ///
    /// # Errors
    ///
    /// [`Unanswered`] if there is no answer; the message does not match then.
    pub fn matches(&self, subject: &Subject<'_>) -> Result<bool, Unanswered> {
        let longest = longest(subject.body).max(subject.headers.len() as u64);
        let sizes = Sizes {
            longest,
            step: 1 + (subject.body_bytes as u64 + self.source.len() as u64) / BYTES_PER_STEP,
        };
        if cost(&self.expression, &sizes) > COST_MAX {
            return Err(Unanswered::TooExpensive);
        }
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        let headers: HashMap<Key, Value> = subject
            .headers
            .iter()
            .map(|(name, value)| (Key::String(Arc::new(name.clone())), to_cel(value)))
            .collect();
        context.add_variable_from_value("body", to_cel(subject.body));
        context.add_variable_from_value("headers", Value::Map(Map { map: Arc::new(headers) }));
        context.add_variable_from_value("queue", subject.queue);
        context.add_variable_from_value(
            "ttl",
            Value::Int(i64::try_from(subject.ttl).unwrap_or(i64::MAX)),
        );
        let resolve = || Value::resolve(&self.expression, &context);
        match catch_unwind(AssertUnwindSafe(resolve)) {
            Ok(Ok(Value::Bool(answer))) => Ok(answer),
            Ok(Ok(_)) => Err(Unanswered::NotBoolean),
            Ok(Err(error)) => Err(Unanswered::Failed(shortened(&error.to_string()))),
            Err(_) => Err(Unanswered::Failed("it cannot be evaluated".to_owned())),
        }
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({})", self.source)
    }
}

/// Bounds what the parser will do before it does it: nesting and operators outside of texts.
fn measure(source: &str) -> Result<(), FilterError> {
    // What would make this scanner and the parser disagree about where a text ends is not supported.
    let unsupported = |what: &str| Err(FilterError::Syntax(format!("no {what}, please")));
    let (mut depth, mut unary, mut operators) = (0_usize, 0_usize, 0_usize);
    let (mut quote, mut last) = (None, 0);
    let mut rest = source.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if let Some(end) = quote {
            match byte {
                b'\\' => rest = rest.get(1..).unwrap_or_default(),
                _ if byte == end => quote = None,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' | b'\'' if matches!(last, b'r' | b'R') => return unsupported("raw texts"),
            b'"' | b'\'' if rest.starts_with(&[byte, byte]) => {
                return unsupported("triple quotes");
            }
            b'"' | b'\'' => quote = Some(byte),
            b'`' => return unsupported("quoted names"),
            b'/' if last == b'/' => return unsupported("comments"),
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'!' | b'-' => unary += 1,
            b'?' => depth += 1,
            b'+' | b'*' | b'/' | b'%' | b'.' | b'<' | b'>' | b'=' | b'&' | b'|' => operators += 1,
            _ => {}
        }
        last = byte;
        if depth > DEPTH_MAX || unary > DEPTH_MAX {
            return Err(FilterError::TooDeep);
        }
        if operators > OPERATORS_MAX {
            return Err(FilterError::TooManyOperators);
        }
    }
    Ok(())
}

/// An error's text may have a whole body in it.
fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

/// Checks names, nesting and loops. `scope` has the variables of the loops around.
fn check<'a>(
    node: &'a IdedExpr,
    scope: &mut Vec<&'a str>,
    depth: usize,
    loops: u32,
) -> Result<(), FilterError> {
    if depth > DEPTH_MAX {
        return Err(FilterError::TooDeep);
    }
    match &node.expr {
        Expr::Unspecified | Expr::Literal(_) => Ok(()),
        Expr::Ident(name) => {
            let known = VARIABLES.contains(&name.as_str())
                || name.starts_with('@')
                || scope.contains(&name.as_str());
            if known { Ok(()) } else { Err(FilterError::UnknownVariable(name.clone())) }
        }
        Expr::Call(call) => {
            let operator = call.func_name.starts_with(OPERATOR_MARKS);
            if !operator && !FUNCTIONS.contains(&call.func_name.as_str()) {
                return Err(FilterError::UnknownFunction(call.func_name.clone()));
            }
            let children = call.target.as_deref().into_iter().chain(&call.args);
            all(children, |child| check(child, scope, depth + 1, loops))
        }
        Expr::Comprehension(each) => {
            if loops >= LOOPS_MAX {
                return Err(FilterError::TooManyLoops);
            }
            check(&each.iter_range, scope, depth + 1, loops)?;
            check(&each.accu_init, scope, depth + 1, loops)?;
            let outside = scope.len();
            scope.push(&each.iter_var);
            scope.extend(each.iter_var2.as_deref());
            scope.push(&each.accu_var);
            let inside = [&each.loop_cond, &each.loop_step, &each.result];
            let checked = all(inside, |child| check(child, scope, depth + 1, loops + 1));
            scope.truncate(outside);
            checked
        }
        Expr::List(list) => all(&list.elements, |child| check(child, scope, depth + 1, loops)),
        Expr::Map(map) => all(map.entries.iter().flat_map(|entry| parts(&entry.expr)), |child| {
            check(child, scope, depth + 1, loops)
        }),
        Expr::Select(select) => check(&select.operand, scope, depth + 1, loops),
        Expr::Struct(made) => Err(FilterError::UnknownFunction(made.type_name.clone())),
    }
}

fn all<'a>(
    nodes: impl IntoIterator<Item = &'a IdedExpr>,
    mut check: impl FnMut(&'a IdedExpr) -> Result<(), FilterError>,
) -> Result<(), FilterError> {
    nodes.into_iter().try_for_each(&mut check)
}

fn parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

struct Sizes {
    /// Elements of the longest list or map that a loop could go over.
    longest: u64,
    /// What a call on everything that there is costs.
    step: u64,
}

/// What an evaluation costs at worst.
fn cost(node: &IdedExpr, sizes: &Sizes) -> u64 {
    let sum = |nodes: &mut dyn Iterator<Item = &IdedExpr>| {
        nodes.fold(0_u64, |sum, node| sum.saturating_add(cost(node, sizes)))
    };
    match &node.expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => 1,
        Expr::Call(call) => {
            let mut children = call.target.as_deref().into_iter().chain(&call.args);
            sizes.step.saturating_add(sum(&mut children))
        }
        Expr::Comprehension(each) => {
            let inside = [&each.loop_cond, &each.loop_step];
            // A list that is written in the filter may be longer than any of the message.
            let rounds = sizes.longest.max(FILTER_BYTES_MAX as u64 / 2);
            let rounds = match &each.iter_range.expr {
                Expr::List(list) => list.elements.len() as u64,
                _ if sizes.longest < rounds && !has_list(&each.iter_range) => sizes.longest,
                _ => rounds,
            };
            let loops = sum(&mut inside.into_iter()).saturating_mul(rounds);
            let around = [&each.iter_range, &each.accu_init, &each.result];
            loops.saturating_add(sum(&mut around.into_iter()))
        }
        Expr::List(list) => sum(&mut list.elements.iter()).saturating_add(1),
        Expr::Map(map) => {
            sum(&mut map.entries.iter().flat_map(|entry| parts(&entry.expr))).saturating_add(1)
        }
        Expr::Select(select) => cost(&select.operand, sizes).saturating_add(1),
        Expr::Struct(_) => 1,
    }
}

/// Whether a list could grow in this expression beyond what the message has.
fn has_list(node: &IdedExpr) -> bool {
    match &node.expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => false,
        Expr::Select(select) => has_list(&select.operand),
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).any(has_list),
        // What a loop makes is as long as what it goes over.
        Expr::Comprehension(each) => has_list(&each.iter_range),
        Expr::List(_) | Expr::Map(_) | Expr::Struct(_) => true,
    }
}

/// Elements of the longest list or object.
fn longest(value: &Json) -> u64 {
    match value {
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => 0,
        Json::Array(list) => list.iter().map(longest).max().unwrap_or(0).max(list.len() as u64),
        Json::Object(members) => {
            members.values().map(longest).max().unwrap_or(0).max(members.len() as u64)
        }
    }
}

/// JSON's one kind of number becomes an integer where it is one, so that `body.count + 1` means what it says.
fn to_cel(value: &Json) -> Value {
    match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::UInt(number),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(Arc::new(text.clone())),
        Json::Array(list) => Value::List(Arc::new(list.iter().map(to_cel).collect())),
        Json::Object(members) => {
            let map = members
                .iter()
                .map(|(name, value)| (Key::String(Arc::new(name.clone())), to_cel(value)))
                .collect();
            Value::Map(Map { map: Arc::new(map) })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn evaluate(source: &str, body: &Json) -> Result<bool, Unanswered> {
        let headers = [("kind".to_owned(), json!("order")), ("retry".to_owned(), json!(2))];
        let body_bytes = body.to_string().len();
        let subject = Subject { body, headers: &headers, queue: "q", ttl: 60, body_bytes };
        Filter::compile(source)
            .unwrap_or_else(|error| panic!("{source}: {error}"))
            .matches(&subject)
    }

    #[test]
    fn a_filter_looks_at_body_headers_queue_and_ttl() {
        let body = json!({
            "type": "order.placed", "total": 12.5, "count": 3,
            "tags": ["new", "big"], "who": {"name": "Ann"}, "big": 18_446_744_073_709_551_615_u64,
        });
        for (source, expected) in [
            ("body.type == 'order.placed'", true),
            ("body.type.startsWith('order.') && body.total > 10.0", true),
            ("body.total > 10", true),
            ("body.count == 3 && body.count + 1 == 4", true),
            ("'big' in body.tags", true),
            ("body.tags.exists(tag, tag == 'old')", false),
            ("body.tags.all(tag, size(tag) == 3)", true),
            ("body.tags.map(tag, tag + '!').exists(tag, tag == 'new!')", true),
            ("has(body.who.name) && !has(body.who.age)", true),
            ("body.who['name'] == 'Ann'", true),
            ("headers.kind == 'order' && headers['retry'] >= 2", true),
            ("queue == 'q' && ttl == 60", true),
            ("body.type in ['a', 'b']", false),
            ("body.big > 1u", true),
            ("true", true),
        ] {
            assert_eq!(evaluate(source, &body), Ok(expected), "{source}");
        }
    }

    #[test]
    fn bodies_that_are_not_objects_can_be_filtered_too() {
        assert_eq!(evaluate("body == 'plain'", &json!("plain")), Ok(true));
        assert_eq!(evaluate("body[0] == 1", &json!([1])), Ok(true));
        assert_eq!(evaluate("body == null", &Json::Null), Ok(true));
    }

    #[test]
    fn a_filter_that_fails_on_a_message_does_not_match_it() {
        for source in ["body.missing == 1", "body.a > 'x'", "1 / 0 == 1", "body['x']"] {
            assert!(
                matches!(evaluate(source, &json!({"a": 1})), Err(Unanswered::Failed(_))),
                "{source}"
            );
        }
        assert_eq!(evaluate("body.a", &json!({"a": 1})), Err(Unanswered::NotBoolean));
    }

    #[test]
    fn whoever_writes_a_filter_is_told_what_is_wrong() {
        let refusal = |source: &str| Filter::compile(source).unwrap_err();

        assert!(matches!(refusal("body ="), FilterError::Syntax(_)));
        assert!(matches!(refusal(""), FilterError::Syntax(_)));
        assert_eq!(refusal("bdy.a == 1"), FilterError::UnknownVariable("bdy".to_owned()));
        assert_eq!(
            refusal("body.a.matches('(a+)+b')"),
            FilterError::UnknownFunction("matches".to_owned())
        );
        assert_eq!(
            refusal("body.a.exists(x, x.exists(y, y.exists(z, z == 1)))"),
            FilterError::TooManyLoops
        );
        assert!(matches!(refusal("[1].exists(x, true) && x"), FilterError::UnknownVariable(_)));
        assert_eq!(refusal(&"a".repeat(1025)), FilterError::TooLong(1025));
    }

    #[test]
    fn deep_nesting_is_refused_on_a_small_stack() {
        let deep = |open: &str, close: &str, times: usize| {
            format!("{}true{}", open.repeat(times), close.repeat(times))
        };
        let texts = [
            deep("(", ")", 500),
            deep("[", "]", 500),
            deep("!", "", 1000),
            deep("-", "", 1000),
            deep("{'a':", "}", 160),
            deep("true?", ":1", 140),
            format!("1{}==1", "+1".repeat(500)),
            format!("body{}==1", ".a".repeat(500)),
            format!("body{}==1", "[0]".repeat(300)),
            format!("true{}", "&&true".repeat(160)),
            format!("true{}", "==true".repeat(160)),
            "(".repeat(1024),
            format!("1{}", " in 1".repeat(200)),
            format!("r'\\' == '' || {}", deep("(", ")", 400)),
            format!("''' ' ''' == '' || {}", deep("(", ")", 400)),
            format!("true // '\n || {}", deep("(", ")", 400)),
            format!("body.`'` || {}", deep("(", ")", 400)),
        ];
        let thread = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
        let work = move || {
            for text in texts {
                if let Ok(filter) = Filter::compile(&text) {
                    let subject = Subject {
                        body: &Json::Null,
                        headers: &[],
                        queue: "q",
                        ttl: 1,
                        body_bytes: 4,
                    };
                    // Any answer will do: what matters is that there is one.
                    drop(filter.matches(&subject));
                }
            }
        };
        thread.spawn(work).unwrap().join().unwrap();
    }

    #[test]
    fn a_filter_that_would_cost_too_much_does_not_run() {
        let numbers: Vec<u64> = (0..60_000).collect();
        let body = json!({"numbers": numbers, "text": "x".repeat(100_000)});

        let nested = "body.numbers.all(x, body.numbers.exists(y, x == y))";
        assert_eq!(evaluate(nested, &body), Err(Unanswered::TooExpensive));
        let long = "body.numbers.all(x, !body.text.contains('y'))";
        assert_eq!(evaluate(long, &body), Err(Unanswered::TooExpensive));

        assert_eq!(evaluate("body.text.contains('xx')", &body), Ok(true));
        let small = json!({"numbers": [1, 2, 3]});
        assert_eq!(evaluate(nested, &small), Ok(true));
    }
}
