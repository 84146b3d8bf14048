//! What reads the texts and frames of the queue service's clients, at the place that it has in the server but without the
//! rest of it: instrumented as a whole, the server would run a few inputs per second.

pub mod zaqar;
