//! An attempt begins: what the message becomes, and the task that sends it.

use std::sync::Arc;

use broker::Subscription;
use bytes::Bytes;
use hyper::header::HeaderValue;
use model::Timestamp;
use store::Leased;

use super::{Runner, Started};
use crate::attempt::{Attempt, Outcome};
use crate::letter::{Letter, LetterError, ttl_ms};
use crate::limit::Standing;
use crate::options::Form;
use crate::plan::Plan;
use crate::request::{OwnRequest, Terms};
use crate::settle::{ACK_URL, SETTLE_PATH, Unsettled};

/// What is known of an attempt before its message is written.
struct Facts {
    number: u32,
    /// Milliseconds.
    time_left: Option<u64>,
    answer_bytes_max: usize,
    /// Where the message may be settled later, and until when.
    ack: Option<(String, Timestamp)>,
}

impl Runner {
    pub(super) fn start(
        &mut self,
        subscription: &Arc<Subscription>,
        leased: Leased,
        letter: Letter,
        plan: Arc<Plan>,
        now: Timestamp,
    ) {
        let follower = subscription.follower().id;
        let (id, number) = (message_id(follower.0, leased.sequence.0), leased.delivery_count + 1);
        let time_left = ttl_ms(&leased.message)
            .map(|ttl_ms| leased.enqueued.after_ms(ttl_ms).since(now).as_millis())
            .map(|left| u64::try_from(left).unwrap_or(u64::MAX));
        let facts = Facts {
            number,
            time_left,
            answer_bytes_max: self.limits.answer_bytes_max,
            ack: self.ack_url(subscription, &leased, &plan, now),
        };
        let may_wait = facts.ack.is_some();
        let outputs = Arc::clone(&self.outputs);
        let standing = match self.known.get_mut(&subscription.id) {
            Some(known) => {
                known.endpoint.begin();
                known.endpoint.standing()
            }
            None => Standing::Unproven,
        };
        let place = self.places.take(standing, leased.message.body_len());
        let task = self.running.spawn(async move {
            let (payload, request) = match written(&letter, &plan, &facts) {
                Ok(written) => written,
                Err(error) => return Outcome::Hopeless(error.to_string()),
            };
            drop(letter);
            let attempt = Attempt { id, number, timestamp: now.0 / 1000, payload, request };
            outputs.send(&plan.target, &attempt).await
        });
        if may_wait {
            self.waiting.begin(subscription.id);
        }
        let leased = Some(leased);
        let started = Started { subscription: Arc::clone(subscription), leased, may_wait, place };
        self.started.insert(task.id(), started);
    }

    /// Where a message may be settled later, counted from now.
    fn ack_url(
        &self,
        subscription: &Subscription,
        leased: &Leased,
        plan: &Plan,
        now: Timestamp,
    ) -> Option<(String, Timestamp)> {
        let within = u64::try_from(plan.settle_within()?.as_millis()).ok()?;
        let (base, secret) = (self.defaults.settle_url.as_ref()?, self.defaults.secrets.first()?);
        let (id, sequence, until) = (subscription.id, leased.sequence, now.after_ms(within));
        let token = Unsettled { subscription: id, sequence, until }.token(subscription, secret);
        Some((format!("{base}{SETTLE_PATH}{token}"), until))
    }
}

/// What a message becomes for its subscriber.
fn written(
    letter: &Letter,
    plan: &Plan,
    facts: &Facts,
) -> Result<(Bytes, Option<Box<OwnRequest>>), LetterError> {
    let form = match &plan.form {
        Form::Request(form) if !letter.is_told() => form,
        Form::Notification | Form::Request(_) => {
            return Ok((letter.payload(plan.post_data.as_deref())?, None));
        }
    };
    let path = form.path.as_ref();
    let (payload, mut request) = letter.request(path, facts.number, facts.time_left)?;
    let is_wanted = form.answers && letter.is_asked();
    request.terms =
        Terms { answer_bytes_max: is_wanted.then_some(facts.answer_bytes_max), settle_until: None };
    if let Some((url, until)) = &facts.ack
        && let Ok(url) = HeaderValue::from_str(url)
    {
        request.headers.insert(ACK_URL, url);
        request.terms.settle_until = Some(*until);
    }
    Ok((payload, Some(Box::new(request))))
}

/// `msg_`, and 24 hexadecimal digits of the follower and the place in it: the same for all attempts.
fn message_id(follower: u64, sequence: u64) -> String {
    format!("msg_{:08x}{sequence:016x}", follower & u64::from(u32::MAX))
}
