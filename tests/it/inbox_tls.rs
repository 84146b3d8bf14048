//! The inbox over TLS: passwords may cross it, certificates are logins, and a SIGHUP brings new ones.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use it::{Broker, Http, PATIENCE, Program};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;

const BASIC: &str = "Authorization: Basic Z3Vlc3Q6c2VjcmV0\r\n";

/// An authority, certificates of `localhost` and of the user `guest`.
struct Pki {
    folder: tempfile::TempDir,
}

impl Pki {
    fn new() -> Self {
        let pki = Self { folder: tempfile::tempdir().unwrap() };
        pki.renew();
        pki
    }

    /// Makes everything anew, in the same files.
    fn renew(&self) {
        let write = |name: &str, text: &str| std::fs::write(self.path(name), text).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        write("ca.pem", &authority.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(authority, key);
        for (name, subject) in [("server", "localhost"), ("client", "guest")] {
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, subject);
            let key = KeyPair::generate().unwrap();
            write(&format!("{name}.pem"), &params.signed_by(&key, &issuer).unwrap().pem());
            write(&format!("{name}.key"), &key.serialize_pem());
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// A program whose inbox listens in the clear and over TLS, and whose queue `q` takes everything.
    fn start(&self, settings: &[&str]) -> Option<Program> {
        let path = |name| self.path(name).display().to_string();
        let usual = [
            "inbox.listen=127.0.0.1:0".to_owned(),
            "inbox.routes=*/* = queue q".to_owned(),
            "inbox.tls.listen=127.0.0.1:0".to_owned(),
            "auth.external_login=common_name".to_owned(),
            format!("inbox.tls.certificate={}", path("server.pem")),
            format!("inbox.tls.key={}", path("server.key")),
            format!("inbox.tls.client_ca={}", path("ca.pem")),
            self.definitions(),
        ];
        let all: Vec<_> =
            usual.iter().map(String::as_str).chain(settings.iter().copied()).collect();
        Broker::start_own_with("has no inbox", &all)
    }

    /// A file with the queue and the user `guest`, whose password is `secret`: AMQP may be closed to passwords.
    fn definitions(&self) -> String {
        // base64(salt + SHA-256(salt + "secret")), as RabbitMQ exports it.
        let hash = "kI3GCqG+cq65rBQ9tiUUCREygKhmilKrZEWKSz+H0FJ1fk4/";
        let definitions = json!({
            "users": [{"name": "guest", "password_hash": hash, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": []}],
            "vhosts": [{"name": "/"}],
            "permissions": [{"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
            "queues": [{"name": "q", "vhost": "/", "durable": true, "auto_delete": false, "arguments": {}}],
        });
        let path = self.path("definitions.json");
        std::fs::write(&path, definitions.to_string()).unwrap();
        format!("definitions.file={}", path.display())
    }

    /// Posts a message; the answer's status, or nothing if there is no answer.
    fn post(&self, program: &Program, client: Option<&str>, login: &str) -> Option<u16> {
        let mut stream = BufReader::new(self.connect(program, client)?);
        let body = document();
        let length = body.len();
        let request = format!(
            "POST /inbox/ HTTP/1.1\r\nHost: localhost\r\n{login}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.get_mut().write_all(request.as_bytes()).ok()?;
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        line.split(' ').nth(1)?.parse().ok()
    }

    fn connect(
        &self,
        program: &Program,
        client: Option<&str>,
    ) -> Option<StreamOwned<ClientConnection, TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.path("ca.pem"))).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
                let chain = vec![certificate(&self.path(&format!("{name}.pem")))];
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TcpStream::connect(program.inbox_tls.expect("an inbox over TLS")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = StreamOwned::new(client, stream);
        stream.conn.complete_io(&mut stream.sock).ok()?;
        Some(stream)
    }
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

fn document() -> String {
    let document = json!({
        "uuid": "0190d2c8-5d5e-7c6a-9b1f-000000000001", "message_source": "shop",
        "message_type": "orders.placed", "origin_create_time": "2026-11-21T12:00:00Z", "payload": 1
    });
    document.to_string()
}

#[test]
fn passwords_cross_tls_where_they_must_not_cross_clear_text() {
    let pki = Pki::new();
    let Some(program) = pki.start(&["auth.plain_without_tls=never"]) else { return };
    let plain = Http::connect(program.inbox.unwrap())
        .with("Authorization", "Basic Z3Vlc3Q6c2VjcmV0")
        .with("Content-Type", "application/json")
        .post("/inbox/", &document());

    assert_eq!(plain.status, 403);
    assert_eq!(pki.post(&program, None, BASIC), Some(201));
    assert_eq!(pki.post(&program, None, ""), Some(401));
}

#[test]
fn a_certificate_stands_for_its_user() {
    let pki = Pki::new();
    let Some(program) = pki.start(&["inbox.tls.verify=optional"]) else { return };

    assert_eq!(pki.post(&program, Some("client"), ""), Some(201));
    assert_eq!(pki.post(&program, None, ""), Some(401));
    let wrong = "Authorization: Basic Z3Vlc3Q6d3Jvbmc=\r\n";
    assert_eq!(pki.post(&program, Some("client"), wrong), Some(401), "a wrong password is one");
    let nobody = pki.post(&program, Some("server"), "");
    assert_eq!(nobody, Some(403), "there is no user localhost");
}

#[test]
fn without_the_certificate_that_is_required_nobody_is_answered() {
    let pki = Pki::new();
    let Some(program) = pki.start(&["inbox.tls.verify=required"]) else { return };

    assert_eq!(pki.post(&program, None, BASIC), None);
    assert_eq!(pki.post(&program, Some("client"), BASIC), Some(201));
}

#[test]
fn a_hangup_brings_new_certificates_and_open_connections_stay() {
    let pki = Pki::new();
    let Some(program) = pki.start(&[]) else { return };
    let mut open = pki.connect(&program, None).unwrap();

    pki.renew();
    assert_eq!(pki.post(&program, None, BASIC), None, "still the old one");
    program.hang_up();

    let began = Instant::now();
    while pki.post(&program, None, BASIC).is_none() {
        assert!(began.elapsed() < PATIENCE, "the new certificate is not used");
    }
    open.write_all(b"GET /inbox/ HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut start = [0; 12];
    open.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 405");
}

#[test]
fn clear_text_at_the_tls_port_is_not_answered() {
    let pki = Pki::new();
    let Some(program) = pki.start(&[]) else { return };

    let mut stream = TcpStream::connect(program.inbox_tls.unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"POST /inbox/ HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();

    let mut answer = Vec::new();
    // A reset is as good an end as any.
    drop(stream.read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}
