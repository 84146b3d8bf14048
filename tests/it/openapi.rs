//! The OpenAPI document: served, and the one that is in the repository.

use it::{Broker, Http};

const WHY: &str = "has no queue service";

#[test]
fn the_document_that_is_served_is_the_one_in_the_repository() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut bare = Http::new(&program).with("Client-ID", "").with("X-Project-Id", "");

    let served = bare.get("/openapi.json");

    assert_eq!(served.header("content-type"), Some("application/json"));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let text = format!("{}\n", serde_json::to_string_pretty(&served.json()).unwrap());
    if std::env::var_os("POSTHOUSE_WRITE_OPENAPI").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == text,
        "docs/openapi.json is not what is served; run this test with POSTHOUSE_WRITE_OPENAPI=1"
    );
}
