//! `insula invitations`: how people become members.

use insula_model::Email;
use insula_model::tenancy::Role;
use insula_wire::rest::auth::AcceptInvitation;
use insula_wire::rest::member::{CreateInvitation, Invitation, InvitationCreated, Member};
use insula_wire::rest::page::Hidden;

use super::password::{PASSWORD_CHARS_MIN, chosen};
use super::{done, login};
use crate::client::Target;
use crate::context::Cx;
use crate::failure::{Failure, Outcome};
use crate::show::{Table, units};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List invitations that were not accepted yet (what `insula invitations` alone does)
    List,
    /// Invite a person; the secret to hand to them goes to stdout, once
    Create {
        /// E-mail address of the person
        email: Email,
        /// viewer, developer, admin or owner; one's own at most
        #[arg(long, default_value = "developer")]
        role: Role,
    },
    /// Withdraw an invitation
    Delete {
        /// E-mail address or id
        invitation: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Accept an invitation: asks for its secret and a password, and signs in
    Accept,
}

impl Args {
    /// Whoever accepts is not a member yet.
    pub fn is_for_strangers(&self) -> bool {
        matches!(self.verb, Some(Verb::Accept))
    }
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => {
            cx.require_sign_in()?;
            let all: Vec<Invitation> = cx.client().all(&cx.org(&["invitations"])).await?;
            cx.terminal.list(&all, "no open invitations", |all| {
                let now = units::now();
                let mut table = Table::new(&["EMAIL", "ROLE", "AGE", "EXPIRES", "ID"]);
                for one in all {
                    table.row([
                        one.email.to_string(),
                        one.role.clone(),
                        units::age(one.created, now),
                        one.expires.to_string(),
                        one.id.to_string(),
                    ]);
                }
                table
            })
        }
        Verb::Create { email, role } => {
            cx.require_sign_in()?;
            let body = CreateInvitation { email, role };
            let made: InvitationCreated =
                cx.client().post(&cx.org(&["invitations"]), &body).await?;
            cx.terminal.say(&format!(
                "hand this secret to {}; it is not shown again and ends at {}\n\
                 they type: insula invitations accept --server {}",
                made.invitation.email,
                made.invitation.expires,
                cx.client().server()
            ));
            cx.terminal.answer(&made, |_| format!("{}\n", made.secret.0))
        }
        Verb::Delete { invitation, yes } => {
            cx.require_sign_in()?;
            let all: Vec<Invitation> = cx.client().all(&cx.org(&["invitations"])).await?;
            let is = |one: &Invitation| {
                one.id.to_string() == invitation || one.email.to_string() == invitation
            };
            let found = all.into_iter().find(is).ok_or_else(|| {
                Failure::not_found(format!("nobody is invited as `{invitation}`"))
                    .hint("insula invitations")
            })?;
            cx.terminal
                .confirm(&format!("this withdraws the invitation of {}", found.email), yes)?;
            cx.client().delete(&cx.org(&["invitations", &found.id.to_string()])).await?;
            done(cx, &format!("withdrew the invitation of {}", found.email))
        }
        Verb::Accept => accept(cx).await,
    }
}

async fn accept(cx: &Cx) -> Outcome {
    let secret = cx.terminal.ask("secret of the invitation: ", true)?;
    let question = format!(
        "password (a new one of {PASSWORD_CHARS_MIN} characters or more, or yours if you have one): "
    );
    let password = chosen(&question, cx.terminal.can_ask(), |what| cx.terminal.ask(what, true))?;
    let body = AcceptInvitation {
        secret: Hidden(secret.trim().to_owned()),
        password: Hidden(password.clone()),
    };
    let member: Member = cx.client().post(&Target::v1(&["invitations", "accept"]), &body).await?;
    let orgs =
        login::sign_in(cx.client(), &cx.global, member.email.clone(), Hidden(password)).await?;
    cx.terminal.say(&format!("signed in to {}", cx.client().server()));
    login::tell_orgs(&cx.terminal, &orgs);
    cx.terminal.answer(&member, |_| format!("{} is {} now\n", member.email, member.role))
}
