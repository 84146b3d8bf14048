//! Logins by the certificate of a TLS connection (SASL EXTERNAL), at the real program.

use std::path::Path;

use it::Program;
use posthouse_client::prelude::{Queue, Router, Topology, consume};
use posthouse_client::{App, Client, ConnectError, TransportError};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::broker::{PATIENCE, options};

/// Makes an authority `NAME.pem` in a folder, and certificates that it has signed, each of `localhost` and a subject.
fn authority(folder: &Path, name: &str, certificates: &[(&str, &str)]) {
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, name);
    write(&format!("{name}.pem"), &authority.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(authority, key);
    for (name, subject) in certificates {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, *subject);
        let key = KeyPair::generate().unwrap();
        write(&format!("{name}.pem"), &params.signed_by(&key, &issuer).unwrap().pem());
        write(&format!("{name}.key"), &key.serialize_pem());
    }
}

/// A server, and the certificates that clients may show it.
struct Guarded {
    folder: TempDir,
    server: Program,
}

impl Guarded {
    /// Asks clients for certificates as `verify` says. It knows the user `worker`, who may use what begins with `work`, and
    /// trusts the authority `ours`, which has signed `worker` and `nobody`, a user that the server does not know; not
    /// `theirs`, which has signed another `worker`, in `stranger`.
    fn start(verify: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let ours = [("server", "localhost"), ("worker", "worker"), ("nobody", "nobody")];
        authority(folder.path(), "ours", &ours);
        authority(folder.path(), "theirs", &[("stranger", "worker")]);
        let path = |name: &str| folder.path().join(name).display().to_string();
        let definitions = json!({
            "users": [{"name": "worker", "password_hash": "", "tags": []}],
            "vhosts": [{"name": "/"}],
            "permissions": [{"user": "worker", "vhost": "/", "configure": "work.*", "write": ".*", "read": "work.*"}],
        });
        std::fs::write(path("definitions.json"), definitions.to_string()).unwrap();
        let server = Program::start_with(&[
            "amqp.tls.listen=127.0.0.1:0",
            &format!("amqp.tls.certificate={}", path("server.pem")),
            &format!("amqp.tls.key={}", path("server.key")),
            &format!("amqp.tls.client_ca={}", path("ours.pem")),
            &format!("amqp.tls.verify={verify}"),
            "auth.external_login=common_name",
            &format!("definitions.file={}", path("definitions.json")),
        ]);
        Self { folder, server }
    }

    /// The address for somebody with a certificate, or without one.
    fn url(&self, certificate: Option<&str>) -> String {
        let port = self.server.tls.expect("AMQP over TLS").port();
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let authority = path("ours.pem");
        let login =
            format!("amqps://localhost:{port}/?auth_mechanism=external&cacertfile={authority}");
        match certificate {
            None => login,
            Some(name) => {
                let (certificate, key) =
                    (path(&format!("{name}.pem")), path(&format!("{name}.key")));
                format!("{login}&certfile={certificate}&keyfile={key}")
            }
        }
    }

    async fn refused(&self, certificate: Option<&str>) -> ConnectError {
        Client::connect_with(&self.url(certificate), options()).await.unwrap_err()
    }
}

/// Whether it says that the certificate is to blame, and where to look.
fn blames_the_certificate(error: &ConnectError) -> bool {
    matches!(error, ConnectError::Transport(TransportError::Certificate { .. }))
        && error.to_string().contains("certfile")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_a_certificate_is_its_user_and_publishes_and_consumes() {
    let guarded = Guarded::start("required");
    let (sender, mut arrived) = mpsc::channel(1);
    let pass_on = move |body: String| {
        let sender = sender.clone();
        async move { sender.send(body).await.unwrap() }
    };
    let router = Router::new().queue("work", consume(pass_on));
    let app = App::start(&guarded.url(Some("worker")), router, options()).await.unwrap();

    app.client().publish_to("", "work", "dig").await.unwrap();

    let body = tokio::time::timeout(PATIENCE, arrived.recv()).await.expect("in time");
    assert_eq!(body.as_deref(), Some("dig"));
    let others = Topology::new().queue(Queue::new("others"));
    let refused = format!("{:?}", app.client().apply(&others).await.unwrap_err());
    assert!(refused.contains("refused for user 'worker'"), "{refused}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_certificate_where_one_is_required_is_told_so() {
    let guarded = Guarded::start("required");

    let refused = guarded.refused(None).await;

    assert!(blames_the_certificate(&refused), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_somebody_elses_authority_is_refused_and_blamed() {
    for verify in ["required", "optional"] {
        let guarded = Guarded::start(verify);

        let refused = guarded.refused(Some("stranger")).await;

        assert!(blames_the_certificate(&refused), "{verify}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_stands_for_nobody_is_a_refused_login_and_so_is_none() {
    let guarded = Guarded::start("optional");

    for certificate in [Some("nobody"), None] {
        let refused = guarded.refused(certificate).await;

        let ConnectError::Refused { code: 403, text } = &refused else {
            panic!("{certificate:?}: {refused:?}")
        };
        assert!(text.contains("EXTERNAL"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_asks_for_no_certificates_says_which_logins_it_takes() {
    let guarded = Guarded::start("none");

    let refused = guarded.refused(Some("worker")).await.to_string();

    assert!(refused.contains("does not take mechanism EXTERNAL, it takes PLAIN"), "{refused}");
}
