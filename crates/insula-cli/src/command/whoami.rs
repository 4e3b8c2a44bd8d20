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
    let who = match (&whoami.email, &whoami.name, whoami.operator) {
        (Some(email), _, _) => email.to_string(),
        (None, Some(token), _) => format!("the token {token} ({})", clean::line(&whoami.actor)),
        (None, None, true) => "the operator".into(),
        (None, None, false) => clean::line(&whoami.actor).into_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As the API answers.
    fn told(whoami: serde_json::Value) -> String {
        let whoami = serde_json::from_value(whoami).unwrap();
        show(&whoami, "https://cloud.example".into(), Paint::PLAIN)
    }

    #[test]
    fn everybody_is_told_by_name() {
        let token = serde_json::json!({
            "actor": "tok_01j8z3k5v7e6n9q2r4t6w8y0ab", "name": "ci", "operator": false, "orgs": [],
        });
        assert!(told(token).contains("the token ci (tok_01j8z3k5v7e6n9q2r4t6w8y0ab)"));
        let person = serde_json::json!({
            "actor": "user_01j8z3k5v7e6n9q2r4t6w8y0ab", "email": "ada@example.com",
            "operator": false, "orgs": [],
        });
        assert!(told(person).contains("signed in as  ada@example.com"));
        let operator = serde_json::json!({"actor": "operator", "operator": true, "orgs": []});
        assert!(told(operator).contains("signed in as  the operator"));
    }
}
