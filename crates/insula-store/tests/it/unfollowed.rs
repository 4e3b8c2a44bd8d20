//! What the feed does not tell: people and their credentials, configuration, who may join and who
//! did, leases and answers that are kept. One step of it, by the same dice as `history`, and what
//! all its readers say.
//!
//! A shared database goes by its own clock, so a lease is held for longer than any test or has run
//! out by then, and when it ends is not part of an answer; nor is when a server was seen.

use insula_model::app::{ConfigScope, Secret, Variable};
use insula_model::fleet::{Gateway, Join, JoinGrant, Member, Serial, Server};
use insula_model::node::Site;
use insula_model::tenancy::{Actor, Invitation, Member as OrgMember, Role, TokenScope};
use insula_model::{
    GatewayId, InvitationId, JoinId, Millis, OrgId, ProjectId, ServerId, Timestamp, VariableName,
};
use insula_store::authority::{self, Authority};
use insula_store::data_keys::{self, DataKey, KeyId};
use insula_store::idempotency::{self, Request};
use insula_store::secrets::{self, Sealed};
use insula_store::{
    StoreError, Tx, WriteError, blobs, enrolments, gateways, invitations, joins, leases, members,
    nodes, servers, sweep, tokens, users, variables, whereabouts,
};

use crate::both::pages;
use crate::fleet::Refusal;
use crate::history::Dice;
use crate::model::{at, digest, hash, host, node, node_id, token, token_id, user, user_id};
use crate::world::World;

/// Few enough that steps meet each other's rows, and are refused.
const EACH: usize = 6;
/// Longer than any test.
const LONG: Millis = Millis::secs(3_600);
const OVER: Millis = Millis(0);
/// Longer than between the clock of these tests and that of the machine.
const AGES: Millis = Millis::secs(100 * 365 * 24 * 3_600);
/// How long certificates work.
const LIFETIME: i64 = 40;
/// In another order by the rules of a language than by their bytes.
const NAMES: [&str; 4] = ["A_B", "AB", "A1", "Z"];
const VALUES: [&str; 4] = ["", "two\nlines", "it's \"quoted\" \\ $1 ?1", "größer 🏝"];
const ROLES: [Role; 4] = [Role::Viewer, Role::Developer, Role::Admin, Role::Owner];

pub type Said = Result<String, Refusal>;
pub type Step = Box<dyn Fn(&mut Tx) -> Said + Send>;

/// In words, whatever its type.
fn step<T: std::fmt::Debug, E: Into<Refusal>>(
    change: impl Fn(&mut Tx) -> Result<T, E> + Send + 'static,
) -> Step {
    Box::new(move |tx| change(tx).map(|said| format!("{said:?}")).map_err(Into::into))
}

/// One mutation. What it is about may be there or not.
pub fn any(world: &World, dice: &mut Dice, n: u32) -> Step {
    match dice.roll(12) {
        0 | 1 => of_users(dice, n),
        2 => of_members(world, dice, n),
        3 => of_tokens(world, dice, n),
        4 => of_invitations(world, dice, n),
        5 => of_variables(world, dice, n),
        6 => of_secrets(world, dice, n),
        7 => of_data_keys(world, dice, n),
        8 => of_joins(dice, n),
        9 => of_enrolments(dice, n),
        10 => of_leases(dice, n),
        _ => of_the_rest(dice, n),
    }
}

fn one(dice: &mut Dice) -> u32 {
    1 + dice.roll(EACH) as u32
}

fn now(n: u32) -> Timestamp {
    at(n.into())
}

/// One of the orgs; now and then one that is not there.
fn org(world: &World, dice: &mut Dice) -> OrgId {
    let known = world.orgs.keys().nth(dice.roll(EACH));
    known.copied().unwrap_or_else(|| OrgId::from_u128(7))
}

/// Of an app, its environment or its project, with the org; else of nothing that is there.
fn scope(world: &World, dice: &mut Dice) -> (OrgId, ConfigScope) {
    let kind = dice.roll(4);
    match world.apps.values().nth(dice.roll(EACH)) {
        Some(app) if kind == 0 => (app.org, ConfigScope::App(app.id)),
        Some(app) if kind == 1 => (app.org, ConfigScope::Environment(app.environment)),
        Some(app) if kind == 2 => (app.org, ConfigScope::Project(app.project)),
        _ => (org(world, dice), ConfigScope::Project(ProjectId::from_u128(7))),
    }
}

fn name(dice: &mut Dice) -> VariableName {
    NAMES[dice.roll(NAMES.len())].parse().unwrap()
}

