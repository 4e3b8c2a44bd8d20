//! First arguments that people do not type.

use std::process::ExitCode;

use insula_agent::keeper::{self, KeeperConfig};

/// Runs a hidden role, if the first argument names one.
pub fn dispatch() -> Option<ExitCode> {
    if let Some(code) = insula_sandbox::dispatch_hidden() {
        return Some(code);
    }
    match std::env::args().nth(1)?.as_str() {
        "keeper" => Some(keeper()),
        "static-server" => Some(insula_gateway::files::main()),
        "openapi" => Some(openapi()),
        _ => None,
    }
}

/// `keeper --data DIR`: started by the agent, and by nobody at a terminal.
fn keeper() -> ExitCode {
    let mut rest = std::env::args_os().skip(2);
    let (Some(flag), Some(data)) = (rest.next(), rest.next()) else { return usage() };
    if flag != "--data" {
        return usage();
    }
    let config = KeeperConfig { data: data.into(), node_bound: keeper::NODE_BOUND };
    match keeper::run(config) {
        Ok(code) => code,
        Err(error) => {
            let error = anyhow::Error::from(error);
            eprintln!("keeper: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: insula keeper --data DIR");
    ExitCode::from(2)
}

/// Prints the API's description, for `cargo xtask openapi`.
fn openapi() -> ExitCode {
    println!("{:#}", insula_api::openapi());
    ExitCode::SUCCESS
}
