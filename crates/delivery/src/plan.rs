//! How one subscription is delivered to: its URI and options, read once for each version of it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::filter::Filter;
use crate::guard::Guard;
use crate::mail::{Address, HeaderText};
use crate::options::{Form, Options, OptionsError};
use crate::output::smtp::MailTarget;
use crate::output::webhook::WebhookTarget;
use crate::retry::RetryPolicy;
use crate::sign::Secret;
use crate::subscriber::{Subscriber, SubscriberError};

/// Who sends to subscribers that bring no names or secrets of their own.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// What may be called.
    pub guard: Arc<Guard>,
    /// Sender of mail; none if no mail can be sent.
    pub mail_from: Option<Address>,
    /// The server's signing secrets, the newest first; subscriptions' own are derived from them.
    pub secrets: Vec<Secret>,
    /// Public URL of the queue service, without a slash at its end, where messages are settled later; none if they cannot be.
    pub settle_url: Option<Box<str>>,
    /// What subscribers know a queue as, where a door has names of its own for some.
    pub shown_name: fn(&str) -> &str,
}

/// A name that is shown as it is.
#[must_use]
pub fn as_it_is(name: &str) -> &str {
    name
}

impl Defaults {
    /// Whether a subscription with this URI and these options (JSON text) could be delivered to, so that whoever
    /// subscribes is told at once.
    ///
    /// # Errors
    ///
    /// [`Undeliverable`], with a text for whoever subscribes.
    pub fn check(&self, subscriber: &str, options: &[u8]) -> Result<(), Undeliverable> {
        Plan::make(subscriber, options, ["", "", ""], self)?;
        Ok(())
    }

    /// The secrets that sign for a subscription which brings none, in text form, the newest first.
    pub fn secrets_of<'a>(
        &'a self,
        tenant: &'a str,
        queue: &'a str,
        subscription: &'a str,
    ) -> impl Iterator<Item = String> + 'a {
        let derive = move |secret: &Secret| secret.derive(tenant, queue, subscription).reveal();
        self.secrets.iter().map(derive)
    }
}

/// Where messages of a subscription go.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// A request.
    Webhook(Arc<WebhookTarget>),
    /// A mail.
    Mail(Arc<MailTarget>),
    /// An exchange.
    Exchange {
        /// Its name.
        exchange: Box<str>,
        /// The routing key.
        routing_key: Box<str>,
    },
}

/// How one subscription is delivered to.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) filter: Option<Filter>,
    pub(crate) form: Form,
    pub(crate) post_data: Option<Box<str>>,
    pub(crate) retry_policy: Option<RetryPolicy>,
    pub(crate) dead_letter_queue: Option<Box<str>>,
}

/// Why a subscription cannot be delivered to. Doors check before they subscribe; what is found later was good under other
/// settings of the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undeliverable {
    /// The URI.
    #[error(transparent)]
    Subscriber(#[from] SubscriberError),
    /// The options.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// Nobody could reach us.
    #[error("option `settle_within` cannot be used: delivery.settle_url is not configured")]
    NoSettleUrl,
    /// There is no mail relay.
    #[error("this server sends no mail: delivery.smtp is not configured")]
    NoMail,
}

impl Plan {
    /// Reads a subscription. `names` are those of tenant, queue and subscription.
    pub(crate) fn make(
        subscriber: &str,
        options: &[u8],
        names: [&str; 3],
        defaults: &Defaults,
    ) -> Result<Self, Undeliverable> {
        let subscriber = Subscriber::parse(subscriber, &defaults.guard)?;
        // The broker keeps what the door gave it, and the door gave it JSON.
        let options = serde_json::from_slice(options).unwrap_or(Value::Null);
        let options = Options::parse(&options)?;
        check_form(&options.form, &subscriber, defaults)?;
        let target = match subscriber {
            Subscriber::Webhook(destination) => Target::Webhook(Arc::new(WebhookTarget {
                destination,
                headers: options.post_headers,
                secrets: secrets(options.signing_secrets, names, defaults),
                trust_id: None,
            })),
            Subscriber::Trust(destination) => Target::Webhook(Arc::new(WebhookTarget {
                destination,
                headers: options.post_headers,
                secrets: secrets(options.signing_secrets, names, defaults),
                trust_id: Some(options.trust_id.unwrap_or_default()),
            })),
            Subscriber::Mail { to, subject } => {
                let own = defaults.mail_from.clone().ok_or(Undeliverable::NoMail)?;
                let subject = subject.or(options.subject);
                Target::Mail(Arc::new(MailTarget {
                    from: options.from.unwrap_or(own),
                    to,
                    subject: subject.unwrap_or_else(|| subject_of(names)),
                }))
            }
            Subscriber::Exchange { exchange, routing_key } => {
                Target::Exchange { exchange, routing_key }
            }
        };
        Ok(Self {
            target,
            form: options.form,
            filter: options.filter,
            post_data: options.post_data,
            retry_policy: options.retry_policy,
            dead_letter_queue: options.dead_letter_queue,
        })
    }
}