fn of_users(dice: &mut Dice, n: u32) -> Step {
    let (one, other) = (one(dice), one(dice));
    let hash = users::PasswordHash(format!("hash of {n}"));
    match dice.roll(6) {
        0..=2 => step(move |tx| {
            let email = format!("PERSON{other}@example.org").parse().unwrap();
            let made = insula_model::tenancy::User { email, ..user(one) };
            users::create(tx, &made, Some(&hash).filter(|_| n.is_multiple_of(2)))
        }),
        3 => step(move |tx| users::set_password(tx, user_id(one), &hash)),
        4 => step(move |tx| users::set_operator(tx, user_id(one), n.is_multiple_of(2))),
        _ => step(move |tx| users::delete(tx, user_id(one))),
    }
}

fn of_members(world: &World, dice: &mut Dice, n: u32) -> Step {
    let (org, user, role) = (org(world, dice), user(one(dice)), ROLES[dice.roll(ROLES.len())]);
    match dice.roll(5) {
        0..=2 => step(move |tx| {
            let email = user.email.clone();
            members::add(tx, &OrgMember { org, user: user.id, email, role, since: now(n) })
        }),
        3 => step(move |tx| members::set_role(tx, org, user.id, role)),
        _ => step(move |tx| members::remove(tx, org, user.id)),
    }
}

fn of_tokens(world: &World, dice: &mut Dice, n: u32) -> Step {
    let (org, user, which) = (org(world, dice), user_id(one(dice)), one(dice));
    let scope = match dice.roll(3) {
        0 => TokenScope::Session { user },
        1 => TokenScope::Org { org, role: Role::Developer },
        _ => TokenScope::Operator,
    };
    let (id, kind) = (token_id(which), dice.roll(6));
    match kind {
        0..=2 => step(move |tx| {
            let expires = n.is_multiple_of(3).then(|| now(n + 20));
            let made = insula_model::tenancy::Token { expires, ..token(which, scope.clone()) };
            tokens::insert(tx, &made, &hash(which as u8))
        }),
        3 => step(move |tx| tokens::touch(tx, id, now(n))),
        4 => step(move |tx| tokens::revoke(tx, org, id)),
        _ if which.is_multiple_of(2) => step(move |tx| tokens::revoke_session(tx, user, id)),
        _ => step(move |tx| tokens::revoke_operator(tx, id)),
    }
}

fn of_invitations(world: &World, dice: &mut Dice, n: u32) -> Step {
    let (org, user, which) = (org(world, dice), one(dice), one(dice));
    let id = InvitationId::from_u128(which.into());
    match dice.roll(5) {
        0..=2 => step(move |tx| {
            let invitation = Invitation {
                id,
                org,
                email: format!("guest{which}@example.org").parse().unwrap(),
                role: ROLES[which as usize % ROLES.len()],
                invited_by: Actor::User(user_id(user)),
                created: now(n),
                expires: now(n + 30),
            };
            invitations::create(tx, &invitation, &hash(which as u8))
        }),
        3 => step(move |tx| invitations::accept(tx, &hash(which as u8), user_id(user), now(n))),
        _ => step(move |tx| invitations::revoke(tx, org, id)),
    }
}

fn of_variables(world: &World, dice: &mut Dice, n: u32) -> Step {
    let ((org, scope), name) = (scope(world, dice), name(dice));
    let value = VALUES[dice.roll(VALUES.len())].to_owned();
    let variable = Variable { org, scope, name, value, updated: now(n) };
    match dice.roll(4) {
        0..=2 => step(move |tx| variables::set(tx, &variable)),
        _ => step(move |tx| variables::unset(tx, org, scope, &variable.name)),
    }
}

fn of_secrets(world: &World, dice: &mut Dice, n: u32) -> Step {
    let ((org, scope), name) = (scope(world, dice), name(dice));
    let skip = u32::from(dice.roll(5) == 0);
    let value = move |key| Sealed { key, blob: vec![0, n as u8, 255] };
    match dice.roll(5) {
        0..=3 => step(move |tx| -> Result<_, WriteError> {
            // As the vault does: the first value makes the first key.
            if data_keys::current(tx, org)?.is_none() {
                let wrapped = vec![n as u8; 3];
                data_keys::insert(tx, &DataKey { org, id: KeyId(1), wrapped, created: now(n) })?;
            }
            let version = secrets::next_version(tx, org, scope, &name)? + skip;
            let secret = Secret { org, scope, name: name.clone(), version, updated: now(n) };
            let current = data_keys::current(tx, org)?.map_or(KeyId(9), |key| key.id);
            secrets::set(tx, &secret, &value(current))
        }),
        _ => step(move |tx| secrets::unset(tx, org, scope, &name)),
    }
}

