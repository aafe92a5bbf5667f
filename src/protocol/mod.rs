//! The ground floor: packets and frames, their limits, the handshake, and the checks of all that a
//! peer sends. No socket, clock or task is touched here.
//!
//! ```text
//! Frame ──► Batch ──► (socket) ──► FrameReader ──► Assembler ──► pb::Packet
//!            │  large frames go in parts    parts are put together  ▲
//!            └─────────────────────────────────────────────────────┘
//! ```

mod batch;
mod fault;
mod frame;
pub(crate) mod handshake;
mod hot;
mod method;
mod part;
mod run;

pub(crate) use self::{
    batch::Batch,
    frame::{Frame, FrameReader, PART},
    method::{MethodMap, method_table},
    part::Assembler,
    run::Queue,
};

/// Generated from `proto/`.
#[expect(unreachable_pub, reason = "generated code")]
pub(crate) mod pb {
    include!(concat!(env!("OUT_DIR"), "/cluster.v1.rs"));
}

/// The version of the protocol that this crate speaks.
pub(crate) const VERSION: u32 = 1;
