//! Signing in and out, passwords, and accepting an invitation.

use insula_kit::token::Token as TokenText;
use insula_model::limits::PAGE_MAX;
use insula_model::tenancy::{Actor, Token, TokenScope, User};
use insula_model::{Millis, Timestamp, TokenId, UserId};
use insula_store::users::PasswordHash;
use insula_store::{Page, SecretHash, Tx, invitations, members, orgs, tokens, users};
use insula_wire::problem::Code;
use insula_wire::rest::auth::{
    AcceptInvitation, ChangePassword, OrgRole, SignIn, SignedIn, Whoami,
};
use insula_wire::rest::member::Member as WireMember;
use insula_wire::rest::page::Hidden;

use crate::access::{Caller, CallerKind};
use crate::context::{Cx, shown};
use crate::error::ApiError;
use crate::limits::SESSION_DAYS;
use crate::reply::{Reply, Whole};
use crate::route::{Route, Rule, post, put, read};
use crate::write::Happened;

/// What a session's token begins with.
const SESSION_PREFIX: &str = "inss";
const DAY: u64 = 24 * 3_600;

pub fn routes() -> Vec<Route> {
    vec![
        post("/v1/sign-in", "sign_in", Rule::Public, sign_in)
            .about("Signs a person in: the token is shown once")
            .takes::<SignIn>()
            .answers::<SignedIn>(201),
        post("/v1/sign-out", "sign_out", Rule::Person, sign_out)
            .about("Ends this session")
            .answers_nothing(),
        read("/v1/whoami", "whoami", Rule::SignedIn, whoami)
            .about("Who this credential stands for")
            .answers::<Whoami>(200),
        put("/v1/password", "change_password", Rule::Person, change_password)
            .about("Changes the password, and ends all sessions of the person")
            .takes::<ChangePassword>()
            .answers_nothing(),
        post("/v1/invitations/accept", "accept_invitation", Rule::Public, accept)
            .about("Makes whoever holds the secret a member of the org")
            .takes::<AcceptInvitation>()
            .answers::<WireMember>(201),
    ]
}

async fn sign_in(cx: Cx) -> Result<Reply, ApiError> {
    let asked: SignIn = cx.json()?;
    let now_ms = cx.api.state.clock.now_ms();
    let key = asked.email.as_str().to_ascii_lowercase();
    let slow = |seconds: u64| {
        ApiError::new(Code::TooManySignIns, "too many attempts to sign in")
            .hint("wait as long as Retry-After says")
            .retry_after_s(seconds)
    };
    // In this order: who is refused by the first takes nothing from the user's own allowance.
    cx.api.sign_in_addresses.take(cx.names.peer, now_ms).map_err(slow)?;
    cx.api.sign_in_pairs.take((key.clone(), cx.names.peer), now_ms).map_err(slow)?;
    cx.api.sign_in_emails.take(key, now_ms).map_err(slow)?;
    let email = asked.email.clone();
    let known = cx
        .read(move |tx| {
            let Some(user) = users::by_email(tx, &email)? else { return Ok(None) };
            Ok(users::password_hash(tx, user.id)?.map(|hash| (user, hash)))
        })
        .await?;
    let (user, hash) = match known {
        Some((user, hash)) => (Some(user), Some(hash.0)),
        None => (None, None),
    };
    let same = cx.api.passwords.verify(&asked.password.0, hash).await?;
    let Some(user) = user.filter(|_| same) else {
        return Err(ApiError::new(
            Code::SignInFailed,
            "the e-mail address or the password is wrong",
        ));
    };
    let name = "session".parse().map_err(ApiError::internal)?;
    cx.write(move |tx, deed| {
        let text = TokenText::generate(SESSION_PREFIX, &*deed.random);
        let expires = deed.now.plus(Millis::secs(SESSION_DAYS * DAY));
        let token = Token {
            id: deed.id(TokenId::from_parts),
            name: Clone::clone(&name),
            scope: TokenScope::Session { user: user.id },
            created: deed.now,
            expires: Some(expires),
        };
        tokens::insert(tx, &token, &SecretHash(*text.hash().as_bytes()))?;
        let mut deed = deed.clone();
        deed.actor = Actor::User(user.id);
        deed.tell(
            tx,
            Happened {
                kind: "user.signed_in",
                subject: user.id.to_string(),
                message: format!("{} signed in", user.email),
                ..Happened::default()
            },
        )?;
        let secret = Hidden(text.expose().to_owned());
        Whole::created(&SignedIn { token: secret, expires, user: user.id })
    })
    .await
}

async fn sign_out(cx: Cx) -> Result<Reply, ApiError> {
    let (user, token) = person(cx.caller()?)?;
    cx.write(move |tx, deed| {
        tokens::revoke_session(tx, user, token)?;
        deed.tell(
            tx,
            Happened {
                kind: "user.signed_out",
                subject: user.to_string(),
                message: "a session was ended".into(),
                ..Happened::default()
            },
        )?;
        Ok(Whole::nothing())
    })
    .await
}

fn person(caller: &Caller) -> Result<(UserId, TokenId), ApiError> {
    let user = caller.person().ok_or_else(|| ApiError::not_found("user"))?;
    Ok((user, caller.token))
}

async fn whoami(cx: Cx) -> Result<Reply, ApiError> {
    let caller = cx.caller()?.clone();
    let said = cx.read(move |tx| who(tx, &caller)).await?;
    shown(&said)
}

