//! The file server that runs inside a sandbox as the app of a static component.

use std::process::ExitCode;

pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
