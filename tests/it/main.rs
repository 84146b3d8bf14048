//! Behaviour of the real program, one file per thing a user sees.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a panic is how a test says what went wrong"
)]

mod alarms;
mod claims_over_http;
mod client_commands;
mod consumers;
mod cross_door;
mod dead_lettering;
mod definitions_import;
mod delayed_messages;
mod delivery_limits;
mod direct_reply;
mod durability;
mod encryption_at_rest;
mod exchanges;
mod floods;
mod full_disk;
mod handshake;
mod http_requests;
mod idempotent_publishing;
mod inbox;
mod inbox_bounds;
mod inbox_tls;
mod messages_over_http;
mod openapi;
mod permissions;
mod pools_over_http;
mod pools_over_websocket;
mod priorities;
mod publisher_confirms;
mod queue_commands;
mod queue_limits;
mod queues;
mod queues_over_http;
mod queues_over_websocket;
mod resource_limits;
mod sealed_deliveries;
mod serve_command;
mod streams;
mod subscriptions_over_http;
mod subscriptions_over_websocket;
mod tenant_isolation;
mod time_to_live;
mod token_command;
mod token_isolation;
mod transactions;
mod webhook_answers;
mod webhook_settling;
mod webhooks;
mod websocket_hostile;
mod websocket_isolation;
mod websocket_login;
mod websocket_notifications;
mod wire_errors;
