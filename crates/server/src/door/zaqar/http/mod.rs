//! The queue service over HTTP/1.1.
//!
//! | file | concept |
//! |---|---|
//! | [`listener`] | connections: accepted, bounded, served, ended |
//! | `service` | a request's way: the checks in their order, then the operation |
//! | `body` | reading bodies, bounded before they are believed |
//! | `answer` | responses |
//! | `handle`, `subscription`, `pool` | from paths, queries and bodies to operations |
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
mod subscription;
mod write;
