//! A request to the kernel that processors do not sleep: PM QoS, `/dev/cpu_dma_latency`.
//!
//! It holds for the whole machine as long as the file is open, so that clients on the same machine wake at once, too.
//! Source: the kernel's documentation, "PM Quality Of Service Interface".

use std::fs::{File, OpenOptions};
use std::io::{self, Write};

const DEVICE: &str = "/dev/cpu_dma_latency";

/// No processor may take longer to wake than this, in microseconds: not at all.
const LATENCY_US: i32 = 0;

/// While this lives, idle processors poll for work instead of sleeping.
#[derive(Debug)]
pub(crate) struct ProcessorsAwake {
    _request: File,
}

impl ProcessorsAwake {
    /// Asks for it.
    ///
    /// # Errors
    ///
    /// If the kernel has no such file, or this process may not write to it (it is root's).
    pub(crate) fn request() -> io::Result<Self> {
        let mut request = OpenOptions::new().write(true).open(DEVICE).map_err(|error| {
            let advice = "start as root, give the user the right to write, or set runtime.processors_awake = false";
            io::Error::new(error.kind(), format!("{DEVICE}: {error}; {advice}"))
        })?;
        request.write_all(&LATENCY_US.to_ne_bytes())?;
        Ok(Self { _request: request })
    }
}
