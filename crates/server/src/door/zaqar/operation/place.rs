//! A queue or topic as a request finds it: the tenant's access, the queue, and what its metadata mean.

use std::borrow::Cow;
use std::sync::{Arc, PoisonError};

use broker::{Access, BrokerError, Kind, Queue};
use model::Ticket;

use super::{Done, Operations};
use crate::auth::Caller;
use crate::door::zaqar::identity::{Family, is_name};
use crate::door::zaqar::metadata::{Metadata, Rules};
use crate::door::zaqar::problem::Problem;

/// Most projects whose access is remembered; beyond them all are forgotten and found again.
const PROJECTS_REMEMBERED: usize = 4096;

/// What stands before a topic's name where the engine knows it: topics and queues do not share their names.
pub(crate) const TOPIC_PREFIX: &str = "topic:";

/// The name under which the engine has a queue or topic.
pub(super) fn engine_name(family: Family, name: &str) -> Cow<'_, str> {
    match family {
        Family::Queues => Cow::Borrowed(name),
        Family::Topics => Cow::Owned(format!("{TOPIC_PREFIX}{name}")),
    }
}

/// The family of a queue of the engine, and its name there.
pub(super) fn family_of(queue: &str) -> (Family, &str) {
    match queue.strip_prefix(TOPIC_PREFIX) {
        Some(name) => (Family::Topics, name),
        None => (Family::Queues, queue),
    }
}

/// The name that clients of this door know, if it is of this family and can be said in their paths.
pub(super) fn shown_name(family: Family, queue: &Queue) -> Option<&str> {
    let name = match family {
        Family::Queues => &*queue.name,
        Family::Topics => queue.name.strip_prefix(TOPIC_PREFIX)?,
    };
    let is_own = name.starts_with("amq.posthouse.");
    (is_name(name) && !is_own).then_some(name)
}

/// The text before the names of a family; a page of them begins behind it.
pub(super) fn prefix(family: Family) -> &'static str {
    match family {
        Family::Queues => "",
        Family::Topics => TOPIC_PREFIX,
    }
}

/// A queue or topic as a request finds it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(super) access: Access,
    pub(super) queue: Arc<Queue>,
    pub(crate) rules: Arc<Rules>,
}

impl Place {
    /// The lowest 32 bits of the queue's identity, which are in the ids of its messages.
    pub(crate) fn id(&self) -> u32 {
        u32::try_from(self.queue.id.0 & u64::from(u32::MAX)).unwrap_or(0)
    }

    /// The name that the engine's verbs take.
    pub(super) fn name(&self) -> &str {
        &self.queue.name
    }
}

impl Operations {
    /// A queue that is there, or none.
    ///
    /// # Errors
    ///
    /// 503.
    pub(crate) fn place(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
    ) -> Result<Option<Place>, Problem> {
        let Some(access) = self.access(&caller.project)? else { return Ok(None) };
        let found = access.tenant().queue(&engine_name(family, name));
        Ok(found.map(|queue| self.place_of(access, queue)))
    }

    /// A queue, made with its project if it is not there; true if it was.
    ///
    /// # Errors
    ///
    /// 403 if there are as many queues or projects as there may be, 503.
    pub(crate) fn place_or_new(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
    ) -> Result<Done<(Place, bool)>, Problem> {
        self.place_or_new_of_flavor(caller, family, name, None)
    }

    /// As [`Operations::place_or_new`]; if it is made, it lives in a pool of the flavor.
    ///
    /// # Errors
    ///
    /// As there, and 400 if there is no such flavor.
    pub(super) fn place_or_new_of_flavor(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
        flavor: Option<&str>,
    ) -> Result<Done<(Place, bool)>, Problem> {
        let refused =
            |error: &BrokerError| Problem::from_broker(error, "Queue could not be created.");
        let access = match self.access(&caller.project)? {
            Some(access) => access,
            None => self
                .broker
                .enter_service_or_create(&caller.project, self.limits.projects_max)
                .map_err(|error| refused(&error))?,
        };
        let name = engine_name(family, name);
        if let Some(queue) = access.tenant().queue(&name) {
            return Ok(Done {
                answer: (self.place_of(access, queue), false),
                ticket: Ticket::NONE,
            });
        }
        let ensured = access.ensure_queue_of_flavor(&name, flavor, self.now());
        let (queue, made, ticket) = ensured.map_err(|error| match (&error, flavor) {
            (BrokerError::NotFound { kind: Kind::Flavor, .. }, Some(flavor)) => {
                Problem::invalid(format!("Flavor {flavor} does not exist"))
            }
            _ => refused(&error),
        })?;
        Ok(Done { answer: (self.place_of(access, queue), made), ticket })
    }

    /// The access to a project that there is.
    pub(super) fn access(&self, project: &str) -> Result<Option<Access>, Problem> {
        let projects = self.projects.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(access) = projects.get(project).filter(|access| access.is_valid()) {
            return Ok(Some(access.clone()));
        }
        drop(projects);
        let access = match self.broker.enter_service(project) {
            Ok(access) => access,
            Err(BrokerError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(Problem::from_broker(&error, "Project cannot be entered.")),
        };
        let mut projects = self.projects.write().unwrap_or_else(PoisonError::into_inner);
        if projects.len() >= PROJECTS_REMEMBERED {
            projects.clear();
        }
        projects.insert(project.into(), access.clone());
        Ok(Some(access))
    }

    fn place_of(&self, access: Access, queue: Arc<Queue>) -> Place {
        let rules = match queue.metadata() {
            Some(metadata) => {
                metadata.parsed(|json| Rules::of(&Metadata::from_json(json), &self.limits))
            }
            None => Arc::clone(&self.plain),
        };
        Place { access, queue, rules }
    }
}
