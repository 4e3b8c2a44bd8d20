//! `insula password`: another password; all sessions end.

use http::Method;
use insula_wire::rest::auth::ChangePassword;
use insula_wire::rest::page::Hidden;

use super::done;
use crate::client::{Body, Target};
use crate::context::Cx;
use crate::failure::{Failure, Outcome};

#[derive(Debug, clap::Args)]
pub struct Args {}

pub async fn run(_args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    let current = cx.terminal.ask("current password: ", true)?;
    let new = cx.terminal.ask("new password: ", true)?;
    if cx.terminal.can_ask() && cx.terminal.ask("once more: ", true)? != new {
        return Err(Failure::usage("the two differ; nothing was changed"));
    }
    let body = ChangePassword { current: Hidden(current), new: Hidden(new) };
    cx.client().change(Method::PUT, &Target::v1(&["password"]), Body::json(&body)).await?;
    done(cx, "the password is changed and every session has ended; sign in again: insula login")
}
