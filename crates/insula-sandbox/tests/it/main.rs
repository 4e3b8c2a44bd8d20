//! Real sandboxes on this machine: what an app can do, what it cannot, and what is left behind.
//!
//! The launcher is the test binary itself: a constructor answers the hidden argument before the test
//! harness starts, as `main` does in the platform's binary.
#![allow(unsafe_code)]

mod attack;
mod bed;
mod launch;
mod limit;
mod log;
mod network;
mod remains;
mod service;
mod user;

/// Runs before `main`, like every function in this section.
// SAFETY: the section holds pointers to C functions, and this is one; it touches nothing that is
// set up later. On glibc the arguments are known by then: Rust's own entry in this section has a
// higher priority.
#[used]
#[unsafe(link_section = ".init_array")]
static DISPATCH: extern "C" fn() = {
    extern "C" fn dispatch() {
        if insula_sandbox::dispatch_hidden().is_some() {
            std::process::exit(0);
        }
    }
    dispatch
};
