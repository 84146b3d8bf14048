//! A stream whose peer must take something of what is sent, within a time.
//!
//! Without it, who asks and never reads the answers would have a connection, its buffers and an answer for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A stream that fails with [`io::ErrorKind::TimedOut`] when writing makes no progress for so long.
#[derive(Debug)]
pub(super) struct Patient<I> {
    stream: I,
    patience: Duration,
    /// Runs out `patience` after the last progress; made by the first write that has to wait.
    end: Option<Pin<Box<Sleep>>>,
    waits: bool,
}

impl<I> Patient<I> {
    pub(super) const fn new(stream: I, patience: Duration) -> Self {
        Self { stream, patience, end: None, waits: false }
    }

    /// What a write or a flush came to, unless it has waited for too long.
    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.waits = false;
            return outcome;
        }
        let patience = self.patience;
        let end = self.end.get_or_insert_with(|| Box::pin(sleep(patience)));
        if !self.waits {
            end.as_mut().reset(Instant::now() + patience);
            self.waits = true;
        }
        match end.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the client took nothing of an answer for {patience:?}"),
            ))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Patient<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Patient<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.judge(context, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(context, parts);
        this.judge(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_flush(context);
        this.judge(context, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_shutdown(context);
        this.judge(context, outcome)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up() {
        let (ours, _theirs) = duplex(10);
        let mut stream = Patient::new(ours, PATIENCE);
        stream.write_all(b"0123456789").await.unwrap();
        let began = Instant::now();

        let error = stream.write_all(b"more").await.unwrap_err();

        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_little_at_a_time_is_waited_for() {
        let (ours, mut theirs) = duplex(10);
        let mut stream = Patient::new(ours, PATIENCE);
        let reading = tokio::spawn(async move {
            let mut bytes = Vec::new();
            for _ in 0..10 {
                sleep(PATIENCE * 9 / 10).await;
                bytes.push(theirs.read_u8().await.unwrap());
            }
            bytes
        });

        stream.write_all(&[7; 19]).await.unwrap();

        assert_eq!(reading.await.unwrap(), [7; 10]);
    }
}