/// A rotation, whole or in parts.
fn of_data_keys(world: &World, dice: &mut Dice, n: u32) -> Step {
    let org = org(world, dice);
    let key = KeyId(dice.roll(4) as u32);
    match dice.roll(4) {
        0 => step(move |tx| {
            let made = DataKey { org, id: key, wrapped: vec![n as u8], created: now(n) };
            data_keys::insert(tx, &made)
        }),
        1 => step(move |tx| data_keys::rewrap(tx, org, key, &[])),
        2 => step(move |tx| -> Result<_, WriteError> {
            let left = secrets::not_under_key(tx, org, key, 2)?;
            for sealed in &left {
                secrets::reseal(tx, &sealed.secret, &Sealed { key, blob: vec![n as u8] })?;
            }
            Ok(left)
        }),
        _ => step(move |tx| data_keys::delete(tx, org, key)),
    }
}

fn member(dice: &mut Dice) -> Member {
    let which = u128::from(one(dice));
    match dice.roll(5) {
        0 => Member::Server(ServerId::from_u128(which)),
        1 | 2 => Member::Gateway(GatewayId::from_u128(1_000 + which)),
        // Not one of those that `history` removes.
        _ => Member::Node(node_id(1_000 + which as u32)),
    }
}

fn of_joins(dice: &mut Dice, n: u32) -> Step {
    let (which, member) = (one(dice), member(dice));
    let id = JoinId::from_u128(which.into());
    match dice.roll(6) {
        0 | 1 => step(move |tx| {
            let grants = match which % 3 {
                0 => JoinGrant::Gateway,
                1 => JoinGrant::Node { name: None, site: Site::default() },
                _ => {
                    let site = Site { zone: "north".parse().ok(), ..Site::default() };
                    JoinGrant::Node { name: "alpha".parse().ok(), site }
                }
            };
            let join = Join { id, grants, created: now(n), expires: now(n + 30), used: None };
            joins::create(tx, &join, &hash(which as u8))
        }),
        2..=4 => step(move |tx| -> Result<_, Refusal> {
            // As a server lets somebody in: all of it or nothing.
            let join = joins::redeem(tx, &hash(which as u8), member, now(n))?;
            let live_since = at(i64::from(n) - LIFETIME);
            let serial = enrolments::enrol(tx, member, now(n), live_since)?;
            match member {
                Member::Node(id) => {
                    nodes::hello(tx, &insula_model::node::Node { id, ..node(which) })?;
                }
                Member::Gateway(id) => {
                    let version = "0.2.0".to_owned();
                    gateways::hello(tx, &Gateway { id, version, joined: now(n), hello: now(n) })?;
                }
                Member::Server(_) => {}
            }
            Ok((join, serial))
        }),
        _ => step(move |tx| joins::delete(tx, id)),
    }
}

fn of_enrolments(dice: &mut Dice, n: u32) -> Step {
    let (member, serial) = (member(dice), Serial(dice.roll(4) as u64));
    match dice.roll(6) {
        0 => step(move |tx| enrolments::enrol(tx, member, now(n), at(i64::from(n) - LIFETIME))),
        1 => step(move |tx| enrolments::issue(tx, member, now(n))),
        2 | 3 => step(move |tx| enrolments::renew(tx, member, now(n))),
        4 => step(move |tx| enrolments::note_used(tx, member, serial)),
        _ if n.is_multiple_of(3) => step(move |tx| enrolments::revoke(tx, member, now(n))),
        _ => step(move |tx| enrolments::check(tx, member, serial)),
    }
}

fn of_leases(dice: &mut Dice, n: u32) -> Step {
    let lease = ["control", "backup"][dice.roll(2)];
    let holder = ServerId::from_u128(dice.roll(3) as u128);
    let (ttl, epoch) = (if dice.roll(2) == 0 { LONG } else { OVER }, 1 + dice.roll(4) as u64);
    match dice.roll(5) {
        0 | 1 => step(move |tx| -> Result<_, StoreError> {
            let taken = leases::acquire(tx, lease, holder, now(n), ttl)?;
            Ok(taken.map(|taken| (taken.holder, taken.epoch)))
        }),
        2 => step(move |tx| -> Result<_, StoreError> {
            let kept = leases::renew(tx, lease, holder, epoch, now(n), ttl)?;
            Ok(kept.map(|kept| (kept.holder, kept.epoch)))
        }),
        3 => step(move |tx| leases::check(tx, lease, holder, epoch)),
        _ => step(move |tx| leases::release(tx, lease, holder, epoch)),
    }
}

