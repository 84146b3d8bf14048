//! What a topology would change, and how the broker differs from it: asked over AMQP, so that it works with any broker.
//!
//! A passive declaration says whether something is there; a declaration of something that is there says whether it is
//! the same, and changes nothing. Bindings cannot be asked for, and neither can what is there beside the topology: the
//! plan says so.

use std::fmt;

use crate::error::AskError;
use crate::link::Link;
use crate::question::{Answer, Manner, Question};
use crate::topology::{Topology, TopologyError};

/// What is known of one part of a topology.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// It is not there; applying creates it.
    Missing,
    /// It is there as the code says, as far as the broker compares.
    Same {
        /// Ready messages, of a queue.
        messages: Option<u32>,
    },
    /// It is there, otherwise; applying fails. In the broker's words.
    Differs(String),
    /// It cannot be asked over AMQP; applying makes sure of it.
    Unknown,
}

/// A part of a topology and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part {
    /// Which, for people: queue `orders`.
    pub name: String,
    /// How it is.
    pub difference: Difference,
}

/// What applying a topology would do, part by part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    parts: Vec<Part>,
}

impl Plan {
    /// Every part, exchanges first, then queues, then bindings.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// What would be created.
    pub fn missing(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| part.difference == Difference::Missing)
    }

    /// What is otherwise than the code says; while there is something, applying fails.
    pub fn diff(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| matches!(part.difference, Difference::Differs(_)))
    }

    /// Whether applying would create nothing and fail at nothing, as far as can be asked.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.missing().next().is_none() && self.diff().next().is_none()
    }
}

/// `+` is created, `=` is there, `!` differs, `?` cannot be asked.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Part { name, difference } in &self.parts {
            match difference {
                Difference::Missing => writeln!(f, "+ {name}")?,
                Difference::Same { messages: None } => writeln!(f, "= {name}")?,
                Difference::Same { messages: Some(count) } => {
                    writeln!(f, "= {name} ({count} messages ready)")?;
                }
                Difference::Differs(text) => writeln!(f, "! {name}: {text}")?,
                Difference::Unknown => writeln!(f, "? {name}: cannot be asked over AMQP")?,
            }
        }
        Ok(())
    }
}

/// Asks about every part.
pub(crate) async fn look(link: &Link, topology: &Topology) -> Result<Plan, TopologyError> {
    let mut parts = Vec::new();
    for exchange in &topology.exchanges {
        let question = |manner| Question::Exchange(exchange.clone(), manner);
        parts.push(compare(link, question).await?);
    }
    for queue in &topology.queues {
        let question = |manner| Question::Queue(queue.clone(), manner);
        parts.push(compare(link, question).await?);
    }
    for binding in &topology.bindings {
        parts.push(Part { name: binding.to_string(), difference: Difference::Unknown });
    }
    Ok(Plan { parts })
}

async fn compare(
    link: &Link,
    question: impl Fn(Manner) -> Question,
) -> Result<Part, TopologyError> {
    let name = question(Manner::Look).to_string();
    let difference = match link.ask(vec![question(Manner::Look)]).await {
        Ok(_) => match link.ask(vec![question(Manner::Create)]).await {
            Ok(answers) => Difference::Same { messages: ready(&answers) },
            Err(AskError::Refused { text, .. }) => Difference::Differs(text),
            Err(error) => return Err(TopologyError::Ask(error)),
        },
        Err(AskError::Refused { code: 404, .. }) => Difference::Missing,
        Err(AskError::Refused { text, .. }) => Difference::Differs(text),
        Err(error) => return Err(TopologyError::Ask(error)),
    };
    Ok(Part { name, difference })
}

fn ready(answers: &[Answer]) -> Option<u32> {
    match answers.first() {
        Some(Answer::Queue { messages, .. }) => Some(*messages),
        Some(Answer::Done | Answer::Gone(_)) | None => None,
    }
}
