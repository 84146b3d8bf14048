//! Makes what a definitions file says: in the order of dependence, reporting what the broker refuses.
//!
//! Everything that is there already stays; a user or policy of the same name is replaced, as an import in RabbitMQ does.

use broker::{
    BindingRequest, Broker, BrokerError, DeclareExchange, DeclareQueue, PolicyKind,
    TenantDescription, User,
};
use model::permission::{Permissions, TopicPermission};
use model::policy::Policy;
use model::quota::UserLimits;
use model::{QueueType, Ticket, Timestamp};
use std::sync::Arc;

use super::{Definitions, Destination, Report};
use crate::auth::hash_text;

/// Applies definitions; returns the ticket from which on all of it is durable.
pub fn apply(
    broker: &Arc<Broker>,
    definitions: &Definitions,
    report: &mut Report,
    now: Timestamp,
) -> Ticket {
    let mut applied = Applied { broker, report, ticket: Ticket::NONE };
    for tenant in &definitions.tenants {
        let description = TenantDescription {
            text: tenant.description.as_str().into(),
            default_queue_type: tenant.default_queue_type.as_deref().and_then(QueueType::from_word),
        };
        applied
            .note(&format!("vhosts/{}", tenant.name), broker.put_tenant(&tenant.name, description));
        let limits = broker.set_tenant_limits(
            &tenant.name,
            tenant.limits.connections_max,
            tenant.limits.queues_max,
        );
        applied.note(&format!("vhosts/{}/limits", tenant.name), limits);
    }
    applied.users(definitions);
    applied.policies(definitions);
    for exchange in &definitions.exchanges {
        let declare = DeclareExchange {
            name: &exchange.name,
            kind: &exchange.exchange_type,
            durable: exchange.durable,
            auto_delete: exchange.auto_delete,
            internal: exchange.internal,
            arguments: exchange.arguments.clone(),
        };
        let path = format!("exchanges/{}/{}", exchange.tenant, exchange.name);
        applied.note(&path, broker.import_exchange(&exchange.tenant, &declare));
    }
    for queue in &definitions.queues {
        let declare = DeclareQueue {
            name: &queue.name,
            generated: true,
            durable: queue.durable,
            exclusive: false,
            auto_delete: queue.auto_delete,
            arguments: queue.arguments.clone(),
        };
        let path = format!("queues/{}/{}", queue.tenant, queue.name);
        applied.note(&path, broker.import_queue(&queue.tenant, &declare, now));
    }
    for binding in &definitions.bindings {
        let request = BindingRequest {
            source: &binding.source,
            destination: &binding.destination,
            to_queue: binding.destination_type == Destination::Queue,
            routing_key: &binding.routing_key,
            arguments: binding.arguments.clone(),
        };
        let path =
            format!("bindings/{}/{} to {}", binding.tenant, binding.source, binding.destination);
        applied.note(&path, broker.import_binding(&binding.tenant, &request));
    }
    for parameter in &definitions.parameters {
        let value = parameter.value.to_string();
        let kept = broker.put_parameter(
            &parameter.tenant,
            &parameter.component,
            &parameter.name,
            value.as_bytes(),
        );
        applied.note(&format!("parameters/{}/{}", parameter.component, parameter.name), kept);
    }
    applied.ticket
}

struct Applied<'a> {
    broker: &'a Arc<Broker>,
    report: &'a mut Report,
    ticket: Ticket,
}

impl Applied<'_> {
    fn note(&mut self, path: &str, outcome: Result<Ticket, BrokerError>) {
        match outcome {
            Ok(ticket) => self.ticket = self.ticket.max(ticket),
            Err(error) => self.report.add(path, error.to_string()),
        }
    }

    fn users(&mut self, definitions: &Definitions) {
        // A user that is here stays as it is: its password may have changed since the export.
        let new = |user: &&super::User| self.broker.users.get(&user.name).is_none();
        let users: Vec<_> = definitions.users.iter().filter(new).collect();
        for user in users {
            let mut made = User {
                name: user.name.as_str().into(),
                password_hash: Some(hash_text(&user.password).into()),
                tags: user.tags.iter().map(|tag| tag.as_str().into()).collect(),
                limits: UserLimits {
                    max_connections: user.limits.connections_max,
                    max_channels: user.limits.channels_max,
                },
                ..User::default()
            };
            for allowed in
                definitions.permissions.iter().filter(|allowed| allowed.user == user.name)
            {
                match Permissions::new(&allowed.configure, &allowed.write, &allowed.read) {
                    Ok(permissions) => {
                        made.permissions
                            .insert(allowed.tenant.as_str().into(), Arc::new(permissions));
                    }
                    Err(error) => {
                        self.report.add(
                            format!("permissions/{}/{}", allowed.tenant, allowed.user),
                            error.to_string(),
                        );
                    }
                }
            }
            for allowed in
                definitions.topic_permissions.iter().filter(|allowed| allowed.user == user.name)
            {
                match TopicPermission::new(&allowed.exchange, &allowed.write, &allowed.read) {
                    Ok(permission) => {
                        made.topic_permissions
                            .push((allowed.tenant.as_str().into(), Arc::new(permission)));
                    }
                    Err(error) => self.report.add(
                        format!("topic_permissions/{}/{}", allowed.tenant, allowed.user),
                        error.to_string(),
                    ),
                }
            }
            self.note(&format!("users/{}", user.name), self.broker.put_user(made));
        }
    }

    fn policies(&mut self, definitions: &Definitions) {
        for policy in &definitions.policies {
            let path = format!("policies/{}/{}", policy.tenant, policy.name);
            let kind = if policy.operator { PolicyKind::Operator } else { PolicyKind::Ordinary };
            match Policy::new(
                &policy.name,
                &policy.pattern,
                policy.priority,
                &policy.apply_to,
                &policy.definition,
            ) {
                Ok((made, unknown)) => {
                    for key in unknown {
                        self.report
                            .add(format!("{path}/definition/{key}"), "not understood, ignored");
                    }
                    self.note(&path, self.broker.put_policy(&policy.tenant, kind, made));
                }
                Err(error) => self.report.add(path, error.to_string()),
            }
        }
    }
}
