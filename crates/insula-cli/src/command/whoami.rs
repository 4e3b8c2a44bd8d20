//! `insula whoami`: whom the credential stands for.

use insula_wire::rest::auth::Whoami;

use crate::client::Target;
use crate::context::Cx;
use crate::failure::Outcome;
use crate::show::paint::Paint;
use crate::show::{clean, pairs};

#[derive(Debug, clap::Args)]
pub struct Args {}

pub async fn run(_args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    let whoami: Whoami = cx.client().get(&Target::v1(&["whoami"])).await?;
    let server = cx.client().server().to_string();
    cx.terminal.answer(&whoami, |paint| show(&whoami, server, paint))
}

fn show(whoami: &Whoami, server: String, paint: Paint) -> String {
    let who = match (&whoami.email, whoami.operator) {
        (Some(email), _) => email.to_string(),
        (None, true) => "the operator".into(),
        (None, false) => clean::line(&whoami.actor).into_owned(),
    };
    let mut lines = vec![("server", server), ("signed in as", who)];
    for org in &whoami.orgs {
        lines.push(("org", format!("{} ({})", org.name, clean::line(&org.role))));
    }
    if let Some(expires) = whoami.expires {
        lines.push(("until", expires.to_string()));
    }
    pairs(&lines, paint)
}
