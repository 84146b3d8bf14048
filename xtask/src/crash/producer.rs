//! A producer with confirms: persistent messages of many sizes to every kind of queue.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::client::{Broken, Client, Event, Options};
use super::load::Stage;
use super::message_id::MessageId;
use super::plan::{Abilities, DELAY_MS_MAX, Route};
use super::random::Random;

/// Most messages of a producer that wait for their confirm.
const WINDOW: usize = 256;

/// Largest body: two frames of the usual 128 KiB and a bit.
const BODY_BYTES_MAX: u64 = 256 * 1024;

/// Publishes until it is told to stop, then waits for the last confirms.
///
/// # Errors
///
/// See [`Broken`].
pub(crate) fn run(stage: &Stage, mut random: Random) -> Result<(), Broken> {
    let mut client = Client::connect(stage.address)?;
    client.select_confirms()?;
    let producer = stage.history().producer();
    let mut open = Open { first: 1, ids: VecDeque::new() };
    let (mut sequence, mut blocked) = (0, false);
    while stage.producing() {
        let room = WINDOW - open.len();
        if room > 0 && !blocked {
            for _ in 0..random.between(1, 24.min(room as u64)) {
                sequence += 1;
                publish(stage, &mut client, producer, sequence, &mut random, &mut open);
            }
            client.flush()?;
        }
        // A full window waits; a batch of small messages leaves time for others on a small machine.
        let wait = if room == 0 || blocked { 50_000 } else { random.between(50, 2_000) };
        read(stage, &mut client, &mut open, &mut blocked, Duration::from_micros(wait))?;
    }
    let give_up = Instant::now() + Duration::from_secs(20);
    while !open.ids.is_empty() && Instant::now() < give_up {
        read(stage, &mut client, &mut open, &mut blocked, Duration::from_millis(20))?;
    }
    if !open.ids.is_empty() && !blocked {
        stage.history().complain(format!("HUNG: {} messages got no confirm in 20 s", open.len()));
    }
    Ok(())
}

/// Messages without a confirm, by their tags.
#[derive(Debug)]
struct Open {
    /// The tag of the first one.
    first: u64,
    ids: VecDeque<Option<MessageId>>,
}

impl Open {
    fn len(&self) -> usize {
        self.ids.len()
    }

    /// Takes what the tag answers; `None` where it answers nothing that is open.
    fn take(&mut self, tag: u64, multiple: bool) -> Option<Vec<MessageId>> {
        let last = usize::try_from(tag.checked_sub(self.first)?).ok()?;
        let from = if multiple { 0 } else { last };
        let answered = self.ids.get(last).is_some().then(|| {
            self.ids.range_mut(from..=last).filter_map(Option::take).collect::<Vec<_>>()
        })?;
        while self.ids.front().is_some_and(Option::is_none) {
            self.ids.pop_front();
            self.first += 1;
        }
        Some(answered)
    }
}

fn publish(
    stage: &Stage,
    client: &mut Client,
    producer: u64,
    sequence: u64,
    random: &mut Random,
    open: &mut Open,
) {
    let route = route(stage.abilities, random);
    let len = size(random);
    let mut options = Options { mandatory: true, ..Options::default() };
    let mut not_before = None;
    match route {
        Route::Delayed => {
            let delay = random.below(DELAY_MS_MAX);
            options.delay_ms = i32::try_from(delay).ok();
            options.mandatory = false;
            not_before = Some(Instant::now() + Duration::from_millis(delay));
        }
        Route::Queue(11) => options.priority = u8::try_from(random.below(7)).ok(),
        Route::Queue(_) | Route::Fanout => {}
    }
    let mut history = stage.history();
    let id = MessageId::new(history.cycle(), producer, sequence);
    history.publish_start(id, route, len, not_before);
    drop(history);
    let (exchange, key) = route.address();
    client.publish(exchange, key, &id.text(), &id.body(len), options);
    open.ids.push_back(Some(id));
}

fn route(abilities: Abilities, random: &mut Random) -> Route {
    match random.below(14) {
        0..=2 => Route::Queue(0),
        3..=4 => Route::Queue(1),
        5..=6 => Route::Fanout,
        7..=8 => Route::Queue(5),
        9..=10 => Route::Queue(6),
        11 => Route::Queue(8),
        12 if abilities.delays => Route::Delayed,
        _ => Route::Queue(11),
    }
}

/// Mostly small, now and then nothing at all, now and then several frames.
fn size(random: &mut Random) -> usize {
    let len = match random.below(200) {
        0..=9 => 0,
        10..=149 => random.below(1_024),
        150..=195 => random.below(8 * 1_024),
        _ => random.below(BODY_BYTES_MAX + 1),
    };
    usize::try_from(len).unwrap_or(0)
}

/// Reads what has come, for as long as the wait at most.
fn read(
    stage: &Stage,
    client: &mut Client,
    open: &mut Open,
    blocked: &mut bool,
    wait: Duration,
) -> Result<(), Broken> {
    let mut wait = wait;
    while let Some(event) = client.event(wait)? {
        wait = Duration::ZERO;
        match event {
            Event::Confirmed { tag, multiple, positive } => {
                let Some(ids) = open.take(tag, multiple) else {
                    stage
                        .history()
                        .complain(format!("PHANTOM CONFIRM: tag {tag}, which is not open"));
                    continue;
                };
                let mut history = stage.history();
                for id in ids {
                    if positive { history.confirmed(id) } else { history.refused(id) }
                }
            }
            Event::Returned { message_id } => {
                let text = message_id.unwrap_or_default();
                stage
                    .history()
                    .complain(format!("UNROUTABLE: {text} came back, though its queue exists"));
            }
            Event::Blocked(now) => {
                *blocked = now;
                stage.blocked.store(now, Ordering::SeqCst);
                stage.history().note(format_args!("blocked {now}"));
            }
            Event::Delivered(_) | Event::Cancelled => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirms_take_what_they_name_and_nothing_twice() {
        let mut open = Open { first: 1, ids: (1..=5).map(|id| Some(MessageId(id))).collect() };

        assert_eq!(open.take(3, false), Some(vec![MessageId(3)]));
        assert_eq!(open.take(4, true), Some(vec![MessageId(1), MessageId(2), MessageId(4)]));
        assert_eq!(open.take(4, false), None);
        assert_eq!(open.take(6, true), None);
        assert_eq!(open.len(), 1);
    }
}
