//! Messages as a queue service shows them.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Link;
use super::answer::printable;
use crate::message::Form;

/// A page, a claim or what was popped.
#[derive(Debug, Deserialize)]
pub(crate) struct Messages {
    pub(crate) messages: Vec<Box<RawValue>>,
    #[serde(default)]
    pub(crate) links: Vec<Link>,
}

/// One message, as far as text needs it.
#[derive(Debug, Deserialize)]
struct Message {
    id: Option<String>,
    href: Option<String>,
    ttl: Option<u64>,
    age: Option<u64>,
    claim_count: Option<u64>,
    body: Box<RawValue>,
}

impl Message {
    /// Its id; older services only tell it in the path.
    fn id(&self) -> Option<&str> {
        let of_path = || {
            let path = self.href.as_deref()?.split('?').next()?;
            path.rsplit('/').next()
        };
        self.id.as_deref().or_else(of_path)
    }

    /// The claim that holds it, if the service says so.
    fn claim(&self) -> Option<&str> {
        let query = self.href.as_deref()?.split_once('?')?.1;
        query.split('&').find_map(|pair| pair.strip_prefix("claim_id="))
    }

    fn about(&self) -> String {
        let mut line = format!("# {}", printable(self.id().unwrap_or("?")));
        let numbers = [("age", self.age), ("ttl", self.ttl), ("claim_count", self.claim_count)];
        for (name, value) in numbers {
            if let Some(value) = value {
                line.push_str(&format!(" {name}={value}"));
            }
        }
        if let Some(claim) = self.claim() {
            line.push_str(&format!(" claim={}", printable(claim)));
        }
        line
    }

    /// The text of a body that is a string, any other body as JSON.
    fn plain_body(&self) -> String {
        let json = self.body.get();
        serde_json::from_str(json).unwrap_or_else(|_| json.to_owned())
    }
}

/// A message to print, without a line end behind it.
///
/// # Errors
///
/// If it is none.
pub(crate) fn show(message: &RawValue, form: Form) -> anyhow::Result<String> {
    if form == Form::Json {
        return Ok(message.get().to_owned());
    }
    let message: Message = serde_json::from_str(message.get())?;
    Ok(match form {
        Form::Body => message.plain_body(),
        Form::Text | Form::Json => format!("{}\n{}", message.about(), message.plain_body()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: &str, form: Form) -> String {
        let message: Box<RawValue> = serde_json::from_str(json).unwrap();
        show(&message, form).unwrap()
    }

    #[test]
    fn a_message_is_shown_with_what_is_known_of_it() {
        let json = r#"{"id":"5","href":"/v2/queues/q/messages/5?claim_id=c","ttl":60,"age":1,"body":"hi"}"#;

        assert_eq!(shown(json, Form::Text), "# 5 age=1 ttl=60 claim=c\nhi");
        assert_eq!(shown(json, Form::Json), json);
    }

    #[test]
    fn bodies_keep_their_numbers_and_their_order() {
        let json =
            r#"{"href":"/v2/queues/q/messages/7","body":{"z":1.10,"a":123456789012345678901234}}"#;

        assert_eq!(shown(json, Form::Body), r#"{"z":1.10,"a":123456789012345678901234}"#);
        assert!(shown(json, Form::Text).starts_with("# 7\n"));
    }
}
