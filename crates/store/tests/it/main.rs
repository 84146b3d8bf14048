//! Tests of the store through its contract, on real and on simulated disks.

mod conformance;
mod crashes;
mod world;
