//! What a call takes beside time: system calls, processes, memory, bytes written.

use anyhow::Result;
use nix::libc;
use serde::Serialize;
use serde_json::Value;

use super::{
    call::{Attachment, Call},
    cases::{Case, Side},
    world::World,
};
use crate::tracer;

/// Of a call with all that it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Footprint {
    pub(crate) system_calls: u64,
    pub(crate) processes: u64,
    pub(crate) threads: u64,
    pub(crate) page_faults: u64,
    /// The most that one of its processes has at a time, in KiB.
    pub(crate) peak_memory: u64,
    /// The most that one of its processes has of its own, in KiB.
    pub(crate) own_memory: u64,
    /// Into files, pipes and sockets.
    pub(crate) bytes_written: u64,
}

/// ADD and DEL of a case.
pub(crate) fn of(
    world: &World,
    case: &Case,
    side: Side,
    on: &Attachment,
) -> Result<[Footprint; 2]> {
    let (add, answer) = of_call(&world.add(case, side, on, &Value::Null)?)?;
    let (del, _) = of_call(&world.del(case, side, on, &answer)?)?;
    Ok([add, del])
}

/// One call, and its answer.
pub(crate) fn of_call(call: &Call) -> Result<(Footprint, Value)> {
    let mut written = Written(0);
    let (traced, answer) = call.traced(&mut written)?;
    let footprint = Footprint {
        system_calls: traced.calls,
        processes: traced.processes,
        threads: traced.threads,
        page_faults: traced.page_faults,
        peak_memory: traced.peak_memory,
        own_memory: traced.own_memory,
        bytes_written: written.0,
    };
    Ok((footprint, answer))
}

struct Written(u64);

impl tracer::Watch for Written {
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
