//! The tests are in `it/` and `compat/`.
