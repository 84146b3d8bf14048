//! What is to be written to one client.
//!
//! Small frames are gathered in one buffer, large bodies are referred to, and a turn's output leaves in one vectored
//! write. Some replies promise durability (a declare, a commit): from such a reply on, the output is held until the
//! store's watermark has reached its ticket, and the session goes on working meanwhile.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use model::Ticket;
use tokio::io::AsyncWrite;

/// Bodies from this size on are referred to instead of copied: below it, a copy is cheaper than another slice.
const REFER_BYTES_MIN: usize = 8 * 1024;

/// More than this waiting to be written, and no more deliveries are encoded.
pub(crate) const OUTPUT_BYTES_HIGH: usize = 256 * 1024;

/// Slices given to one vectored write.
const SLICES_MAX: usize = 64;

/// A buffer larger than this is not kept by a connection that has nothing to say.
const KEPT_BYTES_MAX: usize = 4 * 1024;

#[derive(Debug)]
enum Piece {
    /// So many bytes of the buffer.
    Buffered(usize),
    /// A part of a message.
    Shared(Arc<[u8]>, Range<usize>),
}

/// The output of one connection.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Encoded frames; the caller appends.
    pub(crate) buffer: Vec<u8>,
    /// Bytes at the front of the buffer that are written.
    written: usize,
    /// How buffer and messages follow each other; what is behind the last piece is the rest of the buffer.
    pieces: VecDeque<Piece>,
    /// Bytes of the buffer that belong to pieces.
    pieced: usize,
    /// Bytes of shared pieces.
    shared_bytes: usize,
    /// Bytes ever appended before the current state was empty, for the holds.
    position: u64,
    /// Nothing at or behind the position leaves before the ticket is durable.
    holds: VecDeque<(u64, Ticket)>,
    /// The stream has taken bytes that it may still keep to itself, as TLS does.
    unflushed: bool,
}

