//! Who is sent to: what the URI of a subscription means.

use url::Url;

use crate::guard::{Destination, Forbidden, Guard};
use crate::mail::{Address, HeaderText, MailError};

/// Longest URI of a subscriber, in bytes.
pub const SUBSCRIBER_BYTES_MAX: usize = 2048;

/// Most recipients of one mail.
pub const RECIPIENTS_MAX: usize = 10;

/// Who is sent to.
#[derive(Debug, Clone)]
pub enum Subscriber {
    /// `http:` and `https:`: a request for each message.
    Webhook(Destination),
    /// `trust+http:` and `trust+https:`: a request with a token of a Keystone trust.
    Trust(Destination),
    /// `mailto:`: a mail for each message.
    Mail {
        /// Recipients, at least one.
        to: Vec<Address>,
        /// The URI's own subject.
        subject: Option<HeaderText>,
    },
    /// `amqp:exchange/routing.key`: an exchange of the same tenant.
    Exchange {
        /// Its name; empty is the default exchange.
        exchange: Box<str>,
        /// The routing key.
        routing_key: Box<str>,
    },
}

/// Why a URI is no subscriber.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscriberError {
    /// A kind that is not there. The text is Zaqar's, with what there is here.
    #[error(
        "The subscriber type of subscription must be supported in the list ['http', 'https', 'mailto', 'trust+http', 'trust+https', 'amqp']."
    )]
    Kind,
    /// Longer than [`SUBSCRIBER_BYTES_MAX`].
    #[error("a subscriber must be at most 2048 bytes, not {0}")]
    TooLong(usize),
    /// A URL that may not be called.
    #[error("the subscriber may not be called: {0}")]
    Forbidden(#[from] Forbidden),
    /// A mail address or subject that is none.
    #[error("the subscriber cannot get mail: {0}")]
    Mail(#[from] MailError),
    /// No recipient, or more than [`RECIPIENTS_MAX`].
    #[error("a mail subscriber must have 1 to 10 recipients, not {0}")]
    Recipients(usize),
    /// Not `amqp:exchange/routing.key`.
    #[error("an AMQP subscriber must be amqp:exchange/routing.key, each at most 255 bytes")]
    Exchange,
}

impl Subscriber {
    /// What a URI means, if it may be sent to.
    ///
    /// # Errors
    ///
    /// [`SubscriberError`], with a text for whoever subscribes.
    pub fn parse(uri: &str, guard: &Guard) -> Result<Self, SubscriberError> {
        if uri.len() > SUBSCRIBER_BYTES_MAX {
            return Err(SubscriberError::TooLong(uri.len()));
        }
        let (scheme, rest) = uri.split_once(':').ok_or(SubscriberError::Kind)?;
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => Ok(Self::Webhook(guard.parse(uri)?)),
            "trust+http" | "trust+https" => {
                let url = uri.get("trust+".len()..).unwrap_or_default();
                Ok(Self::Trust(guard.parse(url)?))
            }
            "mailto" => mail(uri),
            "amqp" => exchange(rest),
            _ => Err(SubscriberError::Kind),
        }
    }

    /// Whether it is asked by requests, which it answers.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        match self {
            Self::Webhook(_) | Self::Trust(_) => true,
            Self::Mail { .. } | Self::Exchange { .. } => false,
        }
    }

    /// A word for its kind, for logs and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Trust(_) => "trust",
            Self::Mail { .. } => "mail",
            Self::Exchange { .. } => "exchange",
        }
    }
}

/// RFC 6068: recipients separated by commas, each percent-encoded; of the headers only the subject counts.
fn mail(uri: &str) -> Result<Subscriber, SubscriberError> {
    let unreadable = |_| SubscriberError::Mail(MailError::Address(uri.chars().take(100).collect()));
    if uri.chars().any(char::is_control) {
        return Err(MailError::Text.into());
    }
    let url = Url::parse(uri).map_err(unreadable)?;
    let mut to = Vec::new();
    for recipient in url.path().split(',').filter(|recipient| !recipient.is_empty()) {
        let decoded = percent_encoding::percent_decode_str(recipient).decode_utf8();
        let decoded = decoded.map_err(|_| MailError::Address(recipient.to_owned()))?;
        to.push(Address::parse(decoded.trim())?);
    }
    if !(1..=RECIPIENTS_MAX).contains(&to.len()) {
        return Err(SubscriberError::Recipients(to.len()));
    }
    let subject = url.query_pairs().find(|(name, _)| name.eq_ignore_ascii_case("subject"));
    let subject = subject.map(|(_, subject)| HeaderText::parse(&subject)).transpose()?;
    Ok(Subscriber::Mail { to, subject })
}

