//! Notifications of the queues that a connection subscribed to.
//!
//! Each subscription is a hidden queue that follows the one subscribed to, with a consumer whose outbox is the
//! connection's. A subscription without a name ends with its connection. One with a durable name stays and collects; who
//! subscribes under the name again gets what it missed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use broker::{ConsumeOptions, Credit, Outbox, Outgoing};
use bytes::Bytes;
use delivery::Filter;
use model::{Sequence, Timestamp};
use store::Leased;
use tokio::io::{AsyncRead, AsyncWrite};
use uuid::Uuid;

use super::Shared;
use super::attachment::{AckedBy, Attachment};
use super::envelope::Codec;
use super::frames::{Frames, Lost};
use super::show;
use crate::door::zaqar::operation::Following;

/// Most deliveries of a durable subscription that are not acknowledged.
const UNACKED_MAX: u32 = 256;

/// Most subscriptions of one connection.
pub(super) const SUBSCRIPTIONS_MAX: usize = 1000;

/// The subscriptions of a connection; next to nothing where there are none.
#[derive(Debug, Default)]
pub(super) struct Push {
    /// What the connection is called in lists of subscriptions; made when it is first asked for.
    name: Option<Uuid>,
    inner: Option<Box<Inner>>,
    /// Subscriptions whose answers have not left yet, with the number of the answer; nothing is pushed before it.
    starting: VecDeque<(u64, Starting)>,
}

/// What has not begun begins, to be ended with the rest.
impl Drop for Push {
    fn drop(&mut self) {
        self.answered(u64::MAX);
    }
}

/// A subscription that is about to be served.
#[derive(Debug)]
pub(super) struct Starting {
    pub(super) following: Following,
    pub(super) acked_by: AckedBy,
    /// What is not wanted is not sent.
    pub(super) filter: Option<Filter>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    /// Of the last subscription that was made.
    codec: Codec,
    /// By the number of the consumer.
    attached: HashMap<u64, Own>,
    taken: VecDeque<Outgoing>,
    scratch: Vec<Outgoing>,
    /// Number of the last ping that was sent behind deliveries.
    barrier: u64,
}

#[derive(Debug)]
struct Own {
    attachment: Arc<Attachment>,
    /// When a durable subscription begins its time anew, as long as its connection lives.
    renew_at: Timestamp,
}

impl Push {
    /// What the connection is called.
    pub(super) fn name(&mut self) -> Uuid {
        *self.name.get_or_insert_with(Uuid::new_v4)
    }

    /// How many subscriptions the connection has.
    pub(super) fn count(&self) -> usize {
        self.starting.len() + self.inner.as_ref().map_or(0, |inner| inner.attached.len())
    }

    /// Whether the connection serves this subscription, or is about to.
    pub(super) fn has(&self, id: model::SubscriptionId) -> bool {
        self.starting.iter().any(|(_, starting)| starting.following.subscription.id == id)
            || self.attachment(id).is_some()
    }

    /// The subscription of this connection that is called `id`.
    pub(super) fn attachment(&self, id: model::SubscriptionId) -> Option<&Arc<Attachment>> {
        let mut all = self.inner.as_ref()?.attached.values().map(|own| &own.attachment);
        all.find(|attachment| attachment.subscription.id == id)
    }

    /// Serves a subscription once the answer of this number has left; notifications come in `codec` from then on.
    pub(super) fn start_behind(
        &mut self,
        answer: u64,
        starting: Starting,
        codec: Codec,
        shared: &Arc<Shared>,
    ) {
        let inner = self.inner.get_or_insert_with(|| {
            Box::new(Inner {
                shared: Arc::clone(shared),
                outbox: Arc::default(),
                codec,
                attached: HashMap::new(),
                taken: VecDeque::new(),
                scratch: Vec::new(),
                barrier: 0,
            })
        });
        inner.codec = codec;
        self.starting.push_back((answer, starting));
    }

    /// Answers up to this number have left.
    pub(super) fn answered(&mut self, answer: u64) {
        while let Some((_, starting)) = self.starting.pop_front_if(|(number, _)| *number <= answer)
        {
            if let Some(inner) = &mut self.inner {
                inner.start(starting);
            }
        }
    }

