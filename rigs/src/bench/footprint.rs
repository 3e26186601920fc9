//! Resources of a call beside time: system calls, processes, memory, bytes written.

use anyhow::Result;
use nix::libc;
use serde::Serialize;
use serde_json::Value;

use super::call::Call;
use crate::tracer::{self, Usage};

/// Resources of a call with all processes that it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Footprint {
    #[serde(flatten)]
    pub(crate) usage: Usage,
    /// Bytes written to files, pipes and sockets.
    pub(crate) bytes_written: u64,
}

/// Runs a call, and returns its footprint and answer.
pub(crate) fn of_call(call: &Call) -> Result<(Footprint, Value)> {
    let mut written = BytesWritten(0);
    let (traced, answer) = call.traced(&mut written)?;
    Ok((Footprint { usage: traced.usage, bytes_written: written.0 }, answer))
}

struct BytesWritten(u64);

impl tracer::Watch for BytesWritten {
    fn exit(&mut self, call: &tracer::Call, result: i64) {
        const WRITING: [i64; 6] = [
            libc::SYS_write,
            libc::SYS_pwrite64,
            libc::SYS_writev,
            libc::SYS_pwritev,
            libc::SYS_sendto,
            libc::SYS_sendmsg,
        ];
        if WRITING.contains(&call.number) {
            self.0 += u64::try_from(result).unwrap_or_default();
        }
    }
}
