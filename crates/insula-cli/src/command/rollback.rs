//! `insula rollback`: goes back to an earlier release.

use insula_model::release::ReleaseNumber;
use insula_wire::rest::app::Rollback;
use insula_wire::rest::deployment::Deployment;

use super::{deploy, release_number};
use crate::context::{Cx, Guess};
use crate::failure::Outcome;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// As in v3 [default: what was live before]
    #[arg(value_parser = release_number)]
    release: Option<ReleaseNumber>,
    /// Return once it is asked for, without waiting for its end
    #[arg(long)]
    detach: bool,
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    let app = cx.app(Guess::No).await?;
    let asked = Rollback { number: args.release };
    let deployment: Deployment = cx.client().post(&cx.of_app(&app, &["rollback"]), &asked).await?;
    deploy::watch(cx, &app, deployment, args.detach).await
}
