//! `insula password`: another password; all sessions end.

use http::Method;
use insula_wire::rest::auth::ChangePassword;
use insula_wire::rest::page::Hidden;

use super::done;
use crate::client::{Body, Target};
use crate::context::Cx;
use crate::failure::{Failure, Outcome};

/// As servers ask for; one that asks for more says so.
pub const PASSWORD_CHARS_MIN: usize = 12;

#[derive(Debug, clap::Args)]
pub struct Args {}

pub async fn run(_args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    let current = cx.terminal.ask("current password: ", true)?;
    let question = format!("new password ({PASSWORD_CHARS_MIN} characters or more): ");
    let new = chosen(&question, cx.terminal.can_ask(), |what| cx.terminal.ask(what, true))?;
    let body = ChangePassword { current: Hidden(current), new: Hidden(new) };
    cx.client().change(Method::PUT, &Target::v1(&["password"]), Body::json(&body)).await?;
    done(cx, "the password is changed and every session has ended; sign in again: insula login")
}

/// A password that somebody makes up: typed twice where it cannot be seen, since a slip locks out.
pub fn chosen(
    question: &str,
    twice: bool,
    mut ask: impl FnMut(&str) -> Result<String, Failure>,
) -> Result<String, Failure> {
    let password = ask(question)?;
    if twice && ask("once more: ")? != password {
        return Err(Failure::usage("the two differ; nothing was changed"));
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(lines: &[&str], twice: bool) -> (Result<String, Failure>, Vec<String>) {
        let mut lines = lines.iter();
        let mut asked = Vec::new();
        let password = chosen("password: ", twice, |what| {
            asked.push(what.to_owned());
            Ok(lines.next().copied().unwrap_or_default().to_owned())
        });
        (password, asked)
    }

    #[test]
    fn a_slip_of_the_fingers_is_not_a_password() {
        let (password, asked) = typed(&["correct horse", "correct horse"], true);
        assert_eq!((password, asked.len()), (Ok("correct horse".into()), 2));
        let (password, _) = typed(&["correct horse", "correct hrose"], true);
        assert_eq!(password.unwrap_err().exit.0, 2);
    }

    #[test]
    fn a_program_gives_it_once() {
        let (password, asked) = typed(&["correct horse", "of the next question"], false);
        assert_eq!((password, asked), (Ok("correct horse".into()), vec!["password: ".to_owned()]));
    }
}
