//! Mail, to relays of every mood.

use std::time::Duration;

use delivery::output::Output as _;
use delivery::output::connection::Tls;
use delivery::output::smtp::{Credentials, Encryption, MailTarget, Relay as Config, Smtp};
use delivery::{Address, Blame, HeaderText, Outcome, Resolver};

use crate::attempt;
use crate::relay::Relay;

fn config(relay: &Relay) -> Config {
    Config {
        host: "127.0.0.1".to_owned(),
        port: relay.address.port(),
        encryption: Encryption::None,
        credentials: None,
        hello: "posthouse.example".to_owned(),
        step_timeout: Duration::from_secs(60),
    }
}

fn smtp(config: Config) -> Smtp {
    let resolver = Resolver::new(&["127.0.0.1:9".parse().unwrap()]).unwrap();
    Smtp::new(config, resolver, Tls::new(None, None).unwrap(), Duration::from_secs(60))
}

fn target(to: &[&str]) -> MailTarget {
    MailTarget {
        from: Address::parse("from@example.org").unwrap(),
        to: to.iter().map(|to| Address::parse(to).unwrap()).collect(),
        subject: HeaderText::parse("News").unwrap(),
    }
}

async fn outcome(script: fn(&str) -> Option<&'static str>) -> (Outcome, Vec<String>) {
    let relay = Relay::start(script).await;
    let outcome = smtp(config(&relay)).send(&target(&["a@b.c", "d@e.f"]), &attempt("x")).await;
    (outcome, relay.lines())
}

#[tokio::test]
async fn a_mail_is_handed_over_and_the_connection_used_for_the_next() {
    let relay = Relay::start(|_| None).await;
    let smtp = smtp(config(&relay));
    let to = target(&["a@b.c", "d@e.f"]);

    assert_eq!(smtp.send(&to, &attempt("one\n.\ntwo")).await, Outcome::Delivered);
    assert_eq!(smtp.send(&to, &attempt("three")).await, Outcome::Delivered);

    let lines = relay.lines();
    let commands = ["(connected)", "EHLO posthouse.example|", "MAIL FROM:<from@example.org>|"];
    assert_eq!(lines[..3], commands);
    assert_eq!(lines[3..6], ["RCPT TO:<a@b.c>|", "RCPT TO:<d@e.f>|", "DATA|"]);
    assert!(lines.contains(&"..|".to_owned()), "the dot is doubled: {lines:?}");
    assert!(lines.contains(&"Message-ID: <msg_1@example.org>|".to_owned()));
    assert_eq!(lines.iter().filter(|line| *line == "(connected)").count(), 1);
    assert_eq!(lines.iter().filter(|line| *line == ".|").count(), 2);
    assert!(lines.iter().all(|line| line.ends_with('|') || line == "(connected)"), "{lines:?}");
}

#[tokio::test]
async fn nothing_in_a_message_becomes_a_command_or_a_second_mail() {
    let relay = Relay::start(|_| None).await;
    let payload = "x\r\n.\r\nMAIL FROM:<evil@x.y>\r\nRCPT TO:<v@x.y>\r\nDATA\n.\nQUIT\r.\rRSET\0";

    let sent = smtp(config(&relay)).send(&target(&["a@b.c"]), &attempt(payload)).await;

    assert_eq!(sent, Outcome::Delivered);
    let lines = relay.lines();
    assert_eq!(lines.iter().filter(|line| *line == ".|").count(), 1);
    let end = lines.iter().position(|line| line == ".|").unwrap();
    assert_eq!(end, lines.len() - 1, "nothing comes behind the mail: {lines:?}");
}

