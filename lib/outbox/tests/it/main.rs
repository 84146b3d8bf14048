//! Outbox and inbox on real databases, which the tests start themselves.
//!
//! What holds for every database is written once, as a function over [`server::Server`], and run on each of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a panic is how a test says what went wrong"
)]

mod amqp;
mod broken_commit;
mod clocks;
mod conflicts;
mod conformance;
mod few_keys;
mod ordering;
mod process;
mod programs;
mod queue_service;
mod rabbitmq;
mod receiving;
mod recorder;
mod relaying;
mod secured;
mod sending;
mod server;
mod server_inbox;
mod settling;
mod traps;
mod turns;
mod underway;

/// Makes a test per database of functions over a [`server::Server`].
macro_rules! on_every_database {
    ($($name:ident),+ $(,)?) => {
        mod postgres {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name::<sqlx::Postgres>().await;
                }
            )+
        }
        mod mysql {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name::<sqlx::MySql>().await;
                }
            )+
        }
        mod sqlite {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name::<sqlx::Sqlite>().await;
                }
            )+
        }
    };
}

pub(crate) use on_every_database;
