//! Properties and received messages.

use crate::Value;
use crate::frame::{Args, Reader};

/// The properties that tests use; the others are read and forgotten.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Properties {
    /// Flag 15.
    pub content_type: Option<String>,
    /// Flag 13.
    pub headers: Option<Vec<(String, Value)>>,
    /// Flag 12; 2 is persistent.
    pub delivery_mode: Option<u8>,
    /// Flag 11.
    pub priority: Option<u8>,
    /// Flag 10.
    pub correlation_id: Option<String>,
    /// Flag 9.
    pub reply_to: Option<String>,
    /// Flag 8; milliseconds as text.
    pub expiration: Option<String>,
    /// Flag 7.
    pub message_id: Option<String>,
    /// Flag 6.
    pub timestamp: Option<u64>,
    /// Flag 5; `type` in the specification.
    pub kind: Option<String>,
    /// Flag 4.
    pub user_id: Option<String>,
    /// Flag 3.
    pub app_id: Option<String>,
}

impl Properties {
    /// Persistent, nothing else.
    #[must_use]
    pub fn persistent() -> Self {
        Self { delivery_mode: Some(2), ..Self::default() }
    }

    /// With these headers, nothing else.
    #[must_use]
    pub fn with_headers<const N: usize>(fields: [(&str, Value); N]) -> Self {
        Self { headers: Some(crate::value::table(fields)), ..Self::default() }
    }

    /// With a priority, nothing else.
    #[must_use]
    pub fn with_priority(priority: u8) -> Self {
        Self { priority: Some(priority), ..Self::default() }
    }

    /// With an expiration in milliseconds, nothing else.
    #[must_use]
    pub fn with_expiration(milliseconds: &str) -> Self {
        Self { expiration: Some(milliseconds.to_owned()), ..Self::default() }
    }

    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Value> {
        self.headers.as_ref()?.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    pub(crate) fn write(&self) -> Args {
        let mut flags = 0;
        let mut out = Args::default();
        let mut set = |bit: u16| flags |= 1 << bit;
        if let Some(content_type) = &self.content_type {
            set(15);
            out = out.text(content_type);
        }
        if let Some(headers) = &self.headers {
            set(13);
            out = out.table(headers);
        }
        for (bit, value) in [(12, self.delivery_mode), (11, self.priority)] {
            if let Some(value) = value {
                set(bit);
                out = out.octet(value);
            }
        }
        let texts = [
            (10, &self.correlation_id),
            (9, &self.reply_to),
            (8, &self.expiration),
            (7, &self.message_id),
            (5, &self.kind),
            (4, &self.user_id),
            (3, &self.app_id),
        ];
        for (bit, value) in texts {
            if let Some(value) = value {
                set(bit);
                out = out.text(value);
            }
        }
        Args::default().short(flags).bytes(&out.0)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let flags = reader.short();
        let has = |bit: u16| flags & 1 << bit != 0;
        let content_type = has(15).then(|| reader.text());
        let mut properties = Self { content_type, ..Self::default() };
        if has(14) {
            reader.text();
        }
        properties.headers = has(13).then(|| reader.table());
        properties.delivery_mode = has(12).then(|| reader.octet());
        properties.priority = has(11).then(|| reader.octet());
        properties.correlation_id = has(10).then(|| reader.text());
        properties.reply_to = has(9).then(|| reader.text());
        properties.expiration = has(8).then(|| reader.text());
        properties.message_id = has(7).then(|| reader.text());
        properties.timestamp = has(6).then(|| reader.longlong());
        properties.kind = has(5).then(|| reader.text());
        properties.user_id = has(4).then(|| reader.text());
        properties.app_id = has(3).then(|| reader.text());
        properties
    }
}

/// A message that was delivered, fetched or returned.
#[derive(Debug, Clone)]
pub struct Message {
    /// The consumer's tag; empty for a fetched or returned one.
    pub consumer: String,
    /// To settle it with; 0 for a returned one.
    pub tag: u64,
    /// Whether it was handed out before.
    pub redelivered: bool,
    /// Where it was published.
    pub exchange: String,
    /// With which key.
    pub routing_key: String,
    /// How many are left behind it; only for a fetched one.
    pub left: u32,
    /// The code and text of a return.
    pub returned: Option<(u16, String)>,
    /// What was sent with it.
    pub properties: Properties,
    /// What was sent.
    pub body: Vec<u8>,
}

impl Message {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// The tables of `x-death`, newest first; empty if it never died.
    #[must_use]
    pub fn deaths(&self) -> &[Value] {
        self.properties.header("x-death").and_then(Value::as_array).unwrap_or_default()
    }
}
