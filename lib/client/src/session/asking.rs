//! Questions to the broker, each list on a channel of its own, which a refusal ends.

use std::collections::VecDeque;

use posthouse_amqp::error::ReplyCode;
use posthouse_amqp::method::Method;
use tokio::sync::oneshot;

use super::{Role, Session};
use crate::error::AskError;
use crate::question::{Answer, Manner, Question};
use crate::topology::Topology;

/// Who asked.
#[derive(Debug)]
pub(super) enum Asker {
    Application(oneshot::Sender<Result<Vec<Answer>, AskError>>),
    /// The topology of the last connection is declared again.
    Restore,
}

/// Questions on a channel of their own.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) questions: VecDeque<Question>,
    pub(super) answers: Vec<Answer>,
    pub(super) asker: Option<Asker>,
}

impl Session<'_> {
    pub(super) fn ask(&mut self, questions: Vec<Question>, asker: Asker) {
        let channel = self.free_channel();
        let asking =
            Asking { questions: questions.into(), answers: Vec::new(), asker: Some(asker) };
        self.open_channel(channel, Role::Asking(asking));
    }

    /// Sends the next question of a channel, or closes it.
    pub(super) fn ask_next(&mut self, channel: u16) {
        let Some(Role::Asking(asking)) = self.roles.get_mut(&channel) else { return };
        let Some(question) = asking.questions.front() else {
            let answers = std::mem::take(&mut asking.answers);
            let asker = asking.asker.take();
            self.close_asking(channel);
            self.finish(asker, Ok(answers));
            return;
        };
        if question.encode(channel, &mut self.out).is_err() {
            let error = AskError::Encode(question.to_string());
            let asker = asking.asker.take();
            self.close_asking(channel);
            self.finish(asker, Err(error));
        }
    }

    pub(super) fn close_asking(&mut self, channel: u16) {
        self.roles.insert(channel, Role::Closing);
        self.connection.close_channel(channel, ReplyCode::Success, "bye", (0, 0), &mut self.out);
    }

    pub(super) fn answered(&mut self, channel: u16, method: &Method<'_>) {
        let Some(answer) = Answer::of(method) else { return };
        let Some(Role::Asking(asking)) = self.roles.get_mut(&channel) else { return };
        asking.questions.pop_front();
        asking.answers.push(answer);
        self.ask_next(channel);
    }

    pub(super) fn finish(&mut self, asker: Option<Asker>, outcome: Result<Vec<Answer>, AskError>) {
        match asker {
            // Whoever asked may have given up.
            Some(Asker::Application(answer)) => drop(answer.send(outcome)),
            Some(Asker::Restore) => {
                if let Err(error) = outcome {
                    tracing::error!(%error, "the topology was not restored");
                }
                match self.restored {
                    true => self.start_consumers(),
                    false => self.restore_done(),
                }
            }
            None => {}
        }
    }

    /// The broker closes the connection, because of this method. Whoever asked by it is told so and not only that the
    /// connection is lost: it would be lost again with each attempt.
    pub(super) fn blame(&mut self, method: (u16, u16), code: u16, text: &str) {
        for role in self.roles.values_mut() {
            let Role::Asking(asking) = role else { continue };
            let Some(question) = asking.questions.front().filter(|asked| asked.id() == method)
            else {
                continue;
            };
            let question = question.to_string();
            if let Some(Asker::Application(answer)) = asking.asker.take() {
                drop(answer.send(Err(AskError::Refused { question, code, text: text.to_owned() })));
            }
        }
    }

    pub(super) fn fail_questions(&mut self) {
        for role in std::mem::take(&mut self.roles).into_values() {
            if let Role::Asking(Asking { asker: Some(Asker::Application(answer)), .. }) = role {
                drop(answer.send(Err(AskError::Lost)));
            }
        }
    }
}

/// What declares a topology: exchanges, queues, bindings.
pub(crate) fn questions_of(topology: &Topology) -> Vec<Question> {
    let exchanges = topology.exchanges.iter().cloned();
    let queues = topology.queues.iter().cloned();
    let exchanges = exchanges.map(|exchange| Question::Exchange(exchange, Manner::Create));
    let queues = queues.map(|queue| Question::Queue(queue, Manner::Create));
    exchanges.chain(queues).chain(topology.bindings.iter().cloned().map(Question::Bind)).collect()
}
