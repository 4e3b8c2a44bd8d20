//! `insula restart`: replaces all instances with new ones of the same release, new ones first.

use insula_wire::rest::deployment::Deployment;

use super::deploy;
use crate::context::{Cx, Guess};
use crate::failure::Outcome;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Return once it is asked for, without waiting for its end
    #[arg(long)]
    detach: bool,
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    let app = cx.app(Guess::No).await?;
    let deployment: Deployment = cx.client().act(&cx.of_app(&app, &["restart"])).await?;
    deploy::watch(cx, &app, deployment, args.detach).await
}