fn check_form(
    form: &Form,
    subscriber: &Subscriber,
    defaults: &Defaults,
) -> Result<(), Undeliverable> {
    let Form::Request(form) = form else { return Ok(()) };
    let what = "left out where the subscriber is no http or https URL";
    match (subscriber.is_asked(), form.answers, form.settle_within) {
        (false, true, _) => Err(OptionsError::Type("answers", what).into()),
        (false, _, Some(_)) => Err(OptionsError::Type("settle_within", what).into()),
        (true, _, Some(_)) if defaults.settle_url.is_none() => Err(Undeliverable::NoSettleUrl),
        _ => Ok(()),
    }
}

fn secrets(own: Vec<Secret>, [tenant, queue, id]: [&str; 3], defaults: &Defaults) -> Vec<Secret> {
    if !own.is_empty() {
        return own;
    }
    defaults.secrets.iter().map(|secret| secret.derive(tenant, queue, id)).collect()
}

/// Names of queues have no control characters; if one does not fit, it is left out.
fn subject_of([_, queue, _]: [&str; 3]) -> HeaderText {
    HeaderText::parse(&format!("Message from queue {queue}")).unwrap_or_default()
}

impl Plan {
    /// How long its receiver may take to settle a message later.
    pub(crate) fn settle_within(&self) -> Option<Duration> {
        match &self.form {
            Form::Request(form) => form.settle_within,
            Form::Notification => None,
        }
    }
}

/// What the metadata of a queue say about delivery.
#[derive(Debug, Default)]
pub(crate) struct QueueRules {
    pub(crate) retry_policy: Option<RetryPolicy>,
    pub(crate) dead_letter_queue: Option<Box<str>>,
}

impl QueueRules {
    /// Reads metadata; the door has checked them.
    pub(crate) fn parse(metadata: &[u8]) -> Self {
        let metadata: Value = serde_json::from_slice(metadata).unwrap_or(Value::Null);
        let retry_policy = metadata
            .get("_retry_policy")
            .and_then(|policy| RetryPolicy::parse(policy).ok().flatten());
        let queue = metadata.get("_dead_letter_queue").and_then(Value::as_str);
        let dead_letter_queue = queue.filter(|name| !name.is_empty()).map(Into::into);
        Self { retry_policy, dead_letter_queue }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Addresses;

    fn plan(subscriber: &str, options: &str) -> Result<Plan, Undeliverable> {
        let ports = vec!["443".parse().unwrap()];
        let defaults = Defaults {
            guard: Arc::new(Guard { addresses: Addresses::default(), ports }),
            mail_from: Some(Address::parse("queues@example.org").unwrap()),
            secrets: vec![Secret::from_bytes(vec![1; 32]).unwrap()],
            settle_url: None,
            shown_name: as_it_is,
        };
        Plan::make(subscriber, options.as_bytes(), ["t", "q", "1"], &defaults)
    }

    #[test]
    fn a_webhook_without_secrets_signs_with_one_derived_for_it() {
        let Target::Webhook(target) = plan("https://example.com/", "{}").unwrap().target else {
            panic!()
        };

        let server = Secret::from_bytes(vec![1; 32]).unwrap();
        assert_eq!(target.secrets, [server.derive("t", "q", "1")]);
    }

    #[test]
    fn mail_has_the_sender_and_subject_that_the_subscription_says() {
        let mail = |uri: &str, options: &str| match plan(uri, options).unwrap().target {
            Target::Mail(target) => target,
            Target::Webhook(_) | Target::Exchange { .. } => panic!(),
        };

        let own = mail("mailto:a@b.c?subject=From%20URI", r#"{"from": "x@y.z", "subject": "s"}"#);
        assert_eq!((own.from.as_str(), own.subject.as_str()), ("x@y.z", "From URI"));
        let usual = mail("mailto:a@b.c", "{}");
        assert_eq!(usual.from.as_str(), "queues@example.org");
        assert_eq!(usual.subject.as_str(), "Message from queue q");
    }

    #[test]
    fn only_who_is_asked_by_a_request_can_answer() {
        let options = r#"{"form": "request", "answers": true}"#;

        assert!(plan("https://example.com/", options).is_ok());
        for subscriber in ["mailto:a@b.c", "amqp:/x"] {
            let refused = plan(subscriber, options).unwrap_err().to_string();
            assert!(refused.starts_with("option `answers` must be left out"), "{refused}");
        }
        let options = r#"{"form": "request", "settle_within": 9}"#;
        assert_eq!(plan("https://example.com/", options).unwrap_err(), Undeliverable::NoSettleUrl);
        let refused = plan("amqp:/x", options).unwrap_err().to_string();
        assert!(refused.starts_with("option `settle_within` must be left out"), "{refused}");
    }

    #[test]
    fn metadata_of_the_queue_say_what_the_subscription_does_not() {
        let rules = QueueRules::parse(
            br#"{"_retry_policy": {"maximum_delay": 60}, "_dead_letter_queue": "dead"}"#,
        );

        assert_eq!(rules.retry_policy.unwrap().maximum_delay, 60);
        assert_eq!(rules.dead_letter_queue.as_deref(), Some("dead"));
        assert!(QueueRules::parse(b"").dead_letter_queue.is_none());
    }
}
