//! The query of a request's path: what the parameters say, and their errors.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::problem::Problem;

/// Everything but what RFC 3986 §2.3 calls unreserved is encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The parameters of a query, decoded. Parameters without a value are as good as absent.
#[derive(Debug, Default)]
pub(crate) struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Query<'a> {
    /// Reads what stands behind the `?`.
    pub(crate) fn parse(text: &'a str) -> Self {
        let pairs = text
            .split('&')
            .filter_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                (!value.is_empty()).then(|| (decoded(name), decoded(value)))
            })
            .collect();
        Self { pairs }
    }

    /// A parameter's value; the last one, where it comes twice.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    /// All values of a parameter: repeated and separated by commas.
    pub(crate) fn list(&self, name: &str) -> Option<Vec<&str>> {
        let values: Vec<_> = self
            .pairs
            .iter()
            .filter(|(found, _)| found == name)
            .flat_map(|(_, value)| value.split(','))
            .filter(|value| !value.is_empty())
            .collect();
        (!values.is_empty()).then_some(values)
    }

    /// A whole number.
    ///
    /// # Errors
    ///
    /// 400 if it is none.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, Problem> {
        self.text(name)
            .map(|text| text.trim().parse().map_err(|_| wrong(name, "must be an integer.")))
            .transpose()
    }

    /// True or false in one of the words that Zaqar takes.
    ///
    /// # Errors
    ///
    /// 400 if it is none of them.
    pub(crate) fn boolean(&self, name: &str) -> Result<Option<bool>, Problem> {
        self.text(name)
            .map(|text| match text {
                "true" | "True" | "t" | "yes" | "y" | "1" | "on" => Ok(true),
                "false" | "False" | "f" | "no" | "n" | "0" | "off" => Ok(false),
                _ => Err(wrong(name, "of the parameter must be \"true\" or \"false\".")),
            })
            .transpose()
    }

    /// The parameters that are not among `known`.
    pub(crate) fn others(
        &self,
        known: &'static [&'static str],
    ) -> impl Iterator<Item = (&str, &str)> {
        self.pairs
            .iter()
            .filter(|(name, _)| !known.contains(&&**name))
            .map(|(name, value)| (&**name, &**value))
    }
}

fn wrong(name: &str, rule: &str) -> Problem {
    let description = format!("The \"{name}\" parameter is invalid. The value {rule}");
    Problem::new(400, "Invalid parameter", description)
}

/// Undoes percent-encoding and `+`; what is no valid encoding stays, what is no UTF-8 becomes U+FFFD.
pub(crate) fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

/// Writes a value so that [`decoded`] finds it again.
pub(crate) fn encode(out: &mut Vec<u8>, text: &str) {
    utf8_percent_encode(text, ENCODED).for_each(|part| out.extend_from_slice(part.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_by_name() {
        let query = Query::parse("limit=5&echo=true&ids=a,b&ids=c&marker=&name=a%2Fb+c&limit=7");

        assert_eq!(query.integer("limit"), Ok(Some(7)));
        assert_eq!(query.boolean("echo"), Ok(Some(true)));
        assert_eq!(query.list("ids").unwrap(), ["a", "b", "c"]);
        assert_eq!(query.text("marker"), None);
        assert_eq!(query.text("name"), Some("a/b c"));
        let others: Vec<_> = query.others(&["limit", "echo", "ids"]).collect();
        assert_eq!(others, [("name", "a/b c")]);
    }

    #[test]
    fn values_of_the_wrong_kind_are_named() {
        let query = Query::parse("limit=five&echo=TRUE");

        let limit = query.integer("limit").unwrap_err();
        assert_eq!(limit.title, "Invalid parameter");
        assert_eq!(
            limit.description.unwrap(),
            "The \"limit\" parameter is invalid. The value must be an integer."
        );
        assert_eq!(
            query.boolean("echo").unwrap_err().description.unwrap(),
            "The \"echo\" parameter is invalid. The value of the parameter must be \"true\" or \"false\"."
        );
    }

    #[test]
    fn what_is_encoded_is_decoded_again_and_nonsense_stays() {
        let mut out = Vec::new();
        encode(&mut out, "a b/é&=?");
        assert_eq!(decoded(std::str::from_utf8(&out).unwrap()), "a b/é&=?");
        assert_eq!(decoded("100%&%zz%4"), "100%&%zz%4");
        assert_eq!(decoded("%ff"), "\u{fffd}");
    }
}
