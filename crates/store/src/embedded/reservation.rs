//! Which sequences may be handed out, so that `redelivered` stays truthful across a crash.
//!
//! Logging every delivery would cost a record per message. Instead a *reservation* says "sequences below X may have been
//! delivered"; after a crash all that is unsettled below X is flagged. A durable message may only be handed out if a
//! reservation that covers it cannot be lost while the message survives: it is durable itself, or it lies before the
//! message in the log.

use std::collections::VecDeque;

use model::Ticket;

const WINDOW_MIN: u32 = 1024;

/// At most this many messages are flagged after a crash although they were not delivered.
const WINDOW_MAX: u64 = 16 * 1024;

/// Reservations of one queue.
#[derive(Debug)]
pub(crate) struct Reservation {
    /// Sequences below may be handed out wherever they lie.
    durable: u64,
    pending: VecDeque<Pending>,
    window: u32,
    /// Runs of sequences that must not be handed out before a ticket is durable.
    held: VecDeque<Held>,
}

#[derive(Debug)]
struct Held {
    from: u64,
    to: u64,
    ticket: Ticket,
}

#[derive(Debug)]
struct Pending {
    up_to: u64,
    /// Sequences from here on lie behind this reservation in the log.
    from: u64,
    ticket: Ticket,
}

impl Reservation {
    /// As recovery found it.
    pub(crate) fn new(reserved: u64) -> Self {
        Self {
            durable: reserved,
            pending: VecDeque::new(),
            window: WINDOW_MIN,
            held: VecDeque::new(),
        }
    }

    /// Forgets to wait for what has become durable.
    pub(crate) fn advance(&mut self, durable: Ticket) {
        while let Some(pending) = self.pending.front()
            && pending.ticket <= durable
        {
            self.durable = self.durable.max(pending.up_to);
            self.pending.pop_front();
        }
        while self.held.front().is_some_and(|held| held.ticket <= durable) {
            self.held.pop_front();
        }
    }

    /// Keeps a sequence back until `ticket` is durable.
    pub(crate) fn hold(&mut self, sequence: u64, ticket: Ticket) {
        match self.held.back_mut() {
            Some(last) if last.ticket == ticket && last.to + 1 == sequence => last.to = sequence,
            _ => self.held.push_back(Held { from: sequence, to: sequence, ticket }),
        }
    }

    /// Whether the message may be handed out now.
    pub(crate) fn allows(&self, sequence: u64) -> bool {
        if self.held.iter().any(|held| (held.from..=held.to).contains(&sequence)) {
            return false;
        }
        sequence < self.durable
            || self.pending.iter().any(|it| (it.from..it.up_to).contains(&sequence))
    }

    /// What must be durable before a message may be handed out that may not be now.
    pub(crate) fn awaited_for(&self, sequence: u64) -> Ticket {
        let held = self.held.iter().find(|held| (held.from..=held.to).contains(&sequence));
        let pending = self.pending.iter().find(|pending| sequence < pending.up_to);
        let pending = pending.filter(|_| sequence >= self.durable);
        let tickets = [held.map(|held| held.ticket), pending.map(|pending| pending.ticket)];
        tickets.into_iter().flatten().max().unwrap_or(Ticket::NONE)
    }

    /// End of what is reserved, durable or on its way.
    pub(crate) fn top(&self) -> u64 {
        self.pending.back().map_or(self.durable, |pending| pending.up_to.max(self.durable))
    }

    /// How far the next reservation, for `sequence` and what follows, reaches; more every time.
    pub(crate) fn propose(&mut self, sequence: u64) -> u64 {
        let window = u64::from(self.window);
        self.window = u32::try_from((window * 2).min(WINDOW_MAX)).unwrap_or(self.window);
        sequence.max(self.top()).saturating_add(window)
    }

    /// Whether, with `sequence` handed out, it is time to append the next reservation.
    pub(crate) fn is_half_used(&self, sequence: u64) -> bool {
        self.top().saturating_sub(sequence) < u64::from(self.window) / 4
    }

    /// Tells that a reservation was appended; enqueues from sequence `from` on come behind it in the log.
    pub(crate) fn appended(&mut self, up_to: u64, from: u64, ticket: Ticket) {
        self.pending.push_back(Pending { up_to, from, ticket });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_behind_a_reservation_needs_not_wait_for_it() {
        let mut reservation = Reservation::new(0);
        reservation.appended(100, 10, Ticket(5));

        assert!(!reservation.allows(9) && reservation.allows(10) && !reservation.allows(100));

        reservation.advance(Ticket(5));

        assert!(reservation.allows(9) && reservation.allows(99) && !reservation.allows(100));
    }
}
