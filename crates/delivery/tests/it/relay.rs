//! A mail relay that says what a test tells it to say.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpListener;

/// What it answers to a line, or `None` for what a good relay says. Lines of a mail are not asked about, its end is: `.`.
pub(crate) type Script = dyn Fn(&str) -> Option<&'static str> + Send + Sync;

#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    pub(crate) async fn start(
        script: impl Fn(&str) -> Option<&'static str> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (log, script): (_, Arc<Script>) = (Arc::clone(&lines), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                log.lock().unwrap().push("(connected)".to_owned());
                let (log, script) = (Arc::clone(&log), Arc::clone(&script));
                tokio::spawn(async move {
                    // A client that hangs up is no failure of the relay.
                    drop(serve(BufStream::new(stream), &log, &*script).await);
                });
            }
        });
        Self { address, lines }
    }

    /// Everything that was said to it, each line with its line end as `|` if that was CRLF.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: BufStream<tokio::net::TcpStream>,
    log: &Mutex<Vec<String>>,
    script: &Script,
) -> std::io::Result<()> {
    say(&mut stream, script("(greeting)").unwrap_or("220 relay")).await?;
    let mut in_mail = false;
    loop {
        let mut raw = Vec::new();
        if stream.read_until(b'\n', &mut raw).await? == 0 {
            return Ok(());
        }
        let line = String::from_utf8(raw).unwrap().replace("\r\n", "|");
        log.lock().unwrap().push(line.clone());
        let command = line.trim_end_matches('|');
        if in_mail && command != "." {
            continue;
        }
        let usual = match command.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" => "250-relay\r\n250-AUTH PLAIN LOGIN\r\n250 PIPELINING",
            "DATA" => "354 go on",
            "AUTH" => "235 welcome",
            "QUIT" => "221 bye",
            _ => "250 fine",
        };
        let answer = script(command).unwrap_or(usual);
        in_mail = answer.starts_with("354");
        if answer == "(hang)" {
            std::future::pending::<()>().await;
        }
        if answer == "(close)" {
            return Ok(());
        }
        say(&mut stream, answer).await?;
    }
}

async fn say(stream: &mut BufStream<tokio::net::TcpStream>, answer: &str) -> std::io::Result<()> {
    stream.write_all(answer.as_bytes()).await?;
    stream.write_all(b"\r\n").await?;
    stream.flush().await
}
