//! What every HTTP listener shares: connections, bodies, answers. What is answered is the doors' own.
//!
//! | file | concept |
//! |---|---|
//! | `connections` | accepted, bounded, served, ended |
//! | `patience` | a peer that takes nothing of what is sent |
//! | `body` | reading bodies, bounded before they are believed |
//! | `answer` | a status, a few headers, a body that is whole |

pub(crate) mod answer;
mod body;
mod connections;
mod patience;

pub(crate) use answer::Answer;
pub(crate) use body::{BodyError, BodyMemory, Unread};
pub(crate) use connections::{Bounds, Connections, Peer, Secured};