fn exchange(rest: &str) -> Result<Subscriber, SubscriberError> {
    let (exchange, routing_key) = rest.split_once('/').ok_or(SubscriberError::Exchange)?;
    let decode = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
        match decoded {
            Ok(decoded) if decoded.len() <= 255 && !decoded.contains('\0') => {
                Ok(Box::<str>::from(&*decoded))
            }
            Ok(_) | Err(_) => Err(SubscriberError::Exchange),
        }
    };
    let (exchange, routing_key) = (decode(exchange)?, decode(routing_key)?);
    if exchange.is_empty() && routing_key.is_empty() {
        return Err(SubscriberError::Exchange);
    }
    Ok(Subscriber::Exchange { exchange, routing_key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Addresses;

    fn parse(uri: &str) -> Result<Subscriber, SubscriberError> {
        let ports = vec!["80".parse().unwrap(), "443".parse().unwrap()];
        Subscriber::parse(uri, &Guard { addresses: Addresses::default(), ports })
    }

    #[test]
    fn each_kind_of_subscriber_is_read() {
        for (uri, kind) in [
            ("http://example.com/hook", "webhook"),
            ("HTTPS://example.com", "webhook"),
            ("trust+https://example.com/v2/executions", "trust"),
            ("mailto:ann@example.com", "mail"),
            ("amqp:events/orders.new", "exchange"),
            ("amqp:/queue-name", "exchange"),
        ] {
            assert_eq!(parse(uri).unwrap().kind(), kind, "{uri}");
        }
    }

    #[test]
    fn mail_has_recipients_and_a_subject() {
        let Ok(Subscriber::Mail { to, subject }) =
            parse("mailto:a%2Bb@example.com,c@example.org?subject=Hello%20you&body=x")
        else {
            panic!("no mail")
        };

        let to: Vec<_> = to.iter().map(Address::as_str).collect();
        assert_eq!(to, ["a+b@example.com", "c@example.org"]);
        assert_eq!(subject.unwrap().as_str(), "Hello you");
    }

    #[test]
    fn mail_cannot_be_broken_out_of() {
        for uri in [
            "mailto:",
            "mailto:nobody",
            "mailto:a@b.c%0d%0aBcc:x@y.z",
            "mailto:a@b.c?subject=x%0D%0ABcc:x@y.z",
            "mailto:a@b.c?subject=x%00",
            "mailto:a@b.c\r\nRCPT TO:<x@y.z>",
            "mailto:%22a%20b%22@c.d",
        ] {
            assert!(parse(uri).is_err(), "{uri:?}");
        }
        let many = format!("mailto:{}", ["a@b.c"; 11].join(","));
        assert_eq!(parse(&many).unwrap_err(), SubscriberError::Recipients(11));
    }

    #[test]
    fn an_exchange_has_a_routing_key_with_slashes_if_it_likes() {
        let Ok(Subscriber::Exchange { exchange, routing_key }) = parse("amqp:a%2Fb/c/d.e") else {
            panic!("no exchange")
        };

        assert_eq!((&*exchange, &*routing_key), ("a/b", "c/d.e"));
        for bad in ["amqp:", "amqp:x", "amqp:/", "amqp:%ff/x", "amqp:a%00/x"] {
            assert_eq!(parse(bad).unwrap_err(), SubscriberError::Exchange, "{bad}");
        }
    }

    #[test]
    fn other_kinds_and_forbidden_addresses_are_refused() {
        for bad in ["", "x", "ftp://x/", "trust+ftp://x/", "ws://x/"] {
            assert_eq!(parse(bad).unwrap_err(), SubscriberError::Kind, "{bad}");
        }
        assert_eq!(
            parse("trust+http://127.0.0.1/").unwrap_err(),
            SubscriberError::Forbidden(Forbidden::Address)
        );
    }
}
