//! Behaviour of the real program, one file per thing a user sees.