fn who(tx: &Tx, caller: &Caller) -> Result<Whoami, ApiError> {
    let mut said = Whoami {
        actor: caller.actor().to_string(),
        email: None,
        name: None,
        operator: caller.is_operator(),
        orgs: Vec::new(),
        expires: caller.expires,
    };
    match &caller.kind {
        CallerKind::Operator => {
            for org in orgs::list(tx, &Page::first(PAGE_MAX))?.items {
                let role = insula_model::tenancy::Role::Owner;
                said.orgs.push(OrgRole::new(org.id, org.name, role));
            }
        }
        CallerKind::Person { user, email, .. } => {
            said.email = Some(email.clone());
            for member in members::of_user(tx, *user)? {
                if let Some(org) = orgs::get(tx, member.org)? {
                    said.orgs.push(OrgRole::new(org.id, org.name, member.role));
                }
            }
        }
        CallerKind::Machine { org, role } => {
            said.name = tokens::get(tx, *org, caller.token)?.map(|known| known.token.name);
            if let Some(org) = orgs::get(tx, *org)? {
                said.orgs.push(OrgRole::new(org.id, org.name, *role));
            }
        }
    }
    Ok(said)
}

async fn change_password(cx: Cx) -> Result<Reply, ApiError> {
    let asked: ChangePassword = cx.json()?;
    let (user, _) = person(cx.caller()?)?;
    // Whoever holds a stolen session must not be able to guess here without end.
    let pair = (user.to_string(), cx.names.peer);
    cx.api
        .sign_in_pairs
        .take(pair, cx.api.state.clock.now_ms())
        .map_err(|s| ApiError::new(Code::TooManySignIns, "too many attempts").retry_after_s(s))?;
    let stored = cx.read(move |tx| Ok(users::password_hash(tx, user)?)).await?;
    if !cx.api.passwords.verify(&asked.current.0, stored.map(|hash| hash.0)).await? {
        return Err(ApiError::new(Code::SignInFailed, "the current password is wrong"));
    }
    let hash = PasswordHash(cx.api.passwords.hash(&asked.new.0).await?);
    cx.write(move |tx, deed| {
        users::set_password(tx, user, &hash)?;
        deed.tell(
            tx,
            Happened {
                kind: "user.password_changed",
                subject: user.to_string(),
                message: "the password was changed, and all sessions were ended".into(),
                ..Happened::default()
            },
        )?;
        Ok(Whole::nothing())
    })
    .await
}

async fn accept(cx: Cx) -> Result<Reply, ApiError> {
    let asked: AcceptInvitation = cx.json()?;
    cx.api
        .sign_in_addresses
        .take(cx.names.peer, cx.api.state.clock.now_ms())
        .map_err(|s| ApiError::new(Code::TooManySignIns, "too many attempts").retry_after_s(s))?;
    let spent = || {
        ApiError::new(Code::InvitationGone, "the invitation is not valid, or not any more")
            .hint("ask for a new one")
    };
    let text = TokenText::parse(&asked.secret.0).map_err(|_| spent())?;
    let hash = SecretHash(*text.hash().as_bytes());
    let now = cx.now();
    let known = cx
        .read(move |tx| {
            let Some(invitation) = invitations::find(tx, &hash, now)? else { return Ok(None) };
            let Some(user) = users::by_email(tx, &invitation.email)? else { return Ok(None) };
            Ok(Some((user.id, users::password_hash(tx, user.id)?)))
        })
        .await?;
    // Who is a user already shows that with the password; who is not yet, chooses one.
    let new_hash = match known {
        Some((_, Some(stored))) => {
            if !cx.api.passwords.verify(&asked.password.0, Some(stored.0)).await? {
                return Err(ApiError::new(Code::SignInFailed, "the password is wrong")
                    .hint("you are a user here already: give the password that you have"));
            }
            None
        }
        Some((_, None)) | None => {
            Some(PasswordHash(cx.api.passwords.hash(&asked.password.0).await?))
        }
    };
    cx.write(move |tx, deed| {
        let invitation = invitations::find(tx, &hash, deed.now)?.ok_or_else(spent)?;
        let user = match users::by_email(tx, &invitation.email)? {
            Some(user) => {
                let known = users::password_hash(tx, user.id)?.is_some();
                match (&new_hash, known) {
                    (Some(hash), false) => users::set_password(tx, user.id, hash)?,
                    (None, true) => {}
                    // Somebody became a user with this address in between: ask again.
                    (Some(_), true) | (None, false) => {
                        return Err(ApiError::new(Code::Conflict, "something changed; try again"));
                    }
                }
                user
            }
            None => {
                let user = new_user(deed.now, deed.id(UserId::from_parts), &invitation.email);
                let hash = new_hash.as_ref();
                users::create(tx, &user, hash)?;
                user
            }
        };
        let member = invitations::accept(tx, &hash, user.id, deed.now)?;
        let mut deed = deed.clone();
        (deed.actor, deed.org) = (Actor::User(user.id), Some(member.org));
        deed.tell(
            tx,
            Happened {
                kind: "member.added",
                subject: user.id.to_string(),
                message: format!("{} became a member as {}", member.email, member.role),
                after: Some(serde_json::json!({ "role": member.role })),
                ..Happened::default()
            },
        )?;
        Whole::created(&WireMember::from(&member))
    })
    .await
}

fn new_user(now: Timestamp, id: UserId, email: &insula_model::Email) -> User {
    User { id, email: email.clone(), operator: false, created: now }
}
