//! The doors: each translates between its wire and the engine, and does nothing else. No door knows another.

pub mod amqp;
pub mod inbox;
pub mod zaqar;