#[tokio::test]
async fn a_relays_last_word_is_believed_and_everything_else_tried_again() {
    let of = |script: fn(&str) -> Option<&'static str>| async move { outcome(script).await.0 };

    let rejected = of(|line| (line == ".").then_some("554 spam")).await;
    assert_eq!(rejected, Outcome::Hopeless("the mail relay refused the mail: 554 spam".to_owned()));
    let busy = of(|line| (line == ".").then_some("451 later")).await;
    assert!(matches!(&busy, Outcome::Failed(it) if it.blame == Blame::Endpoint), "{busy:?}");
    let closed = of(|line| (line == "DATA").then_some("(close)")).await;
    assert!(matches!(&closed, Outcome::Failed(it) if it.blame == Blame::Endpoint), "{closed:?}");
    let relay = Relay::start(|line| line.starts_with("MAIL").then_some("(hang)")).await;
    let impatient = Config { step_timeout: Duration::from_millis(500), ..config(&relay) };
    let silent = smtp(impatient).send(&target(&["a@b.c"]), &attempt("x")).await;
    assert!(matches!(&silent, Outcome::Failed(it) if it.blame == Blame::Silence), "{silent:?}");
    let greeted = of(|line| (line == "(greeting)").then_some("554 go away")).await;
    assert!(matches!(greeted, Outcome::Failed(_)), "that is not about the mail: {greeted:?}");
    let nonsense = of(|line| (line == "DATA").then_some("what?")).await;
    assert!(matches!(nonsense, Outcome::Failed(_)), "{nonsense:?}");
}

#[tokio::test]
async fn a_recipient_that_does_not_exist_does_not_keep_the_others_from_their_mail() {
    let (sent, lines) = outcome(|line| line.contains("a@b.c").then_some("550 no such user")).await;
    assert_eq!(sent, Outcome::Delivered);
    assert!(lines.contains(&".|".to_owned()));

    let (none, _) = outcome(|line| line.starts_with("RCPT").then_some("550 no such user")).await;
    assert!(matches!(none, Outcome::Hopeless(_)), "{none:?}");

    // One that may exist later: all are tried again, and none gets the mail twice.
    let (later, lines) = outcome(|line| line.contains("d@e.f").then_some("450 greylisted")).await;
    assert!(matches!(later, Outcome::Failed(_)), "{later:?}");
    assert!(!lines.contains(&"DATA|".to_owned()));
}

#[tokio::test]
async fn a_password_is_sent_by_the_mechanism_that_the_relay_offers() {
    let credentials = Credentials { user: "me".to_owned(), password: "secret".to_owned() };
    let relay = Relay::start(|_| None).await;
    let with_login = Config { credentials: Some(credentials), ..config(&relay) };

    let sent = smtp(with_login.clone()).send(&target(&["a@b.c"]), &attempt("x")).await;

    assert_eq!(sent, Outcome::Delivered);
    assert!(relay.lines().contains(&"AUTH PLAIN AG1lAHNlY3JldA==|".to_owned()));

    let relay = Relay::start(|line| match line {
        "EHLO posthouse.example" => Some("250-relay\r\n250 AUTH LOGIN"),
        "AUTH LOGIN" => Some("334 VXNlcm5hbWU6"),
        "bWU=" => Some("334 UGFzc3dvcmQ6"),
        "c2VjcmV0" => Some("235 welcome"),
        _ => None,
    })
    .await;
    let with_login = Config { port: relay.address.port(), ..with_login };
    let sent = smtp(with_login).send(&target(&["a@b.c"]), &attempt("x")).await;
    assert_eq!(sent, Outcome::Delivered, "{:?}", relay.lines());
}

#[tokio::test]
async fn without_tls_where_it_is_asked_for_nothing_is_sent() {
    let relay = Relay::start(|_| None).await;
    let secure = Config { encryption: Encryption::StartTls, ..config(&relay) };

    let sent = smtp(secure).send(&target(&["a@b.c"]), &attempt("x")).await;

    let Outcome::Failed(failure) = sent else { panic!("{sent:?}") };
    assert_eq!(failure.reason, "the mail relay does not offer STARTTLS");
    assert!(!relay.lines().iter().any(|line| line.starts_with("MAIL")));
}

#[tokio::test]
async fn what_comes_behind_the_answer_to_starttls_is_not_believed() {
    let relay = Relay::start(|line| match line {
        "EHLO posthouse.example" => Some("250-relay\r\n250 STARTTLS"),
        "STARTTLS" => Some("220 go on\r\n250 injected"),
        _ => None,
    })
    .await;
    let secure = Config { encryption: Encryption::StartTls, ..config(&relay) };

    let sent = smtp(secure).send(&target(&["a@b.c"]), &attempt("x")).await;

    let Outcome::Failed(failure) = sent else { panic!("{sent:?}") };
    assert_eq!(failure.reason, "the mail relay's answer to STARTTLS cannot be read");
}
