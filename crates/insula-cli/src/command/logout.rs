//! `insula logout`: ends a session on the server, and forgets it here.

use crate::Global;
use crate::client::{Body, Server, Target};
use crate::context::{self, Local};
use crate::credentials;
use crate::failure::{Exit, Outcome};
use crate::settings::{self, Settings};
use crate::show::Terminal;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Of every server that is remembered
    #[arg(long)]
    all: bool,
}

pub async fn run(args: Args, global: Global, terminal: Terminal) -> Outcome {
    let local = Local::read(&global, std::path::Path::new("."))?;
    let mut saved = local.saved.clone();
    let servers: Vec<Server> = if args.all {
        saved.servers.keys().filter_map(|server| server.parse().ok()).collect()
    } else {
        vec![settings::server_to_sign_in(local.sources(&global))?]
    };
    for server in servers {
        let Some(sign_in) = saved.of(&server).cloned() else {
            terminal.say(&format!("not signed in to {server}"));
            continue;
        };
        let place = settings::place(&global, &local.project, None);
        let settings = Settings { server: server.clone(), token: Some(sign_in.token), place };
        let client = context::client(&settings, &global, terminal.err_is_terminal())?;
        // A token of an org is no session: it lives until it is revoked. And a server that is gone
        // must not keep anybody from forgetting it.
        let ended =
            client.change(http::Method::POST, &Target::v1(&["sign-out"]), Body::Empty).await;
        saved.remove(&server);
        credentials::store(local.config.as_deref(), &saved)?;
        match ended {
            Ok(()) => terminal.say(&format!("signed out of {server}")),
            Err(error) => {
                terminal.say(&format!("forgot {server}; there was no session to end: {error}"))
            }
        }
    }
    if terminal.json {
        // A program that reads an answer finds one.
        terminal.print_json(&serde_json::json!({}))?;
    }
    Ok(Exit::OK)
}