    /// Ready when there is something to send.
    pub(super) fn poll_ready(&mut self, context: &Context<'_>) -> Poll<()> {
        match &mut self.inner {
            Some(inner) => inner.poll_ready(context),
            None => Poll::Pending,
        }
    }

    /// Whether something was taken and not sent.
    pub(super) fn is_waiting(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| !inner.taken.is_empty())
    }

    /// Gathers what came for the peer.
    ///
    /// # Errors
    ///
    /// If the peer is lost; what was not sent goes back when this is dropped.
    pub(super) async fn send<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        frames: &mut Frames<S>,
    ) -> Result<(), Lost> {
        match &mut self.inner {
            Some(inner) => inner.send(frames).await,
            None => Ok(()),
        }
    }

    /// The peer has answered a ping.
    pub(super) fn pong(&self, bytes: &[u8]) {
        let Some(inner) = &self.inner else { return };
        let Ok(barrier) = bytes.try_into().map(u64::from_be_bytes) else { return };
        let now = inner.shared.now();
        for own in inner.attached.values() {
            own.attachment.arrived(barrier, now);
        }
    }

    /// Lets durable subscriptions begin their time anew, if half of it has gone.
    pub(super) fn renew(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.renew();
        }
    }
}

impl Inner {
    fn start(&mut self, starting: Starting) {
        let Starting { following, acked_by, filter } = starting;
        let (shared, now) = (&self.shared, self.shared.now());
        let (access, subscription) = (following.access, following.subscription);
        let durable = subscription.is_durable();
        if durable {
            shared.attachments.take_over(subscription.id, now);
        }
        let options = ConsumeOptions {
            tag: "".into(),
            channel: 0,
            no_ack: acked_by == AckedBy::Nobody,
            exclusive: false,
            priority: 0,
            prefetch: UNACKED_MAX,
            stream_offset: None,
            timeout_ms: None,
        };
        let consumer = access.consume_subscription(
            &subscription,
            options,
            &self.outbox,
            Arc::new(Credit::default()),
            now,
        );
        let consumer = match consumer {
            Ok(consumer) => consumer,
            // Ended since it was made.
            Err(error) => return tracing::debug!(%error, "a subscription cannot be served"),
        };
        let renew_at = renewal(&subscription, now);
        let own = Arc::clone(&consumer);
        let attachment = Attachment::new(access, subscription, acked_by, own, filter);
        let attachment = Arc::new(attachment);
        if durable {
            shared.attachments.put(&attachment, now);
        }
        self.attached.insert(consumer.id, Own { attachment: Arc::clone(&attachment), renew_at });
        attachment.access().dispatch(&consumer.queue, now);
    }

    fn poll_ready(&mut self, context: &Context<'_>) -> Poll<()> {
        self.outbox.poll_take(context, &mut self.scratch);
        self.taken.extend(self.scratch.drain(..));
        if self.taken.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }

