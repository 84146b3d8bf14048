//! Connections that are encrypted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use posthouse_client::prelude::*;
use posthouse_client::{ConnectError, TransportError};
use posthouse_testing::TestBus;
use tempfile::TempDir;

use crate::broker::{options, until};

/// A bus with TLS, and the file that has its certificate.
async fn encrypted(folder: &TempDir) -> (TestBus, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = [("certificate", made.cert.pem()), ("key", made.signing_key.serialize_pem())];
    let mut settings = vec!["amqp.tls.listen=127.0.0.1:0".to_owned()];
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        settings.push(format!("amqp.tls.{name}={}", path.display()));
    }
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let certificate = folder.path().join("certificate").display().to_string();
    (TestBus::start_with(&settings).await, certificate)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_large_and_many_pass_through_tls() {
    let folder = TempDir::new().unwrap();
    let (bus, certificate) = encrypted(&folder).await;
    let port = bus.tls_address().unwrap().port();
    let url = format!("amqps://localhost:{port}?cacertfile={certificate}");
    let bytes = Arc::new(AtomicUsize::new(0));
    let count = |State(bytes): State<Arc<AtomicUsize>>, body: Bytes| async move {
        bytes.fetch_add(body.len(), Ordering::SeqCst);
    };
    let router = Router::new().queue("sealed", consume(count)).with_state(Arc::clone(&bytes));
    let app = App::start(&url, router, options()).await.unwrap();

    let mut confirms = Vec::new();
    for _ in 0..500 {
        let body = vec![7; 1_000];
        confirms.push(app.client().publish_to("", "sealed", body).send().await.unwrap());
    }
    let body = vec![7; 2_000_000];
    confirms.push(app.client().publish_to("", "sealed", body).send().await.unwrap());
    for confirm in confirms {
        confirm.await.unwrap();
    }

    until("all have arrived", || async { bytes.load(Ordering::SeqCst) == 2_500_000 }).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let folder = TempDir::new().unwrap();
    let (bus, _) = encrypted(&folder).await;
    let port = bus.tls_address().unwrap().port();

    let refused = Client::connect(&format!("amqps://localhost:{port}")).await.unwrap_err();

    let handshake = matches!(refused, ConnectError::Transport(TransportError::Handshake { .. }));
    assert!(handshake, "{refused}");
}
