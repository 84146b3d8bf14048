//! A small WebSocket client: text frames of JSON, enough for subscribers that wait.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// Any key does: the answer to it is not checked, because nothing stands between the two.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Bytes of the read buffer: there are thousands of sockets.
const BUFFER_BYTES: usize = 512;

/// Longest frame that is believed.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// An open WebSocket.
#[derive(Debug)]
pub(crate) struct Socket {
    reader: BufReader<TcpStream>,
}

impl Socket {
    /// Opens a connection and upgrades it.
    ///
    /// # Errors
    ///
    /// If it is refused.
    pub(crate) fn connect(address: SocketAddr, patience: Duration) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: \
             13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        ensure!(line.contains(" 101 "), "the upgrade was refused: {line:?}");
        while line != "\r\n" {
            line.clear();
            ensure!(reader.read_line(&mut line)? > 0, "the connection was closed");
        }
        Ok(Self { reader })
    }

    /// Sends a request.
    ///
    /// # Errors
    ///
    /// If the connection fails.
    pub(crate) fn send(&mut self, request: &Value) -> anyhow::Result<()> {
        let text = serde_json::to_vec(request)?;
        // A mask of zeros masks nothing, and is one.
        let mut frame = match u16::try_from(text.len())? {
            length @ 0..=125 => vec![0x81, 0x80 | u8::try_from(length)?],
            length => {
                let [high, low] = length.to_be_bytes();
                vec![0x81, 0x80 | 126, high, low]
            }
        };
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(&text);
        self.reader.get_mut().write_all(&frame)?;
        Ok(())
    }

    /// The next frame of text, which is JSON; control frames are skipped.
    ///
    /// # Errors
    ///
    /// If none comes in time, the connection is closed, or it is no JSON.
    pub(crate) fn receive(&mut self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.receive_text()?).context("a frame that is no JSON")
    }

    /// The next frame of text as it came.
    ///
    /// # Errors
    ///
    /// If none comes in time, or the connection is closed.
    pub(crate) fn receive_text(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            let mut head = [0_u8; 2];
            self.reader.read_exact(&mut head)?;
            let [first, second] = head;
            let length = match second & 0x7F {
                126 => {
                    let mut length = [0; 2];
                    self.reader.read_exact(&mut length)?;
                    usize::from(u16::from_be_bytes(length))
                }
                127 => {
                    let mut length = [0; 8];
                    self.reader.read_exact(&mut length)?;
                    usize::try_from(u64::from_be_bytes(length))?
                }
                short => usize::from(short),
            };
            ensure!(length <= FRAME_BYTES_MAX, "a frame of {length} bytes");
            let mut payload = vec![0; length];
            self.reader.read_exact(&mut payload)?;
            match first & 0x0F {
                1 => return Ok(payload),
                8 => bail!("the other side closed: {}", String::from_utf8_lossy(&payload)),
                9 | 10 => {}
                other => bail!("a frame of kind {other}"),
            }
        }
    }
}
