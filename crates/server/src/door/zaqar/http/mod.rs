//! The queue service over HTTP/1.1.
//!
//! | file | concept |
//! |---|---|
//! | [`listener`] | the listeners; their connections are those of [`crate::http`] |
//! | `service` | a request's way: the checks in their order, then the operation |
//! | `body` | bodies as Zaqar takes them |
//! | `answer` | responses |
//! | `handle`, `subscription`, `pool` | from paths, queries and bodies to operations |
//! | `settle` | settling a message of a webhook later, which needs no admission |
//! | `write`, `checksum` | their answers as JSON |
//! | `home`, `openapi` | what there is, for programs |

mod answer;
mod body;
mod checksum;
mod handle;
mod home;
pub mod listener;
pub mod openapi;
mod pool;
mod service;
mod settle;
mod subscription;
mod write;
