//! `POST /v2/settle/{token}`: a receiver of webhooks settles a message that it took with 202.
//!
//! Nobody shows who they are: the token is signed by this server, names one message and has an end.

use std::pin::Pin;
use std::time::SystemTime;

use delivery::{Decision, SettleError, Settler, Unsettled};
use hyper::StatusCode;
use hyper::header::HeaderMap;
use model::Ticket;

use super::answer::{self, Answer};
use super::body::Unread;
use super::service::Service;
use crate::door::zaqar::operation::Done;
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::route::Variables;

impl Service {
    /// Settles a message. 204 leaves when that is durable.
    pub(super) fn settle<'a>(
        &'a self,
        variables: &'a Variables<'a>,
        headers: &'a HeaderMap,
        mut body: Unread,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        // Boxed: most requests are others, and have room for this one, too.
        Box::pin(async move {
            let settled = match self.try_settle(variables, headers, &mut body).await {
                Ok(ticket) => self.operations.durable(Done { answer: (), ticket }).await,
                Err(problem) => Err(problem),
            };
            match settled {
                Ok(()) => answer::empty(StatusCode::NO_CONTENT),
                Err(problem) => answer::problem(&problem),
            }
        })
    }

    async fn try_settle(
        &self,
        variables: &Variables<'_>,
        headers: &HeaderMap,
        body: &mut Unread,
    ) -> Result<Ticket, Problem> {
        let settler = self.operations.settler();
        let token = variables.name.as_deref().unwrap_or_default();
        let (unsettled, decision) = match asked(settler, token, headers) {
            Ok(asked) => asked,
            Err(problem) => {
                body.drain().await;
                return Err(problem);
            }
        };
        let bytes_max = settler.answer_bytes_max();
        let too_large = || {
            let text = format!("An answer must be at most {bytes_max} bytes.");
            Problem::new(413, "413 Payload Too Large", text)
        };
        let body = body.read_any(bytes_max as u64, too_large).await?;
        settler.settle(unsettled, decision.with_body(headers, body)).await.map_err(refused)
    }
}

fn asked(
    settler: &Settler,
    token: &str,
    headers: &HeaderMap,
) -> Result<(Unsettled, Decision), Problem> {
    let unsettled = settler.open(token).map_err(refused)?;
    let decision = Decision::of(headers, SystemTime::now()).ok_or_else(|| {
        Problem::invalid("The header posthouse-settle must be ack, retry, dead or drop.")
    })?;
    Ok((unsettled, decision))
}

fn refused(error: SettleError) -> Problem {
    match error {
        SettleError::Unknown => {
            Problem::not_found("There is no message to be settled at this address.")
        }
        SettleError::Late => {
            Problem::new(410, "Too late", "The time to settle the message is over.")
        }
        SettleError::Gone => Problem::new(
            410,
            "Settled already",
            "The message was settled or given up before, or its subscription has ended.",
        ),
        SettleError::Unavailable => Problem::unavailable("The message could not be settled."),
    }
}
