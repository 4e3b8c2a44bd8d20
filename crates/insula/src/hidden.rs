//! First arguments that people do not type.

use std::process::ExitCode;

/// Runs a hidden role, if the first argument names one.
pub fn dispatch() -> Option<ExitCode> {
    if let Some(code) = insula_sandbox::dispatch_hidden() {
        return Some(code);
    }
    match std::env::args().nth(1)?.as_str() {
        "keeper" => Some(insula_agent::keeper::main()),
        "static-server" => Some(insula_gateway::files::main()),
        "openapi" => Some(openapi()),
        _ => None,
    }
}

/// Prints the API's description, for `cargo xtask openapi`.
fn openapi() -> ExitCode {
    println!("{:#}", insula_api::openapi());
    ExitCode::SUCCESS
}
