//! A conversation with a mail relay: the client's side of SMTP (RFC 5321), step by step.
//!
//! Commands are built from [`Address`]es only, which cannot hold a line end, and a mail's dots are doubled here. Every
//! answer is bounded, and every step has its own time.

use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufStream,
};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::mail::Address;
use crate::output::connection::Tls;
use crate::output::smtp::{Encryption, Relay};

/// Longest line of an answer, in bytes; RFC 5321 says 512.
const LINE_BYTES_MAX: u64 = 2048;

/// Most lines of one answer.
const LINES_MAX: usize = 64;

/// Most characters of a relay's words that are passed on.
const WORDS_CHARS_MAX: usize = 200;

/// What can go wrong with a relay.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SmtpError {
    /// The connection failed.
    #[error("the connection to the mail relay failed")]
    Io(#[from] io::Error),
    /// A step took too long.
    #[error("the mail relay did not answer to {0}")]
    Silence(&'static str),
    /// It answered what nobody may answer.
    #[error("the mail relay's answer to {0} cannot be read")]
    Unreadable(&'static str),
    /// It refused.
    #[error("the mail relay refused {step}: {code} {text}")]
    Refused {
        /// Which step.
        step: &'static str,
        /// The code, 400 to 599.
        code: u16,
        /// Its words, shortened.
        text: String,
    },
    /// It lacks what the operator asks for.
    #[error("the mail relay does not offer {0}")]
    Missing(&'static str),
}

impl SmtpError {
    /// Whether the relay said of this very mail that it will never take it.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self, Self::Refused { step, code: 500..=599, .. }
            if matches!(*step, "MAIL" | "RCPT" | "DATA" | "the mail"))
    }
}

/// TCP or TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for T {}

/// A relay that is ready for a mail.
pub(crate) type Client = Conversation<Box<dyn Stream>>;

/// Commands and answers.
pub(crate) struct Conversation<S> {
    stream: BufStream<S>,
    step_timeout: Duration,
}

/// An answer: its code and its lines.
struct Reply {
    code: u16,
    lines: Vec<String>,
}

impl Reply {
    /// The parameters of an extension, if it is offered.
    fn extension(&self, name: &str) -> Option<&str> {
        self.lines.iter().skip(1).find_map(|line| {
            let (word, rest) = line.split_once([' ', '=']).unwrap_or((line, ""));
            word.eq_ignore_ascii_case(name).then_some(rest)
        })
    }

    fn refused(self, step: &'static str) -> SmtpError {
        if !(400..600).contains(&self.code) {
            return SmtpError::Unreadable(step);
        }
        let words = self.lines.join(" ");
        let words = words.chars().filter(|char| !char.is_control()).take(WORDS_CHARS_MAX);
        SmtpError::Refused { step, code: self.code, text: words.collect() }
    }
}

/// Greets, secures and logs in.
pub(crate) async fn open(stream: TcpStream, relay: &Relay, tls: &Tls) -> Result<Client, SmtpError> {
    let step_timeout = relay.step_timeout;
    let stream: Box<dyn Stream> = match relay.encryption {
        Encryption::None => Box::new(stream),
        Encryption::Tls => Box::new(secured(stream, relay, tls).await?),
        Encryption::StartTls => {
            let stream = start_tls(stream, relay).await?;
            // What was said before is forgotten: somebody in between may have said it.
            let mut client = Conversation::<Box<dyn Stream>> {
                stream: BufStream::new(Box::new(secured(stream, relay, tls).await?)),
                step_timeout,
            };
            client.begin(relay).await?;
            return Ok(client);
        }
    };
    let mut client = Conversation { stream: BufStream::new(stream), step_timeout };
    client.expect("greeting", 220).await?;
    client.begin(relay).await?;
    Ok(client)
}

async fn secured(
    stream: TcpStream,
    relay: &Relay,
    tls: &Tls,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, SmtpError> {
    match timeout(relay.step_timeout, tls.wrap(&relay.host, stream)).await {
        Ok(secured) => Ok(secured?),
        Err(_) => Err(SmtpError::Silence("TLS")),
    }
}

/// The part in clear text. Nothing that came behind the answer to STARTTLS is believed.
async fn start_tls(stream: TcpStream, relay: &Relay) -> Result<TcpStream, SmtpError> {
    let mut clear =
        Conversation { stream: BufStream::new(stream), step_timeout: relay.step_timeout };
    clear.expect("greeting", 220).await?;
    let reply = clear.command("EHLO", &format!("EHLO {}", relay.hello), 250).await?;
    if reply.extension("STARTTLS").is_none() {
        return Err(SmtpError::Missing("STARTTLS"));
    }
    clear.command("STARTTLS", "STARTTLS", 220).await?;
    if !clear.is_drained().await {
        return Err(SmtpError::Unreadable("STARTTLS"));
    }
    Ok(clear.stream.into_inner())
}

impl Client {
    /// Says hello and logs in.
    async fn begin(&mut self, relay: &Relay) -> Result<(), SmtpError> {
        let reply = self.command("EHLO", &format!("EHLO {}", relay.hello), 250).await?;
        let Some(credentials) = &relay.credentials else { return Ok(()) };
        let mechanisms = reply.extension("AUTH").ok_or(SmtpError::Missing("AUTH"))?;
        let offers = |name: &str| {
            mechanisms.split_ascii_whitespace().any(|offered| offered.eq_ignore_ascii_case(name))
        };
        let (user, password) = (&credentials.user, &credentials.password);
        if offers("PLAIN") {
            let token = STANDARD.encode(format!("\0{user}\0{password}"));
            self.command("AUTH", &format!("AUTH PLAIN {token}"), 235).await?;
        } else if offers("LOGIN") {
            self.command("AUTH", "AUTH LOGIN", 334).await?;
            self.command("AUTH", &STANDARD.encode(user), 334).await?;
            self.command("AUTH", &STANDARD.encode(password), 235).await?;
        } else {
            return Err(SmtpError::Missing("AUTH PLAIN or LOGIN"));
        }
        Ok(())
    }

    /// Hands over one mail, in lines that end with CRLF. Recipients that the relay refuses for good are left out, as long as
    /// one is left; returned is how many.
    ///
    /// After an error the connection must not be used again.
    pub(crate) async fn send(
        &mut self,
        from: &Address,
        to: &[Address],
        mail: &str,
    ) -> Result<usize, SmtpError> {
        self.command("MAIL", &format!("MAIL FROM:<{}>", from.as_str()), 250).await?;
        let (mut accepted, mut refusal) = (0, None);
        for recipient in to {
            let line = format!("RCPT TO:<{}>", recipient.as_str());
            match self.command("RCPT", &line, 250).await {
                Ok(_) => accepted += 1,
                Err(error) if error.is_permanent() => refusal = Some(error),
                Err(error) => return Err(error),
            }
        }
        match (accepted, refusal) {
            (0, Some(refusal)) => return Err(refusal),
            (0, None) => return Err(SmtpError::Missing("recipients")),
            (_, Some(refusal)) => tracing::warn!(error = %refusal, "mail without a recipient"),
            (_, None) => {}
        }
        self.command("DATA", "DATA", 354).await?;
        let stuffed = stuffed(mail);
        self.write("the mail", stuffed.as_bytes()).await?;
        self.expect("the mail", 250).await?;
        Ok(to.len() - accepted)
    }

    /// Whether the relay still answers; for connections that waited.
    pub(crate) async fn is_alive(&mut self) -> bool {
        self.command("RSET", "RSET", 250).await.is_ok()
    }

    /// Says goodbye, without waiting for long.
    pub(crate) async fn quit(mut self) {
        self.step_timeout = Duration::from_secs(1);
        // The relay may have gone first; nothing depends on the answer.
        drop(self.command("QUIT", "QUIT", 221).await);
    }
}

impl<S: Stream> Conversation<S> {
    /// Whether nothing is left that was read already.
    async fn is_drained(&mut self) -> bool {
        let waiting = timeout(Duration::ZERO, self.stream.fill_buf()).await;
        !matches!(waiting, Ok(Ok(bytes)) if !bytes.is_empty())
    }

    async fn command(
        &mut self,
        step: &'static str,
        line: &str,
        code: u16,
    ) -> Result<Reply, SmtpError> {
        self.write(step, format!("{line}\r\n").as_bytes()).await?;
        self.expect(step, code).await
    }

    async fn write(&mut self, step: &'static str, bytes: &[u8]) -> Result<(), SmtpError> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match timeout(self.step_timeout, write).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(SmtpError::Silence(step)),
        }
    }

    async fn expect(&mut self, step: &'static str, code: u16) -> Result<Reply, SmtpError> {
        let reply = match timeout(self.step_timeout, self.reply(step)).await {
            Ok(reply) => reply?,
            Err(_) => return Err(SmtpError::Silence(step)),
        };
        // 251 (will forward) is as good as 250.
        let good = reply.code == code || (code == 250 && reply.code == 251);
        if good { Ok(reply) } else { Err(reply.refused(step)) }
    }

    async fn reply(&mut self, step: &'static str) -> Result<Reply, SmtpError> {
        let mut lines = Vec::new();
        while lines.len() < LINES_MAX {
            let mut line = Vec::new();
            let read = (&mut self.stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.strip_suffix('\n').ok_or(SmtpError::Unreadable(step))?;
            let text = text.trim_end_matches('\r');
            let code = text.get(..3).and_then(|code| code.parse().ok());
            let code: u16 = code.ok_or(SmtpError::Unreadable(step))?;
            let last = !text.get(3..).is_some_and(|rest| rest.starts_with('-'));
            lines.push(text.get(4..).unwrap_or_default().to_owned());
            if last {
                return Ok(Reply { code, lines });
            }
        }
        Err(SmtpError::Unreadable(step))
    }
}

/// Doubles dots at the beginning of lines and adds the dot that ends a mail (RFC 5321 §4.5.2). A line begins behind CRLF
/// and nowhere else: a lone CR or LF is not sent at all, because relays do not agree on what it means.
fn stuffed(mail: &str) -> String {
    let mut stuffed = String::with_capacity(mail.len() + 64);
    let mut lines = mail.split("\r\n").peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() && lines.peek().is_none() {
            break;
        }
        let start = stuffed.len();
        stuffed.extend(line.chars().filter(|char| !matches!(char, '\r' | '\n' | '\0')));
        // What is left out may have stood before a dot.
        if stuffed.get(start..).is_some_and(|line| line.starts_with('.')) {
            stuffed.insert(start, '.');
        }
        stuffed.push_str("\r\n");
    }
    stuffed.push_str(".\r\n");
    stuffed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{HeaderText, Mail};

    #[test]
    fn dots_are_doubled_and_the_mail_ends_once() {
        assert_eq!(stuffed("a\r\n.\r\n..b\r\n"), "a\r\n..\r\n...b\r\n.\r\n");
        assert_eq!(stuffed("a"), "a\r\n.\r\n");
        assert_eq!(stuffed("\r\n\r\n"), "\r\n\r\n.\r\n");
        assert_eq!(stuffed(""), ".\r\n");
    }

    #[test]
    fn no_text_can_end_a_mail_early() {
        for smuggled in ["\n.\r\n", "\r.\r\n", "\r\n.\n", "\n.\n", "\r\n.\r\n", "\r\n\0.\r\n"] {
            let sent = stuffed(&format!("a{smuggled}MAIL FROM:<x@y.z>\r\n"));

            assert_eq!(sent.matches("\r\n.\r\n").count(), 1, "{smuggled:?}: {sent:?}");
            assert!(sent.ends_with("\r\n.\r\n"));
            let rest = sent.replace("\r\n", "");
            assert!(!rest.contains(['\r', '\n', '\0']), "{smuggled:?}: {sent:?}");
        }
    }

    const HEADERS: [&str; 9] = [
        "From",
        "To",
        "Subject",
        "Date",
        "Message-ID",
        "Auto-Submitted",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
    ];

    /// A text of pieces that have broken out of mails before, by a seed.
    fn nasty(seed: &mut u64) -> String {
        const PIECES: [&str; 24] = [
            "\r\n",
            "\n",
            "\r",
            ".",
            "\r\n.\r\n",
            "\n.\n",
            "\0",
            "Bcc: a@b.c",
            "=?UTF-8?Q?=0A?=",
            "=0D=0A",
            "<",
            ">",
            "@",
            "a",
            "\u{85}",
            "\u{2028}",
            "\u{c0d}",
            "\u{10a}",
            " ",
            "\t",
            ",",
            "\"",
            "x.y",
            "RCPT TO:<a@b.c>",
        ];
        let mut next = |below: usize| {
            *seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(*seed >> 33).unwrap() % below
        };
        (0..next(12)).map(|_| PIECES[next(PIECES.len())]).collect()
    }

    #[test]
    fn whatever_is_taken_as_address_subject_or_text_stays_what_it_is() {
        let mut seed = 1;
        let (mut addresses, mut subjects) = (0, 0);
        for round in 0..4_000 {
            let from = Address::parse("from@example.org").unwrap();
            let mut to = vec![Address::parse("to@example.org").unwrap()];
            for text in
                [nasty(&mut seed), format!("ann{}@x{}.y", nasty(&mut seed), nasty(&mut seed))]
            {
                if let Ok(address) = Address::parse(&text) {
                    addresses += 1;
                    to.push(address);
                }
            }
            let subject = HeaderText::parse(&nasty(&mut seed)).unwrap_or_default();
            subjects += usize::from(!subject.as_str().is_empty());
            let mail = Mail {
                from,
                to: to.clone(),
                subject,
                id: nasty(&mut seed),
                date: round,
                body: nasty(&mut seed).into_bytes(),
                content_type: "application/json",
            };

            let sent = stuffed(&mail.encoded());

            assert_eq!(sent.matches("\r\n.\r\n").count(), 1, "round {round}: {sent:?}");
            assert!(sent.ends_with("\r\n.\r\n"), "round {round}: {sent:?}");
            assert!(
                !sent.replace("\r\n", "").contains(['\r', '\n', '\0']),
                "round {round}: {sent:?}"
            );
            assert!(sent.is_ascii(), "round {round}: {sent:?}");
            let (head, _) = sent.split_once("\r\n\r\n").unwrap();
            let own = head.lines().filter(|line| !line.starts_with(' '));
            let names: Vec<_> = own.map(|line| line.split_once(": ").unwrap().0).collect();
            assert_eq!(names, HEADERS, "round {round}: {sent:?}");
            for address in to {
                let escapes = |char: char| "<> ".contains(char) || char.is_control();
                assert!(!address.as_str().contains(escapes), "round {round}: {address:?}");
            }
        }
        assert!(addresses > 20 && subjects > 100, "{addresses} addresses, {subjects} subjects");
    }
}
