//! Which exchange or queue takes which message, as an operator writes it:
//!
//! ```text
//! shop/orders.* = exchange events              routing key: the message's type
//! shop/* = exchange events key {source}.{type}
//! */* = queue inbox tenant billing             only in this tenant
//! ```
//!
//! What has another meaning here (spaces, `/`, `=`, `,`, `*`, `{`) is written `%20` and so on where it is part of a name.

use std::borrow::Cow;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

/// Longest name and routing key, in bytes: AMQP's short strings.
const NAME_BYTES_MAX: usize = 255;

/// The beginning of names that no queue has.
const RESERVED: &str = "amq.rabbitmq.";

/// Where messages of a source and a type go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    source: Pattern,
    topic: Pattern,
    /// Only there; `None` is everywhere.
    tenant: Option<String>,
    /// Empty for the default one.
    exchange: String,
    key: Key,
}

/// A text, or the beginning of one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Exactly(String),
    Beginning(String),
}

/// A routing key: parts that are put together.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Source,
    Topic,
}

impl Route {
    /// Whether a message takes it.
    #[must_use]
    pub fn fits(&self, tenant: &str, source: &str, topic: &str) -> bool {
        self.tenant.as_ref().is_none_or(|own| own == tenant)
            && self.source.fits(source)
            && self.topic.fits(topic)
    }

    /// The exchange, empty for the default one.
    #[must_use]
    pub fn exchange(&self) -> &str {
        &self.exchange
    }

    /// The routing key of a message.
    #[must_use]
    pub fn routing_key<'a>(&'a self, source: &'a str, topic: &'a str) -> Cow<'a, str> {
        let text = |part: &'a Part| match part {
            Part::Text(text) => text.as_str(),
            Part::Source => source,
            Part::Topic => topic,
        };
        match self.key.0.as_slice() {
            [only] => Cow::Borrowed(text(only)),
            parts => Cow::Owned(parts.iter().map(text).collect()),
        }
    }
}

impl FromStr for Route {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(from, to)| Some((from.split_once('/')?, to)));
        let Some(((source, topic), to)) = parts else {
            return Err(format!(
                "a route is `SOURCE/TYPE = exchange NAME` or `SOURCE/TYPE = queue NAME`, not `{text}`"
            ));
        };
        let (source, topic) = (Pattern::parse(source.trim())?, Pattern::parse(topic.trim())?);
        let mut words = to.split_whitespace();
        let (kind, name) = (words.next().unwrap_or_default(), words.next());
        let name = unescaped(name.ok_or_else(|| format!("route `{text}` leads nowhere"))?)?;
        let mut route = match kind {
            "exchange" => {
                Self { source, topic, tenant: None, exchange: name, key: Key(vec![Part::Topic]) }
            }
            "queue" if name.starts_with(RESERVED) => {
                return Err(format!("route `{text}`: no queue's name begins with `{RESERVED}`"));
            }
            "queue" => {
                let (exchange, key) = (String::new(), Key(vec![Part::Text(name)]));
                Self { source, topic, tenant: None, exchange, key }
            }
            other => {
                return Err(format!(
                    "route `{text}` must lead to `exchange NAME` or `queue NAME`, not to `{other}`"
                ));
            }
        };
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("route `{text}`: {word} is missing"))?;
            match word {
                "key" if kind == "exchange" => route.key = Key::parse(value)?,
                "tenant" => route.tenant = Some(unescaped(value)?),
                other => {
                    return Err(format!(
                        "route `{text}`: `{other}` means nothing behind `{kind} {}`",
                        name_of(to)
                    ));
                }
            }
        }
        Ok(route)
    }
}

fn name_of(to: &str) -> &str {
    to.split_whitespace().nth(1).unwrap_or_default()
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(match text.strip_suffix('*') {
            Some("") => Self::Beginning(String::new()),
            Some(beginning) => Self::Beginning(unescaped(beginning)?),
            None => Self::Exactly(unescaped(text)?),
        })
    }

    fn fits(&self, text: &str) -> bool {
        match self {
            Self::Exactly(whole) => text == whole,
            Self::Beginning(beginning) => text.starts_with(beginning.as_str()),
        }
    }
}

impl Key {
    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, behind)) = after.split_once('}') else {
                return Err(format!("routing key `{text}` has a {{ without its }}"));
            };
            if !before.is_empty() {
                parts.push(Part::Text(unescaped(before)?));
            }
            parts.push(match name {
                "source" => Part::Source,
                "type" => Part::Topic,
                other => {
                    return Err(format!(
                        "routing key `{text}` may have {{source}} and {{type}}, not {{{other}}}"
                    ));
                }
            });
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(unescaped(rest)?));
        }
        Ok(Self(parts))
    }
}

/// A name as it is; it must have 1 to [`NAME_BYTES_MAX`] bytes.
fn unescaped(word: &str) -> Result<String, String> {
    let name = percent_decode_str(word)
        .decode_utf8()
        .map_err(|_| format!("`{word}` is not UTF-8 behind its percent signs"))?;
    if (1..=NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(name.into_owned());
    }
    Err(format!("names must be 1 to {NAME_BYTES_MAX} bytes, not {}", name.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Route {
        text.parse().unwrap()
    }

    #[test]
    fn messages_go_where_the_first_route_that_fits_says() {
        let events = route("shop/orders.* = exchange events");
        assert!(events.fits("/", "shop", "orders.placed"));
        assert!(!events.fits("/", "shop", "stock") && !events.fits("/", "shops", "orders.x"));
        assert_eq!(events.exchange(), "events");
        assert_eq!(events.routing_key("shop", "orders.placed"), "orders.placed");

        let queue = route("*/*=queue in%20box tenant a%2Fb");
        assert!(queue.fits("a/b", "any", "thing") && !queue.fits("a", "any", "thing"));
        assert_eq!((queue.exchange(), &*queue.routing_key("s", "t")), ("", "in box"));
        let keyed = route("shop/* = exchange events key all.{source}.{type}");
        assert_eq!(keyed.routing_key("shop", "a.b"), "all.shop.a.b");
        assert!(route("a%2Fb/c%2A = queue q").fits("/", "a/b", "c*"));
    }

    #[test]
    fn what_is_no_route_is_refused() {
        for text in [
            "",
            "shop",
            "shop/x",
            "shop/x =",
            "shop/x = queue",
            "shop/x = topic t",
            "shop/x = queue q key k",
            "shop/x = exchange e key",
            "shop/x = exchange e key {id}",
            "shop/x = exchange e key {type",
            "shop/x = queue q tenant",
            "shop/x = queue amq.rabbitmq.reply-to.x",
            "/x = queue q",
            "s/ = queue q",
            "s/x = queue %ff",
        ] {
            assert!(text.parse::<Route>().is_err(), "{text}");
        }
        assert!(format!("s/x = queue {}", "q".repeat(256)).parse::<Route>().is_err());
    }
}
