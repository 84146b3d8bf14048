//! What a document becomes: the same as when a relay publishes it to the broker itself.

use model::Message;
use posthouse_amqp::properties::Properties;
use posthouse_amqp::raw_table::RawTable;
use posthouse_amqp::table::{Table, Value};
use posthouse_message_box::Received;

use super::refusal::Refusal;
use crate::iso_time;

/// What a persistent message is called.
const PERSISTENT: u8 = 2;

/// The encoded properties of a message.
///
/// `message-id` is its uuid, `type` its type, `app-id` its source, `timestamp` the seconds of its `origin_create_time`,
/// which is whole in the header of that name. The payload is the body.
///
/// # Errors
///
/// 400 for texts that AMQP cannot hold.
pub(super) fn properties(received: &Received) -> Result<Vec<u8>, Refusal> {
    let refused = |what: String| Refusal::Unreadable(what);
    let id = received.id.to_string();
    let text = |text: &str| Value::LongString(text.as_bytes().to_vec());
    let mut headers = Table::default();
    headers.insert("x-dedup-id", text(&id));
    headers.insert("origin_create_time", text(&received.origin_create_time));
    let headers = headers.to_entries().map_err(|error| refused(error.to_string()))?;
    let created = iso_time::parse(&received.origin_create_time);
    let mut properties = Vec::with_capacity(192 + headers.len());
    Properties {
        content_type: Some("application/json"),
        headers: Some(RawTable::from_bytes(&headers)),
        delivery_mode: Some(PERSISTENT),
        message_id: Some(&id),
        timestamp: created.map(|created| created.0 / 1000),
        kind: Some(&received.topic),
        app_id: Some(&received.source),
        ..Properties::default()
    }
    .encode(&mut properties)
    .map_err(|error| refused(error.to_string()))?;
    if properties.len() > Message::PROPERTIES_BYTES_MAX {
        return Err(refused("the message's names are too long".to_owned()));
    }
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn every_document_of_the_corpus_becomes_properties_that_can_be_read() {
        let folder = [env!("CARGO_MANIFEST_DIR"), "..", "..", "fuzz", "corpus", "inbox_document"];
        let inputs = std::fs::read_dir(folder.iter().collect::<PathBuf>()).unwrap();
        let inputs = inputs.map(|input| std::fs::read(input.unwrap().path()).unwrap());

        let received: Vec<_> = inputs.filter_map(|input| Received::read(&input).ok()).collect();

        assert!(received.len() > 4);
        for received in received {
            let encoded = properties(&received).unwrap();
            let decoded = Properties::decode(&encoded).unwrap();
            assert_eq!(decoded.kind, Some(received.topic.as_str()));
            assert_eq!(decoded.app_id, Some(received.source.as_str()));
        }
    }

    #[test]
    fn a_document_becomes_what_a_relay_publishes() {
        let json = r#"{"uuid": "0190d2c8-5d5e-7c6a-9b1f-000000000001", "message_source": "shop",
            "message_type": "orders.placed", "origin_create_time": "2026-11-21T12:00:00.5+01:00", "payload": 1}"#;
        let encoded = properties(&Received::read(json.as_bytes()).unwrap()).unwrap();

        let decoded = Properties::decode(&encoded).unwrap();

        assert_eq!(decoded.message_id, Some("0190d2c8-5d5e-7c6a-9b1f-000000000001"));
        assert_eq!((decoded.kind, decoded.app_id), (Some("orders.placed"), Some("shop")));
        assert_eq!((decoded.timestamp, decoded.delivery_mode), (Some(1_795_258_800), Some(2)));
        let headers: Vec<_> = decoded.headers.unwrap().into_iter().map(Result::unwrap).collect();
        assert_eq!(headers[0].1.as_str(), decoded.message_id);
        assert_eq!(headers[1].0, "origin_create_time");
    }
}
