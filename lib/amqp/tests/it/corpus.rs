//! Replays what fuzzing has found worth keeping.
