//! Webhooks.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use delivery::output::Output as _;
use delivery::output::connection::Tls;
use delivery::output::webhook::{TokenError, TokenFuture, TokenSource, Webhook, WebhookTarget};
use delivery::sign::{Secret, signature};
use delivery::{Addresses, Attempt, Blame, Guard, Outcome, OwnRequest, Resolver, Terms};
use tokio::net::UdpSocket;

use crate::attempt;
use crate::receiver::{Answer, Receiver, status};

/// How long an attempt may take where nobody hangs.
const TIMEOUT: Duration = Duration::from_secs(60);

fn guard(allow: &[&str]) -> Arc<Guard> {
    let allow = allow.iter().map(|range| range.parse().unwrap()).collect();
    let addresses = Addresses { allow, ..Addresses::default() };
    Arc::new(Guard { addresses, ports: vec!["1-65535".parse().unwrap()] })
}

fn webhook_of(servers: &[SocketAddr], allow: &[&str]) -> Webhook {
    let resolver = Resolver::new(servers).unwrap();
    Webhook::new(guard(allow), resolver, Tls::new(None, Some(b"http/1.1")).unwrap(), TIMEOUT)
}

fn webhook() -> Webhook {
    // Nobody is asked: the tests' URLs have addresses, or a name server of their own.
    webhook_of(&["127.0.0.1:9".parse().unwrap()], &["127.0.0.0/8"])
}

/// Gives up after that time.
fn impatient_webhook(timeout: Duration) -> Webhook {
    let resolver = Resolver::new(&["127.0.0.1:9".parse().unwrap()]).unwrap();
    Webhook::new(
        guard(&["127.0.0.0/8"]),
        resolver,
        Tls::new(None, Some(b"http/1.1")).unwrap(),
        timeout,
    )
}

fn target(webhook: &Webhook, url: &str) -> WebhookTarget {
    WebhookTarget {
        destination: webhook.guard.parse(url).unwrap(),
        headers: Vec::new(),
        secrets: Vec::new(),
        trust_id: None,
    }
}

async fn outcome(answer: Answer) -> Outcome {
    let receiver = Receiver::start(move |_| answer.clone()).await;
    let webhook = webhook();
    let target = target(&webhook, &format!("http://{}/", receiver.address));
    webhook.send(&target, &attempt("{}")).await
}

fn reason(outcome: Outcome) -> (String, Blame) {
    match outcome {
        Outcome::Failed(failure) => (failure.reason, failure.blame),
        Outcome::Delivered | Outcome::Answered(_) | Outcome::Later(_) | Outcome::Hopeless(_) => {
            panic!("{outcome:?}")
        }
    }
}

#[tokio::test]
async fn a_request_has_the_message_its_signature_and_the_subscribers_headers() {
    let receiver = Receiver::start(|_| status(200)).await;
    let webhook = webhook();
    let secret = Secret::from_bytes(vec![3; 32]).unwrap();
    let url = format!("http://user:p%40ss@{}/a%20b?c=d", receiver.address);
    let target = WebhookTarget {
        headers: vec![("x-own".into(), "yes".into())],
        secrets: vec![secret.clone()],
        ..target(&webhook, &url)
    };

    assert_eq!(webhook.send(&target, &attempt("{\"a\":1}")).await, Outcome::Delivered);

    let [request] = receiver.received().try_into().unwrap();
    assert!(request.head.starts_with("POST /a%20b?c=d HTTP/1.1\n"), "{}", request.head);
    assert_eq!(request.body, b"{\"a\":1}");
    assert_eq!(request.header("host"), Some(receiver.address.to_string().as_str()));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("authorization"), Some("Basic dXNlcjpwQHNz"));
    assert_eq!(request.header("x-own"), Some("yes"));
    assert_eq!(request.header("webhook-id"), Some("msg_1"));
    assert_eq!(request.header("webhook-timestamp"), Some("1000"));
    let expected = signature(&[secret], "msg_1", 1000, b"{\"a\":1}");
    assert_eq!(request.header("webhook-signature"), Some(expected.as_str()));
}

