//! What the tests need from the machine, and how it gets there.
