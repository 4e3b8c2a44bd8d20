//! `insula members`: the people of an org and their roles. New ones come by invitation.

use insula_model::tenancy::Role;
use insula_wire::rest::member::{Member, SetRole};

use super::done;
use crate::context::Cx;
use crate::failure::{Failure, Outcome};
use crate::show::{Table, pairs, units};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List members (what `insula members` alone does)
    List,
    /// Show a member
    Show {
        /// E-mail address or id
        member: String,
    },
    /// Give a member another role: viewer, developer, admin or owner
    Role {
        /// E-mail address or id
        member: String,
        /// viewer, developer, admin or owner; one's own at most
        role: Role,
    },
    /// Take a person out of the org
    #[command(visible_alias = "remove")]
    Delete {
        /// E-mail address or id
        member: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => {
            let all: Vec<Member> = cx.client().all(&cx.org(&["members"])).await?;
            let nothing = "no members; invite one: insula invitations create EMAIL";
            cx.terminal.list(&all, nothing, |all| {
                let now = units::now();
                let mut table = Table::new(&["EMAIL", "ROLE", "SINCE", "ID"]);
                for one in all {
                    table.row([
                        one.email.to_string(),
                        one.role.clone(),
                        units::age(one.since, now),
                        one.user.to_string(),
                    ]);
                }
                table
            })
        }
        Verb::Show { member } => {
            let found = find(cx, &member).await?;
            cx.terminal.answer(&found, |paint| {
                let lines = [
                    ("email", found.email.to_string()),
                    ("id", found.user.to_string()),
                    ("role", crate::show::clean::line(&found.role).into_owned()),
                    ("since", found.since.to_string()),
                ];
                pairs(&lines, paint)
            })
        }
        Verb::Role { member, role } => {
            let user = find(cx, &member).await?.user.to_string();
            let target = cx.org(&["members", &user]);
            let set: Member = cx.client().put(&target, &SetRole { role }).await?;
            cx.terminal.answer(&set, |_| format!("{} is {} now\n", set.email, set.role))
        }
        Verb::Delete { member, yes } => {
            let found = find(cx, &member).await?;
            let what = format!("this takes {} out of the org {}", found.email, cx.place.org);
            cx.terminal.confirm(&what, yes)?;
            cx.client().delete(&cx.org(&["members", &found.user.to_string()])).await?;
            done(cx, &format!("{} is no member any more", found.email))
        }
    }
}

async fn find(cx: &Cx, named: &str) -> Result<Member, Failure> {
    let all: Vec<Member> = cx.client().all(&cx.org(&["members"])).await?;
    let is = |one: &Member| {
        one.user.to_string() == named || one.email.to_string().eq_ignore_ascii_case(named)
    };
    all.into_iter().find(is).ok_or_else(|| {
        Failure::not_found(format!("{named} is no member of {}", cx.place.org))
            .hint("insula members")
    })
}
