//! A small HTTP/1.1 client on one keep-alive connection: for the crash rig and the benchmark, of their own.
//!
//! It knows what a queue service needs: a length with each body, and no more. A connection that the other side has
//! closed between two requests is opened again only where the caller asks for it, so that a request whose outcome is
//! unknown is never sent twice behind the caller's back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// Longest body that is believed.
const BODY_BYTES_MAX: usize = 64 << 20;

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// `Location`, if there was one.
    pub(crate) location: Option<String>,
    /// The body.
    pub(crate) body: Vec<u8>,
}

/// One connection, with the headers that every request of the queue service needs.
#[derive(Debug)]
pub(crate) struct Connection {
    address: SocketAddr,
    headers: String,
    patience: Duration,
    stream: Option<BufReader<TcpStream>>,
}

impl Connection {
    /// A connection for one project and client; opened by the first request.
    pub(crate) fn new(
        address: SocketAddr,
        project: &str,
        client_id: &str,
        patience: Duration,
    ) -> Self {
        let headers = format!(
            "Host: {address}\r\nX-Project-Id: {project}\r\nClient-ID: {client_id}\r\nContent-Type: application/json\r\n"
        );
        Self { address, headers, patience, stream: None }
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    ///
    /// If the connection fails before the whole answer has come. Then it is unknown whether the request was carried out.
    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> anyhow::Result<Answer> {
        let answer = self.exchange(method, path, body);
        if answer.is_err() {
            self.stream = None;
        }
        answer
    }

    /// Sends a request with a JSON body and returns the JSON that came; `Null` for none.
    ///
    /// # Errors
    ///
    /// If the connection fails, the status is another one, or what came is no JSON.
    pub(crate) fn expect(
        &mut self,
        status: u16,
        method: &str,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let answer = self.request(method, path, &body)?;
        ensure!(
            answer.status == status,
            "{method} {path}: {} instead of {status}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        if answer.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer.body).context("the answer is no JSON")
    }

    fn exchange(&mut self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<Answer> {
        if self.stream.is_none() {
            let stream = TcpStream::connect_timeout(&self.address, self.patience)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(self.patience))?;
            stream.set_write_timeout(Some(self.patience))?;
            self.stream = Some(BufReader::new(stream));
        }
        let reader = self.stream.as_mut().context("no connection")?;
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\n{}Content-Length: {}\r\n\r\n",
            self.headers,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        reader.get_mut().write_all(&request)?;
        let (answer, closes) = read_answer(reader)?;
        if closes {
            self.stream = None;
        }
        Ok(answer)
    }
}

/// Reads an answer; whether the other side closes after it comes with it.
fn read_answer(reader: &mut BufReader<TcpStream>) -> anyhow::Result<(Answer, bool)> {
    let status_line = line(reader)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("no status: {status_line:?}"))?;
    let (mut length, mut location, mut closes) = (0_usize, None, false);
    loop {
        let header = line(reader)?;
        if header.is_empty() {
            break;
        }
        let Some((name, value)) = header.split_once(':') else { bail!("no header: {header:?}") };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().context("Content-Length")?,
            "location" => location = Some(value.to_owned()),
            "connection" => closes = value.eq_ignore_ascii_case("close"),
            "transfer-encoding" => bail!("an answer without a length: {value}"),
            _ => {}
        }
    }
    ensure!(length <= BODY_BYTES_MAX, "an answer of {length} bytes");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((Answer { status, location, body }, closes))
}

fn line(reader: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut line = String::new();
    ensure!(reader.read_line(&mut line)? > 0, "the connection was closed");
    line.truncate(line.trim_end().len());
    Ok(line)
}