/// Servers, answers that are kept, the authority, and what is forgotten in time.
fn of_the_rest(dice: &mut Dice, n: u32) -> Step {
    let (which, other) = (one(dice), one(dice));
    match dice.roll(8) {
        0 | 1 => step(move |tx| {
            let id = ServerId::from_u128(which.into());
            let fleet = n.is_multiple_of(2).then(|| "[2001:db8::1]:7443".parse().unwrap());
            servers::say_here(tx, &Server { id, fleet, version: format!("0.{n}"), seen: now(n) })
        }),
        2 => step(move |tx| servers::forget(tx, ServerId::from_u128(which.into()))),
        // One whose clock is wrong forgets either nobody or all.
        3 => step(move |tx| {
            servers::forget_old(tx, at(if n.is_multiple_of(5) { 1 << 50 } else { 0 }))
        }),
        4 | 5 => step(move |tx| -> Result<_, StoreError> {
            let request = Request {
                caller: format!("user {}", which % 3),
                key: format!("key {}", which % 2),
                route: "POST /v1/orgs".to_owned(),
                body: digest(other % 2),
            };
            let begun = idempotency::begin(tx, &request, now(n))?;
            if begun == idempotency::Begin::New {
                idempotency::finish(tx, &request, 201, &[0, 255, n as u8], now(n))?;
            }
            Ok(begun)
        }),
        6 => step(move |tx| {
            let certificate = vec![which as u8];
            let sealed_key = vec![n as u8];
            authority::put_once(tx, &Authority { certificate, sealed_key, created: now(n) })
        }),
        _ if n.is_multiple_of(2) => {
            step(move |tx| authority::reseal(tx, &[which as u8], &[n as u8, 1]))
        }
        _ => step(move |tx| sweep::all(tx, now(n))),
    }
}

/// What every reader says, in words.
pub fn everything(world: &World, n: u32, tx: &Tx) -> Result<Vec<String>, StoreError> {
    let mut said = Vec::new();
    macro_rules! say {
        ($what:expr) => {
            said.push(format!("{}: {:?}", stringify!($what), $what))
        };
    }
    say!(pages(|page| users::list(tx, page))?);
    say!(pages(|page| tokens::list_operator(tx, page))?);
    say!(pages(|page| joins::list(tx, page))?);
    say!(enrolments::list(tx)?);
    say!(gateways::list(tx)?);
    // When they were seen is the database's to say.
    let seen = |of: Vec<Server>| -> Vec<_> {
        of.into_iter().map(|server| (server.id, server.fleet, server.version)).collect()
    };
    say!(seen(servers::list(tx)?));
    say!(seen(servers::fresh(tx, now(n), AGES)?));
    let of_authority = authority::get(tx)?;
    say!(of_authority.map(|it| (it.certificate, it.sealed_key, it.created)));
    for lease in ["control", "backup", "nothing"] {
        say!(leases::get(tx, lease)?.map(|lease| (lease.holder, lease.epoch)));
    }
    for which in 1..=EACH as u32 {
        let secret = hash(which as u8);
        say!(users::get(tx, user_id(which))?);
        say!(users::by_email(tx, &user(which).email)?);
        say!(users::password_hash(tx, user_id(which))?.map(|hash| hash.0));
        say!(members::of_user(tx, user_id(which))?);
        say!(tokens::find(tx, &secret, now(n))?);
        say!(invitations::find(tx, &secret, now(n))?);
        say!(joins::find(tx, &secret)?);
    }
    for key in data_keys::list_any_org(tx)? {
        say!((key.org, key.id, &key.wrapped, key.created));
        say!(data_keys::current(tx, key.org)?.map(|key| key.id));
        say!(secrets::not_under_key(tx, key.org, key.id, 3)?);
    }
    for org in world.orgs.keys().copied().chain([OrgId::from_u128(7)]) {
        say!(pages(|page| members::list(tx, org, page))?);
        say!(pages(|page| tokens::list(tx, org, page))?);
        say!(pages(|page| invitations::list(tx, org, page))?);
        say!(blobs::disk(tx, org)?);
        say!(blobs::referenced(tx, org, None, 100)?);
    }
    for domain in world.domains.values() {
        say!(insula_store::domains::by_host(tx, domain.org, &domain.host)?);
    }
    say!(insula_store::domains::by_host(tx, OrgId::from_u128(7), &host("shop1.example.org"))?);
    for app in world.apps.values() {
        say!(whereabouts::of_app(tx, app.org, app.id)?);
        say!(variables::of_app(tx, app)?);
        say!(secrets::values_of_app(tx, app)?.len());
        let scopes = [
            ConfigScope::Project(app.project),
            ConfigScope::Environment(app.environment),
            ConfigScope::App(app.id),
        ];
        for scope in scopes {
            say!(variables::list(tx, app.org, scope)?);
            for sealed in secrets::values_sealed(tx, app.org, scope)? {
                say!((&sealed.secret, sealed.value.key, &sealed.value.blob));
            }
        }
    }
    Ok(said)
}