#[tokio::test]
async fn a_message_that_is_a_request_of_its_own_brings_its_path_and_headers() {
    let receiver = Receiver::start(|_| status(204)).await;
    let webhook = webhook();
    let secret = Secret::from_bytes(vec![3; 32]).unwrap();
    let target = WebhookTarget {
        headers: vec![("x-own".into(), "yes".into()), ("content-type".into(), "text/x".into())],
        secrets: vec![secret.clone()],
        ..target(&webhook, &format!("http://{}/hook?a=b", receiver.address))
    };
    let request = |path: Option<&str>, headers: &[(&'static str, &'static str)]| {
        let path = path.map(|path| path.parse().unwrap());
        let headers = headers.iter().map(|(name, value)| {
            (hyper::header::HeaderName::from_static(name), value.parse().unwrap())
        });
        let request = OwnRequest { path, headers: headers.collect(), terms: Terms::default() };
        Attempt { request: Some(Box::new(request)), ..attempt("raw") }
    };
    let own =
        request(Some("/events/x"), &[("content-type", "text/plain"), ("posthouse-queue", "q")]);

    assert_eq!(webhook.send(&target, &own).await, Outcome::Delivered);
    assert_eq!(webhook.send(&target, &request(None, &[])).await, Outcome::Delivered);

    let [first, second] = receiver.received().try_into().unwrap();
    assert!(first.head.starts_with("POST /events/x HTTP/1.1\n"), "{}", first.head);
    assert_eq!(first.header("content-type"), Some("text/plain"));
    assert_eq!((first.header("posthouse-queue"), first.header("x-own")), (Some("q"), Some("yes")));
    let expected = signature(&[secret], "msg_1", 1000, b"raw");
    assert_eq!(first.header("webhook-signature"), Some(expected.as_str()));
    assert!(second.head.starts_with("POST /hook?a=b HTTP/1.1\n"), "{}", second.head);
    assert_eq!(second.header("content-type"), Some("text/x"), "the subscription's, if it has none");
}