    async fn send<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        frames: &mut Frames<S>,
    ) -> Result<(), Lost> {
        if self.taken.is_empty() {
            return Ok(());
        }
        let barrier = self.barrier + 1;
        let (mut bytes, mut waits_for_pong) = (0, false);
        let (mut refused, mut unwanted) = (Vec::new(), Unwanted::default());
        while let Some(outgoing) = self.taken.pop_front() {
            let (consumer, mut leased) = match outgoing {
                Outgoing::Deliver { consumer, leased } => (consumer, leased),
                Outgoing::Cancelled { consumer } => {
                    self.forget(consumer.id);
                    continue;
                }
            };
            bytes += broker::delivery_bytes(&leased);
            let attached = self.attached.get(&consumer.id).map(|own| &own.attachment);
            if let Some(attachment) = attached {
                self.shared.open(attachment, &mut leased);
                if !attachment.wants(&leased.message) {
                    unwanted.add(attachment, leased.sequence);
                    continue;
                }
            }
            let noted = attached.and_then(|own| Some((own, own.note(&leased, barrier)?)));
            let Some((attachment, noted)) = noted else {
                refused.push(Outgoing::Deliver { consumer, leased });
                continue;
            };
            waits_for_pong |= attachment.acked_by == AckedBy::Pong;
            let default_ttl = self.shared.operations.limits().default_message_ttl;
            let json = show::notification(attachment, &leased, noted, default_ttl);
            let codec = self.codec;
            if let Err(lost) = frames.feed(codec, json).await {
                self.give_back(refused);
                unwanted.skip(self.shared.now());
                return Err(lost);
            }
        }
        self.give_back(refused);
        unwanted.skip(self.shared.now());
        self.outbox.release(bytes);
        if waits_for_pong {
            self.barrier = barrier;
            frames.ping(Bytes::copy_from_slice(&barrier.to_be_bytes())).await?;
        }
        if self.taken.capacity() > 64 {
            self.taken = VecDeque::new();
        }
        if self.outbox.take_congested() {
            let now = self.shared.now();
            for own in self.attached.values() {
                own.attachment.access().dispatch(&own.attachment.consumer.queue, now);
            }
        }
        Ok(())
    }

    /// A subscription has ended.
    fn forget(&mut self, consumer: u64) {
        if let Some(own) = self.attached.remove(&consumer) {
            self.shared.attachments.remove(&own.attachment);
        }
    }

    /// What met no subscription of ours goes back.
    fn give_back(&self, outgoing: Vec<Outgoing>) {
        let now = self.shared.now();
        for outgoing in outgoing {
            let Some(refused) = outgoing.into_refused() else { continue };
            if let broker::Holder::Consumer(consumer) = &refused.holder {
                let access = self.attached.get(&consumer.id).map(|own| &own.attachment);
                if let Some(attachment) =
                    access.or(self.attached.values().map(|own| &own.attachment).next())
                {
                    attachment.release(std::slice::from_ref(&refused), now);
                }
            }
        }
    }

    fn renew(&mut self) {
        let now = self.shared.now();
        for own in self.attached.values_mut().filter(|own| own.renew_at <= now) {
            let attachment = &own.attachment;
            let subscription = Arc::clone(&attachment.subscription);
            own.renew_at = now.after_ms(subscription.ttl_ms / 2);
            let (access, ttl_ms) = (attachment.access().clone(), subscription.ttl_ms);
            let following = Following { access, subscription, is_new: false };
            if let Err(problem) = self.shared.operations.renew_following(&following, ttl_ms, None) {
                tracing::warn!(?problem, "a subscription of a socket cannot be renewed");
            }
        }
    }
}

/// Messages that their subscribers do not want: in runs, as they came.
#[derive(Debug, Default)]
struct Unwanted {
    runs: Vec<(Arc<Attachment>, Vec<Sequence>)>,
}

impl Unwanted {
    fn add(&mut self, attachment: &Arc<Attachment>, sequence: Sequence) {
        match self.runs.last_mut() {
            Some((last, sequences)) if Arc::ptr_eq(last, attachment) => sequences.push(sequence),
            _ => self.runs.push((Arc::clone(attachment), vec![sequence])),
        }
    }

    fn skip(self, now: Timestamp) {
        for (attachment, sequences) in self.runs {
            attachment.skip(&sequences, now);
        }
    }
}

impl Shared {
    /// Has the body of a message in the clear.
    fn open(&self, attachment: &Attachment, leased: &mut Leased) {
        let subscription = &attachment.subscription;
        let (tenant, queue) = (&subscription.tenant, &subscription.queue);
        if let Some(opened) = self.operations.opened_message(tenant, queue, &leased.message) {
            leased.message = opened;
        }
    }
}

/// Also when a fault of ours ends the task in the middle: what the connection held must not stay with it.
impl Drop for Inner {
    fn drop(&mut self) {
        let now = self.shared.now();
        for own in self.attached.values() {
            own.attachment.let_go(now);
        }
        let mut rest: Vec<Outgoing> = self.taken.drain(..).collect();
        rest.append(&mut self.outbox.take_rest());
        self.give_back(rest);
        for own in self.attached.values() {
            let attachment = &own.attachment;
            self.shared.attachments.remove(attachment);
            let subscription = &attachment.subscription;
            if subscription.is_durable() {
                continue;
            }
            let ended = attachment.access().unsubscribe(&subscription.queue, subscription.id, now);
            if let Err(error) = ended {
                tracing::warn!(%error, "a subscription of a socket cannot be ended");
            }
        }
    }
}

fn renewal(subscription: &broker::Subscription, now: Timestamp) -> Timestamp {
    match subscription.is_durable() {
        true => now.after_ms(subscription.ttl_ms / 2),
        // It is over when its time is.
        false => Timestamp::MAX,
    }
}
