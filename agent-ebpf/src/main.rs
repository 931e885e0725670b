//! The kernel programs: one object, loaded by the agent, one hook family a file under `probes/`.
//!
//! They read, filter, write records and count; every decision is the agent's. Nothing here allocates, waits or
//! changes what the kernel does: programs that could deny an operation always allow it.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(
    clippy::needless_pass_by_value,
    reason = "aya's macros hand contexts over by value"
)]

mod emit;
mod kernel;
mod maps;
mod opaque;
mod probes;
mod settings;
mod share;

use saker_ebpf::wire;

/// The kernel lets only GPL-compatible programs use the tracing helpers; "Dual MIT/GPL" is one of the spellings that
/// it knows, and the nearest to this crate's dual licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// What the loader compares with its own table before it loads anything. A section of its own, so that it can be
/// found without reading symbols.
#[unsafe(link_section = ".rodata.wire")]
#[unsafe(no_mangle)]
static SAKER_WIRE: wire::Table = wire::TABLE;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No program can reach a panic: the verifier refuses the endless loop.
    loop {}
}