impl Output {
    /// An output in which `buffer` waits.
    pub(crate) fn starting_with(buffer: Vec<u8>) -> Self {
        Self { buffer, ..Self::default() }
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len() - self.written + self.shared_bytes
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether everything is on its way to the peer.
    pub(crate) fn has_left(&self) -> bool {
        self.is_empty() && !self.unflushed
    }

    /// Appends a part of a message, by reference if it is large.
    pub(crate) fn body(&mut self, payload: &Arc<[u8]>, range: Range<usize>) {
        if range.len() < REFER_BYTES_MIN {
            self.buffer.extend_from_slice(payload.get(range).unwrap_or_default());
            return;
        }
        let loose = self.buffer.len() - self.written - self.pieced;
        if loose > 0 {
            self.pieces.push_back(Piece::Buffered(loose));
            self.pieced += loose;
        }
        self.shared_bytes += range.len();
        self.pieces.push_back(Piece::Shared(Arc::clone(payload), range));
    }

    /// What is appended from here on leaves only when `ticket` is durable.
    pub(crate) fn hold_until(&mut self, ticket: Ticket) {
        if ticket == Ticket::NONE {
            return;
        }
        let position = self.position + self.len() as u64;
        match self.holds.back_mut() {
            Some((at, last)) if *at == position => *last = (*last).max(ticket),
            _ => self.holds.push_back((position, ticket)),
        }
    }

    /// The ticket that the output waits for, if nothing before it is left to write.
    pub(crate) fn held_by(&self) -> Option<Ticket> {
        self.holds
            .front()
            .filter(|(position, _)| *position <= self.position)
            .map(|(_, ticket)| *ticket)
    }

    /// Removes the holds that `durable` has passed.
    pub(crate) fn release(&mut self, durable: Ticket) {
        while self.holds.front().is_some_and(|(_, ticket)| *ticket <= durable) {
            self.holds.pop_front();
        }
    }

    /// Writes as much as the peer takes and the holds allow; `Ready(Ok(n))` tells how much, zero if nothing may leave.
    pub(crate) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut total = 0;
        loop {
            let allowed = self.allowed();
            if allowed == 0 {
                return Poll::Ready(Ok(total));
            }
            let written = match self.write_once(stream, context, allowed) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if total > 0 => return Poll::Ready(Ok(total)),
                Poll::Pending => return Poll::Pending,
            };
            total += written;
            self.unflushed = true;
            self.advance(written);
        }
    }

    /// Has the stream send what it took. Pending, the context's task is woken, and this must be called again.
    pub(crate) fn poll_flush<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(stream).poll_flush(context);
        self.unflushed = flushed.is_pending();
        flushed
    }

    /// Gives memory back when the connection falls idle.
    pub(crate) fn rest(&mut self) {
        if self.is_empty() && self.buffer.capacity() > KEPT_BYTES_MAX {
            self.buffer = Vec::new();
            self.pieces = VecDeque::new();
        }
    }

    fn allowed(&self) -> usize {
        let waiting = self.len();
        match self.holds.front() {
            Some((position, _)) => waiting
                .min(usize::try_from(position.saturating_sub(self.position)).unwrap_or(usize::MAX)),
            None => waiting,
        }
    }

    fn write_once<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        context: &mut Context<'_>,
        allowed: usize,
    ) -> Poll<io::Result<usize>> {
        if self.pieces.is_empty() {
            let end = self.written + allowed;
            let bytes = self.buffer.get(self.written..end).unwrap_or_default();
            return Pin::new(stream).poll_write(context, bytes);
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        let mut left = allowed;
        let mut at = self.written;
        let rest = Piece::Buffered(self.buffer.len() - self.written - self.pieced);
        for piece in self.pieces.iter().chain([&rest]) {
            let bytes = match piece {
                Piece::Buffered(len) => {
                    at += len;
                    self.buffer.get(at - len..at).unwrap_or_default()
                }
                Piece::Shared(payload, range) => payload.get(range.clone()).unwrap_or_default(),
            };
            let bytes = bytes.get(..left.min(bytes.len())).unwrap_or_default();
            let Some(slot) = slices.get_mut(count).filter(|_| !bytes.is_empty()) else { continue };
            *slot = IoSlice::new(bytes);
            count += 1;
            left -= bytes.len();
        }
        Pin::new(stream).poll_write_vectored(context, slices.get(..count).unwrap_or_default())
    }

    fn advance(&mut self, written: usize) {
        self.position += written as u64;
        let mut left = written;
        while left > 0 {
            match self.pieces.front_mut() {
                None => {
                    self.written += left;
                    left = 0;
                }
                Some(Piece::Buffered(len)) => {
                    let step = left.min(*len);
                    *len -= step;
                    self.pieced -= step;
                    self.written += step;
                    left -= step;
                    if *len == 0 {
                        self.pieces.pop_front();
                    }
                }
                Some(Piece::Shared(_, range)) => {
                    let step = left.min(range.len());
                    range.start += step;
                    self.shared_bytes -= step;
                    left -= step;
                    if range.start >= range.end {
                        self.pieces.pop_front();
                    }
                }
            }
        }
        if self.written == self.buffer.len() {
            self.buffer.clear();
            self.written = 0;
        } else if self.written > OUTPUT_BYTES_HIGH {
            self.buffer.drain(..self.written);
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes everything, and keeps it until it may flush.
    #[derive(Default)]
    struct Keeping {
        kept: Vec<u8>,
        sent: Vec<u8>,
        may_flush: bool,
    }

    impl AsyncWrite for Keeping {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.kept.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if !self.may_flush {
                return Poll::Pending;
            }
            let kept = std::mem::take(&mut self.kept);
            self.sent.extend(kept);
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_a_stream_keeps_to_itself_has_not_left_until_it_could_flush() {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut stream = Keeping::default();
        let mut output = Output::starting_with(b"end of a message".to_vec());

        assert!(output.poll_write(&mut stream, &mut context).is_ready());
        assert!(output.poll_flush(&mut stream, &mut context).is_pending());
        assert!(output.is_empty() && !output.has_left());

        stream.may_flush = true;
        assert!(output.poll_flush(&mut stream, &mut context).is_ready());
        assert!(output.has_left());
        assert_eq!(stream.sent, b"end of a message");
    }
}
