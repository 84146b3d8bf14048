//! Durable queues that come and go: what was answered must be so after a crash.

use std::net::SocketAddr;
use std::time::Duration;

use super::client::{Broken, Client, Event, Options};
use super::history::History;
use super::load::Stage;
use super::random::Random;

/// Most queues that are kept at a time.
const QUEUES_MAX: usize = 30;

/// The exchange they are bound to, each by its own name.
const EXCHANGE: &str = "rig.topology";

fn name(number: u64) -> String {
    format!("rig.topology.{number}")
}

/// Declares, binds and deletes until it is told to stop.
///
/// # Errors
///
/// See [`Broken`].
pub(crate) fn run(stage: &Stage, mut random: Random) -> Result<(), Broken> {
    let mut client = Client::connect(stage.address)?;
    while stage.producing() {
        let (kept, next) = {
            let history = stage.history();
            let kept: Vec<u64> = history
                .topology
                .iter()
                .filter(|(_, state)| **state == Some(true))
                .map(|(number, _)| *number)
                .collect();
            let next =
                history.topology.last_key_value().map_or(history.cycle() << 20, |last| last.0 + 1);
            (kept, next)
        };
        let victim = usize::try_from(random.below(kept.len() as u64)).unwrap_or(0);
        let (number, now) = match kept.get(victim) {
            Some(number) if kept.len() >= QUEUES_MAX || random.one_in(3) => (*number, false),
            Some(_) | None => (next, true),
        };
        stage.history().topology.insert(number, None);
        if now {
            client.declare(&name(number), false, &[])?;
            client.bind(&name(number), EXCHANGE, &name(number))?;
        } else {
            client.delete(&name(number))?;
        }
        let mut history = stage.history();
        history.topology.insert(number, Some(now));
        history.note(format_args!("topology {number} {now}"));
        drop(history);
        client.event(Duration::from_micros(random.below(3_000)))?;
    }
    Ok(())
}

/// Complains of every queue or binding that is not as it was answered.
///
/// # Errors
///
/// See [`Broken`].
pub(crate) fn check(address: SocketAddr, history: &mut History) -> Result<(), Broken> {
    let mut client = Client::connect(address)?;
    client.select_confirms()?;
    let known: Vec<_> = history.topology.iter().map(|(number, state)| (*number, *state)).collect();
    for (number, state) in known {
        let is_there = match client.declare(&name(number), true, &[]) {
            Ok(_) => true,
            Err(Broken::Closed { code: 404, .. }) => {
                client.reopen()?;
                client.select_confirms()?;
                false
            }
            Err(other) => return Err(other),
        };
        match state {
            Some(true) if !is_there => {
                history
                    .complain(format!("LOST: queue {}, whose declare was answered", name(number)));
            }
            Some(false) if is_there => {
                history.complain(format!(
                    "RESURRECTED: queue {}, whose delete was answered",
                    name(number)
                ));
            }
            Some(true) if !is_bound(&mut client, &name(number))? => {
                history.complain(format!("LOST: binding of {}, which was answered", name(number)));
            }
            Some(_) | None => {}
        }
        if state.is_none() {
            // Whatever it was, from now on it is known.
            client.delete(&name(number))?;
        }
        if state != Some(true) || !is_there {
            history.topology.remove(&number);
        }
    }
    Ok(())
}

fn is_bound(client: &mut Client, key: &str) -> Result<bool, Broken> {
    let options = Options { mandatory: true, ..Options::default() };
    client.publish(EXCHANGE, key, "probe", b"", options);
    let mut returned = false;
    loop {
        match client.event(Duration::from_secs(10))? {
            Some(Event::Returned { .. }) => returned = true,
            Some(Event::Confirmed { .. }) => return Ok(!returned),
            Some(_) => {}
            None => return Err(Broken::Silent("confirm of a mandatory message")),
        }
    }
}

/// Deletes everything that is left, at the end of a cycle.
///
/// # Errors
///
/// See [`Broken`].
pub(crate) fn clear(client: &mut Client, history: &History) -> Result<(), Broken> {
    for number in history.topology.keys() {
        client.delete(&name(*number))?;
    }
    Ok(())
}
