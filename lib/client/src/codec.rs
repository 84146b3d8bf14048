//! Bodies and their MIME types: JSON, MessagePack, CBOR, text and CSV. Nothing that runs code.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// How a value becomes a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// `application/json`. What a body without a content type is taken for.
    #[default]
    Json,
    /// `application/vnd.msgpack`; structs as maps, so that fields may be added.
    MessagePack,
    /// `application/cbor`.
    Cbor,
}

/// Why a body cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The value has no such form.
    #[error("the value cannot be written as {format}")]
    Encode {
        /// MIME type.
        format: &'static str,
        /// What the serializer says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The body is not what it says, or not what the program expects.
    #[error("the body is not the {format} that is expected")]
    Decode {
        /// MIME type.
        format: &'static str,
        /// What the deserializer says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nobody here reads such a body.
    #[error(
        "content type `{0}` is none of application/json, application/vnd.msgpack and application/cbor"
    )]
    Unknown(String),
}

impl Format {
    /// The MIME type that is written.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::MessagePack => "application/vnd.msgpack",
            Self::Cbor => "application/cbor",
        }
    }

    /// The format of a MIME type; parameters such as `charset` do not matter. Without a type it is JSON.
    ///
    /// # Errors
    ///
    /// [`CodecError::Unknown`].
    pub fn of(content_type: Option<&str>) -> Result<Self, CodecError> {
        let Some(content_type) = content_type else { return Ok(Self::Json) };
        let essence = essence(content_type);
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        let suffix = |suffix: &str| {
            let end = essence.len().checked_sub(suffix.len()).and_then(|at| essence.get(at..));
            end.is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        };
        if is("application/json") || is("application/x-json") || suffix("+json") {
            return Ok(Self::Json);
        }
        let packed = ["application/vnd.msgpack", "application/msgpack", "application/x-msgpack"];
        if packed.iter().any(|name| is(name)) {
            return Ok(Self::MessagePack);
        }
        if is("application/cbor") || suffix("+cbor") {
            return Ok(Self::Cbor);
        }
        Err(CodecError::Unknown(essence.to_owned()))
    }

    /// Writes a value.
    ///
    /// # Errors
    ///
    /// [`CodecError::Encode`] if the format has no form for it, such as a map whose keys are no text.
    pub fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Vec<u8>, CodecError> {
        let format = self.content_type();
        match self {
            Self::Json => serde_json::to_vec(value).map_err(|error| error.into()),
            Self::MessagePack => rmp_serde::to_vec_named(value).map_err(|error| error.into()),
            Self::Cbor => minicbor_serde::to_vec(value).map_err(|error| error.to_string().into()),
        }
        .map_err(|source| CodecError::Encode { format, source })
    }

    /// Reads a value.
    ///
    /// # Errors
    ///
    /// [`CodecError::Decode`].
    pub fn decode<T: DeserializeOwned>(self, body: &[u8]) -> Result<T, CodecError> {
        let format = self.content_type();
        match self {
            Self::Json => serde_json::from_slice(body).map_err(|error| error.into()),
            Self::MessagePack => rmp_serde::from_slice(body).map_err(|error| error.into()),
            Self::Cbor => {
                minicbor_serde::from_slice(body).map_err(|error| error.to_string().into())
            }
        }
        .map_err(|source| CodecError::Decode { format, source })
    }
}

/// A MIME type without its parameters.
pub(crate) fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Writes rows as CSV with a header row and CRLF (RFC 4180).
///
/// # Errors
///
/// [`CodecError::Encode`] for rows that are no flat records.
pub fn to_csv<T: Serialize>(rows: &[T]) -> Result<Vec<u8>, CodecError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| CodecError::Encode {
        format: "text/csv",
        source,
    };
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .quote_style(csv::QuoteStyle::Necessary)
        .from_writer(Vec::new());
    for row in rows {
        writer.serialize(row).map_err(|error| failed(error.into()))?;
    }
    writer.into_inner().map_err(|error| failed(error.into_error().into()))
}

/// Reads CSV whose first row names the fields.
///
/// # Errors
///
/// [`CodecError::Decode`].
pub fn from_csv<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, CodecError> {
    let rows: Result<Vec<T>, _> = csv::Reader::from_reader(body).deserialize().collect();
    rows.map_err(|error| CodecError::Decode { format: "text/csv", source: error.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        id: u32,
        customer: String,
    }

    fn order() -> Order {
        Order { id: 7, customer: "müller, \"x\"".to_owned() }
    }

    #[test]
    fn every_format_gives_back_what_was_put_in() {
        for format in [Format::Json, Format::MessagePack, Format::Cbor] {
            let body = format.encode(&order()).unwrap();
            let read = Format::of(Some(format.content_type())).unwrap();

            assert_eq!(read, format);
            assert_eq!(read.decode::<Order>(&body).unwrap(), order());
            assert!(read.decode::<Order>(body.get(..body.len() - 1).unwrap()).is_err());
        }
        let rows = [order(), Order { id: 8, customer: String::new() }];
        let body = to_csv(&rows).unwrap();
        assert!(body.starts_with(b"id,customer\r\n"));
        assert_eq!(from_csv::<Order>(&body).unwrap(), rows);
    }

    #[test]
    fn types_are_recognised_with_parameters_and_suffixes_and_others_refused() {
        for (text, format) in [
            ("application/json; charset=utf-8", Format::Json),
            ("application/vnd.order+JSON", Format::Json),
            ("application/x-msgpack", Format::MessagePack),
        ] {
            assert_eq!(Format::of(Some(text)).unwrap(), format);
        }
        let pickled = Format::of(Some("application/x-python-serialize"));
        assert!(matches!(pickled, Err(CodecError::Unknown(_))));
    }
}