#[tokio::test]
async fn the_answer_to_a_request_of_its_own_settles_the_message() {
    let outcome = async |answer: Answer| {
        let receiver = Receiver::start(move |_| answer.clone()).await;
        let webhook = webhook();
        let target = target(&webhook, &format!("http://{}/", receiver.address));
        let request = Some(Box::<OwnRequest>::default());
        webhook.send(&target, &Attempt { request, ..attempt("{}") }).await
    };
    let settling = |code: u16, settle: &str| {
        let head = format!("HTTP/1.1 {code} X\r\nposthouse-settle: {settle}\r\nretry-after: 7\r\n");
        Answer::Bytes(format!("{head}content-length: 0\r\n\r\n").into_bytes())
    };

    for code in [200, 204, 409] {
        assert_eq!(outcome(status(code)).await, Outcome::Delivered);
    }
    for code in [400, 410, 422] {
        assert_eq!(outcome(status(code)).await, Outcome::Hopeless(format!("HTTP status {code}")));
    }
    assert_eq!(reason(outcome(status(429)).await), ("HTTP status 429".to_owned(), Blame::Endpoint));
    assert_eq!(reason(outcome(status(404)).await), ("HTTP status 404".to_owned(), Blame::Message));
    assert_eq!(outcome(settling(500, "ack")).await, Outcome::Delivered);
    assert_eq!(
        outcome(settling(200, "dead")).await,
        Outcome::Hopeless("HTTP status 200".to_owned())
    );
    let Outcome::Failed(failure) = outcome(settling(200, "retry")).await else { panic!() };
    assert_eq!(failure.retry_after, Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn every_status_but_success_is_a_failure_and_redirects_are_not_followed() {
    assert_eq!(outcome(status(204)).await, Outcome::Delivered);
    for (code, blame) in [
        (302, Blame::Message),
        (400, Blame::Message),
        (404, Blame::Message),
        (408, Blame::Endpoint),
        (429, Blame::Endpoint),
        (500, Blame::Endpoint),
        (503, Blame::Endpoint),
    ] {
        let failed = reason(outcome(status(code)).await);
        assert_eq!(failed, (format!("HTTP status {code}"), blame));
    }
    let there = Receiver::start(|_| status(200)).await;
    let redirect = format!(
        "HTTP/1.1 307 X\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n",
        there.address
    );
    reason(outcome(Answer::Bytes(redirect.into_bytes())).await);
    assert!(there.received().is_empty());
}

#[tokio::test]
async fn an_endpoint_can_say_when_to_come_again() {
    let answer = "HTTP/1.1 503 X\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n";

    let Outcome::Failed(failure) = outcome(Answer::Bytes(answer.into())).await else { panic!() };

    assert_eq!(failure.retry_after, Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn an_endpoint_that_hangs_costs_its_deadline_and_no_more() {
    let receiver = Receiver::start(|_| Answer::Hang).await;
    let timeout = Duration::from_millis(700);
    let webhook = impatient_webhook(timeout);
    let target = target(&webhook, &format!("http://{}/", receiver.address));

    // A machine that stands still costs more, but not each time.
    let mut shortest = Duration::MAX;
    for _ in 0..3 {
        let begun = Instant::now();
        let (reason, blame) = reason(webhook.send(&target, &attempt("{}")).await);
        assert_eq!(blame, Blame::Silence, "{reason}");
        shortest = shortest.min(begun.elapsed());
        if shortest < timeout * 4 {
            return;
        }
    }
    panic!("it costs {shortest:?}");
}

#[tokio::test]
async fn endless_and_broken_answers_are_bounded() {
    let endless_head = b"HTTP/1.1 200 X\r\nx: ".to_vec();
    assert_eq!(
        reason(outcome(Answer::Endless(endless_head)).await),
        ("its answer cannot be read".to_owned(), Blame::Endpoint)
    );
    let endless_body = b"HTTP/1.1 200 X\r\ncontent-length: 99999999999\r\n\r\n".to_vec();
    assert_eq!(outcome(Answer::Endless(endless_body)).await, Outcome::Delivered);
    reason(outcome(Answer::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec())).await);
    reason(outcome(Answer::Close).await);
}

#[tokio::test]
async fn connections_are_used_again_and_a_closed_one_is_replaced() {
    let receiver = Receiver::start(|place| match place {
        0 | 1 => status(200),
        // The second connection; the first one is closed under the third request.
        2 => Answer::Close,
        _ => status(200),
    })
    .await;
    let webhook = webhook();
    let target = target(&webhook, &format!("http://{}/", receiver.address));

    for _ in 0..3 {
        assert_eq!(webhook.send(&target, &attempt("{}")).await, Outcome::Delivered);
    }

    let connections: Vec<_> = receiver.received().iter().map(|one| one.connection).collect();
    assert_eq!(connections, [0, 0, 0, 1]);
}

#[tokio::test]
async fn nothing_listens_there() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let webhook = webhook();
    let target = target(&webhook, &format!("http://{address}/"));

    let failed = reason(webhook.send(&target, &attempt("{}")).await);

    assert_eq!(failed, ("connection refused".to_owned(), Blame::Endpoint));
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused_and_one_of_the_operators_is_not() {
    let authority = Authority::new();
    let address = authority.serve().await;
    let url = format!("https://127.0.0.1:{}/", address.port());
    let stranger = webhook();
    let refused = stranger.send(&target(&stranger, &url), &attempt("{}")).await;
    assert_eq!(reason(refused).1, Blame::Endpoint);

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem.as_bytes()).unwrap();
    let tls = Tls::new(Some(file.path()), Some(b"http/1.1")).unwrap();
    let resolver = Resolver::new(&["127.0.0.1:9".parse().unwrap()]).unwrap();
    let webhook = Webhook::new(guard(&["127.0.0.0/8"]), resolver, tls, TIMEOUT);

    assert_eq!(webhook.send(&target(&webhook, &url), &attempt("{}")).await, Outcome::Delivered);
}

/// A name server that gives each question about an address the next answer of a list, without a time to live.
pub(crate) async fn name_server(answers: Vec<Vec<Ipv4Addr>>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let asked = AtomicUsize::new(0);
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let question = &buffer[..length];
            let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
            let is_v4 = question[end - 4..end - 2] == [0, 1];
            let addresses = if is_v4 {
                let place = asked.fetch_add(1, Ordering::Relaxed);
                answers.get(place).or(answers.last()).cloned().unwrap()
            } else {
                Vec::new()
            };
            let mut reply = question[..2].to_vec();
            reply.extend([0x81, 0x80, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
            reply.extend(&question[12..end]);
            for address in addresses {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                reply.extend(address.octets());
            }
            socket.send_to(&reply, from).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_name_is_judged_at_every_attempt_and_by_all_of_its_addresses() {
    let receiver = Receiver::start(|_| status(200)).await;
    let [good, bad] = [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(169, 254, 169, 254)];
    // First it is good, then it points into a network nobody may call, then at both.
    let servers = [name_server(vec![vec![good], vec![bad], vec![good, bad], vec![good]]).await];
    let webhook = webhook_of(&servers, &["127.0.0.0/8"]);
    let url = format!("http://rebinding.example:{}/", receiver.address.port());
    let target = target(&webhook, &url);

    assert_eq!(webhook.send(&target, &attempt("{}")).await, Outcome::Delivered);
    for _ in 0..2 {
        let (text, _) = reason(webhook.send(&target, &attempt("{}")).await);
        assert_eq!(text, "this address may not be called");
    }
    assert_eq!(webhook.send(&target, &attempt("{}")).await, Outcome::Delivered);

    let requests = receiver.received();
    assert_eq!(requests.len(), 2);
    let host = format!("rebinding.example:{}", receiver.address.port());
    assert_eq!(requests[0].header("host"), Some(host.as_str()));
}

#[tokio::test]
async fn a_name_that_points_to_the_machine_itself_is_not_called() {
    let receiver = Receiver::start(|_| status(200)).await;
    let servers = [name_server(vec![vec![Ipv4Addr::LOCALHOST]]).await];
    let webhook = webhook_of(&servers, &[]);

    for host in ["inside.example", "localhost"] {
        let url = format!("http://{host}:{}/", receiver.address.port());
        let (text, _) = reason(webhook.send(&target(&webhook, &url), &attempt("{}")).await);
        assert_eq!(text, "this address may not be called", "{host}");
    }
    assert!(receiver.received().is_empty());
}

#[derive(Debug)]
struct Tokens;

impl TokenSource for Tokens {
    fn token<'a>(&'a self, trust_id: &'a str) -> TokenFuture<'a> {
        let token = match trust_id {
            "gone" => Err(TokenError("the trust is gone".to_owned())),
            _ => Ok(format!("token-of-{trust_id}")),
        };
        Box::pin(std::future::ready(token))
    }
}

#[tokio::test]
async fn a_trusts_token_goes_to_hosts_of_the_operators_list_only() {
    let receiver = Receiver::start(|_| status(200)).await;
    let url = format!("http://{}/", receiver.address);
    let trusting = |hosts: &[&str]| {
        let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        webhook().with_tokens(Arc::new(Tokens), hosts)
    };
    let with_trust = |webhook: &Webhook, trust: &str| WebhookTarget {
        trust_id: Some(trust.into()),
        ..target(webhook, &url)
    };

    let webhook = trusting(&["127.0.0.1"]);
    let sent = webhook.send(&with_trust(&webhook, "t1"), &attempt("{}")).await;
    assert_eq!(sent, Outcome::Delivered);
    assert_eq!(receiver.received()[0].header("x-auth-token"), Some("token-of-t1"));

    let (text, _) = reason(webhook.send(&with_trust(&webhook, "gone"), &attempt("{}")).await);
    assert_eq!(text, "no token for the trust: the trust is gone");
    let strict = trusting(&["elsewhere.example"]);
    let refused = strict.send(&with_trust(&strict, "t1"), &attempt("{}")).await;
    assert!(matches!(refused, Outcome::Hopeless(_)), "{refused:?}");
    assert_eq!(receiver.received().len(), 1);
}

/// A certificate authority with one certificate, for 127.0.0.1.
struct Authority {
    pem: String,
    config: Arc<rustls::ServerConfig>,
}

impl Authority {
    fn new() -> Self {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        Self { pem: cert.pem(), config: Arc::new(config) }
    }

    async fn serve(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&self.config));
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await.unwrap();
                let answer = b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        });
        address
    }
}
