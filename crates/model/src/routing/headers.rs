//! How a headers exchange chooses: the arguments of a binding against the headers of a message.

use posthouse_amqp::table::Value;

use super::binding::BindingArguments;
use crate::argument::same_value;

/// Whether headers fit a binding's arguments. `header` finds the value of a header.
///
/// A void argument asks only that the header exists. Without arguments, `all` fits every message.
pub(super) fn fits<'h>(
    arguments: Option<&BindingArguments>,
    header: &impl Fn(&str) -> Option<&'h Value>,
) -> bool {
    let Some(BindingArguments { table, mode, .. }) = arguments else { return true };
    let mut wanted = table
        .iter()
        .filter(|(name, _)| *name != "x-match" && (mode.with_x || !name.starts_with("x-")));
    let is_there = |(name, wanted): (&str, &Value)| {
        header(name).is_some_and(|value| *wanted == Value::Void || same_value(wanted, value))
    };
    if mode.any { wanted.any(is_there) } else { wanted.all(is_there) }
}

#[cfg(test)]
mod tests {
    use posthouse_amqp::table::Table;

    use super::*;

    fn check(arguments: &[(&str, Value)], headers: &[(&str, Value)]) -> bool {
        let arguments: Table = arguments.iter().cloned().collect();
        let headers: Table = headers.iter().cloned().collect();
        let arguments = BindingArguments::new(&arguments).expect("encodes");
        fits(arguments.as_deref(), &|name| headers.get(name))
    }

    #[test]
    fn all_is_the_default_and_wants_every_argument() {
        let wanted = [("a", Value::I32(1)), ("b", "x".into())];

        assert!(check(&wanted, &[("b", "x".into()), ("a", Value::I64(1)), ("c", Value::Void)]));
        assert!(!check(&wanted, &[("a", Value::I32(1))]));
        assert!(!check(&wanted, &[("a", Value::I32(2)), ("b", "x".into())]));
        assert!(check(&[], &[]));
        assert!(check(&[("x-match", "all".into())], &[]));
    }

    #[test]
    fn any_wants_one_argument() {
        let wanted = [("x-match", "any".into()), ("a", Value::I32(1)), ("b", "x".into())];

        assert!(check(&wanted, &[("b", "x".into())]));
        assert!(!check(&wanted, &[("b", "y".into())]));
        assert!(!check(&wanted, &[]));
        assert!(!check(&[("x-match", "any".into())], &[("a", Value::I32(1))]));
    }

    #[test]
    fn headers_that_begin_with_x_count_only_if_asked_for() {
        let headers = [("x-a", Value::I32(1))];
        let wanted = |how: &str| [("x-match", how.into()), ("x-a", Value::I32(2))];

        assert!(check(&wanted("all"), &headers));
        assert!(!check(&wanted("all-with-x"), &headers));
        assert!(!check(&wanted("any"), &headers));
        assert!(check(&[("x-match", "any-with-x".into()), ("x-a", Value::I32(1))], &headers));
    }

    #[test]
    fn a_void_argument_asks_only_that_the_header_exists() {
        assert!(check(&[("a", Value::Void)], &[("a", "anything".into())]));
        assert!(!check(&[("a", Value::Void)], &[("b", "anything".into())]));
    }
}
