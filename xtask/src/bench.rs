//! `cargo xtask bench`: its arguments and its run.

/// What can be asked of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the command to its end.
///
/// # Errors
///
/// Whatever made it fail.
pub(crate) fn run(_args: &Args) -> anyhow::Result<()> {
    anyhow::bail!("`cargo xtask bench` is not in this build")
}
