//! A stranger's id is not found: every function that reads or changes a row of an org, with the
//! other org's ids.

use insula_model::OrgId;
use insula_model::app::{ConfigScope, Secret, Variable};
use insula_model::build::BuildState;
use insula_model::deployment::DeploymentState;
use insula_model::instance::{Intent, RunState};
use insula_model::observed::Observed;
use insula_model::tenancy::{Actor, Invitation, Member, Role, TokenScope};
use insula_store::data_keys::{DataKey, KeyId};
use insula_store::secrets::Sealed;
use insula_store::{
    Page, Tx, WriteError, apps, blobs, builds, data_keys, deployments, domains, environments,
    events, instances, invitations, members, projects, quotas, releases, runs, secrets, tokens,
    users, variables,
};

use crate::model::{
    Fixture, Tenant, at, digest, domain, event, hash, host, live, org_id, token, token_id, user,
    user_id,
};

const NAME: &str = "LOG_LEVEL";

fn invitation() -> Invitation {
    Invitation {
        id: insula_model::InvitationId::from_parts(at(1), [1; 10]),
        org: org_id(1),
        email: user(2).email,
        role: Role::Developer,
        invited_by: Actor::User(user_id(1)),
        created: at(0),
        expires: at(1_000),
    }
}

/// Org 1 with one of everything, and org 2 with its own.
fn two_orgs(tx: &mut Tx) -> Result<(), WriteError> {
    let ours = Tenant::of(1);
    ours.deploy(tx)?;
    Tenant::of(2).deploy(tx)?;
    users::create(tx, &user(1), None)?;
    members::add(
        tx,
        &Member {
            org: org_id(1),
            user: user_id(1),
            email: user(1).email,
            role: Role::Owner,
            since: at(0),
        },
    )?;
    invitations::create(tx, &invitation(), &hash(1))?;
    let scope = TokenScope::Org { org: org_id(1), role: Role::Developer };
    tokens::insert(tx, &token(1, scope), &hash(2))?;
    domains::add(tx, &domain(&ours.app, 1, "www.example.org"))?;
    data_keys::insert(
        tx,
        &DataKey { org: org_id(1), id: KeyId(1), wrapped: vec![1], created: at(0) },
    )?;
    let scope = ConfigScope::App(ours.app.id);
    let name: insula_model::VariableName = NAME.parse().unwrap();
    variables::set(
        tx,
        &Variable {
            org: org_id(1),
            scope,
            name: name.clone(),
            value: "info".to_owned(),
            updated: at(0),
        },
    )?;
    secrets::set(
        tx,
        &Secret { org: org_id(1), scope, name, version: 1, updated: at(0) },
        &Sealed { key: KeyId(1), blob: vec![2] },
    )?;
    events::append(tx, &event(Some(org_id(1)), Some(ours.app.id), 1))?;
    Ok(())
}

/// Everything of org 1 that can be read by an id or a name, asked for as `org`.
fn found(tx: &Tx, org: OrgId) -> Result<Vec<(&'static str, bool)>, WriteError> {
    let ours = Tenant::of(1);
    let (app, scope) = (ours.app.id, ConfigScope::App(ours.app.id));
    let name = NAME.parse().unwrap();
    let page = Page::default();
    let www = host("www.example.org");
    let mine = |org: Option<OrgId>| org == Some(org_id(1));
    let mut as_seen = ours.app.clone();
    as_seen.org = org;
    Ok(vec![
        ("projects::get", projects::get(tx, org, ours.project.id)?.is_some()),
        ("projects::by_name", projects::by_name(tx, org, &ours.project.name)?.is_some()),
        ("projects::list", mine(projects::list(tx, org, &page)?.items.first().map(|p| p.org))),
        ("environments::get", environments::get(tx, org, ours.environment.id)?.is_some()),
        (
            "environments::by_name",
            environments::by_name(tx, org, ours.project.id, &ours.environment.name)?.is_some(),
        ),
        (
            "environments::list",
            !environments::list(tx, org, Some(ours.project.id), &page)?.items.is_empty(),
        ),
        ("apps::get", apps::get(tx, org, app)?.is_some()),
        ("apps::by_name", apps::by_name(tx, org, ours.environment.id, &ours.app.name)?.is_some()),
        ("apps::list", {
            let filter =
                apps::Filter { environment: Some(ours.environment.id), ..Default::default() };
            !apps::list(tx, org, &filter, &page)?.items.is_empty()
        }),
        ("domains::get", domains::get(tx, org, crate::model::domain_id(1))?.is_some()),
        ("domains::by_host", domains::by_host(tx, org, &www)?.is_some()),
        ("domains::list", !domains::list(tx, org, Some(app), &page)?.items.is_empty()),
        ("deployments::get", deployments::get(tx, org, ours.deployment.id)?.is_some()),
        ("deployments::list", !deployments::list(tx, org, Some(app), &page)?.items.is_empty()),
        ("deployments::under_way", !deployments::under_way(tx, org, app)?.is_empty()),
        ("deployments::newest_under_way", deployments::newest_under_way(tx, org, app)?.is_some()),
        ("builds::get", builds::get(tx, org, ours.build.id)?.is_some()),
        ("builds::list", !builds::list(tx, org, Some(app), &page)?.items.is_empty()),
        ("releases::get", releases::get(tx, org, ours.release.id)?.is_some()),
        ("releases::by_number", releases::by_number(tx, org, app, ours.release.number)?.is_some()),
        ("releases::list", !releases::list(tx, org, app, &page)?.items.is_empty()),
        ("instances::get", instances::get(tx, org, ours.instance.id)?.is_some()),
        ("instances::list", !instances::list(tx, org, Some(app), &page)?.items.is_empty()),
        ("runs::get", runs::get(tx, org, ours.run.id)?.is_some()),
        ("runs::list", !runs::list(tx, org, Some(app), &page)?.items.is_empty()),
        ("members::get", members::get(tx, org, user_id(1))?.is_some()),
        ("members::list", !members::list(tx, org, &page)?.items.is_empty()),
        ("invitations::get", invitations::get(tx, org, invitation().id)?.is_some()),
        ("invitations::list", !invitations::list(tx, org, &page)?.items.is_empty()),
        ("tokens::get", tokens::get(tx, org, token_id(1))?.is_some()),
        ("tokens::list", !tokens::list(tx, org, &page)?.items.is_empty()),
        ("variables::get", variables::get(tx, org, scope, &name)?.is_some()),
        ("variables::list", !variables::list(tx, org, scope)?.is_empty()),
        ("variables::of_app", !variables::of_app(tx, &as_seen)?.is_empty()),
        ("secrets::get", secrets::get(tx, org, scope, &name)?.is_some()),
        ("secrets::next_version", secrets::next_version(tx, org, scope, &name)? != 1),
        ("secrets::list", !secrets::list(tx, org, scope)?.is_empty()),
        ("secrets::values_sealed", !secrets::values_sealed(tx, org, scope)?.is_empty()),
        ("secrets::values_of_app", !secrets::values_of_app(tx, &as_seen)?.is_empty()),
        ("secrets::not_under_key", !secrets::not_under_key(tx, org, KeyId(9), 10)?.is_empty()),
        ("data_keys::get", data_keys::get(tx, org, KeyId(1))?.is_some()),
        ("data_keys::current", data_keys::current(tx, org)?.is_some()),
        ("data_keys::list", !data_keys::list(tx, org)?.is_empty()),
        ("events::list", !events::list(tx, events::Of::App(org, app), &page)?.items.is_empty()),
        (
            "events::since",
            !events::since(tx, events::Of::Org(org), Default::default(), 10)?.is_empty(),
        ),
        ("blobs::is_referenced", blobs::is_referenced(tx, org, &digest(1))?),
        ("blobs::referenced", blobs::referenced(tx, org, None, 10)?.contains(&digest(1))),
        ("quotas::ask_of", quotas::ask_of(tx, &as_seen)? != Default::default() && mine(Some(org))),
    ])
}

#[test]
fn a_strangers_id_is_not_found_by_any_reader() {
    let fixture = Fixture::new();
    fixture.write(two_orgs).unwrap();
    // The same questions asked by the owner find everything, so that none of them asks nothing.
    for (asker, expected) in [(1, true), (2, false)] {
        for (reader, found) in fixture.read(move |tx| found(tx, org_id(asker))) {
            assert_eq!(found, expected, "{reader} asked by org {asker}");
        }
    }
}

type Attempt = (&'static str, fn(&mut Tx) -> Result<(), WriteError>);

/// Org 2 tries to change what is org 1's.
const ATTEMPTS: &[Attempt] = &[
    ("projects::delete", |tx| projects::delete(tx, org_id(2), Tenant::of(1).project.id)),
    ("environments::create", |tx| {
        let mut made = crate::model::environment(&Tenant::of(1).project, 9);
        made.org = org_id(2);
        environments::create(tx, &made)
    }),
    ("environments::delete", |tx| {
        environments::delete(tx, org_id(2), Tenant::of(1).environment.id)
    }),
    ("apps::create", |tx| {
        let mut made = crate::model::app(&Tenant::of(1).environment, 9);
        made.org = org_id(2);
        apps::create(tx, &made, &host("elsewhere.example.org"))
    }),
    ("apps::set_running", |tx| apps::set_running(tx, org_id(2), Tenant::of(1).app.id, false)),
    ("apps::set_scale", |tx| {
        apps::set_scale(tx, org_id(2), Tenant::of(1).app.id, &Default::default())
    }),
    ("apps::set_live", |tx| {
        let (ours, theirs) = (Tenant::of(1), Tenant::of(2));
        apps::set_live(tx, org_id(2), ours.app.id, &live(&theirs.release, at(5)))
    }),
    ("apps::set_live to a stranger's release", |tx| {
        let (ours, theirs) = (Tenant::of(1), Tenant::of(2));
        apps::set_live(tx, org_id(2), theirs.app.id, &live(&ours.release, at(5)))
    }),
    ("apps::delete", |tx| apps::delete(tx, org_id(2), Tenant::of(1).app.id)),
    ("domains::add", |tx| {
        let mut made = domain(&Tenant::of(1).app, 9, "new.example.org");
        made.org = org_id(2);
        domains::add(tx, &made)
    }),
    ("domains::remove", |tx| domains::remove(tx, org_id(2), crate::model::domain_id(1))),
    ("deployments::create", |tx| {
        let mut made = Tenant::of(1).deployment;
        (made.id, made.org) = (crate::model::deployment_id(9), org_id(2));
        deployments::create(tx, &made)
    }),
    ("deployments::create from a stranger's release", |tx| {
        let source =
            insula_model::deployment::Source::Release { release: Tenant::of(1).release.id };
        deployments::create(tx, &crate::model::deployment(&Tenant::of(2).app, 9, source))
    }),
    ("deployments::update", |tx| {
        let mut made = Tenant::of(1).deployment;
        made.org = org_id(2);
        deployments::update(tx, &DeploymentState::Queued, &made)
    }),
    ("deployments::update into another app", |tx| {
        let mut made = Tenant::of(1).deployment;
        made.app = Tenant::of(2).app.id;
        deployments::update(tx, &DeploymentState::Queued, &made)
    }),
    ("builds::create", |tx| {
        let mut made = Tenant::of(1).build;
        (made.id, made.org) = (crate::model::build_id(9), org_id(2));
        builds::create(tx, &made)
    }),
    ("builds::update", |tx| {
        let mut made = Tenant::of(1).build;
        made.org = org_id(2);
        builds::update(tx, &BuildState::Queued, &made)
    }),
    ("releases::next_number", |tx| {
        releases::next_number(tx, org_id(2), Tenant::of(1).app.id).map(drop)
    }),
    ("releases::create", |tx| {
        let mut made = Tenant::of(1).release;
        (made.id, made.org) = (crate::model::release_id(9), org_id(2));
        releases::create(tx, &made)
    }),
    ("releases::drop_artifact", |tx| {
        releases::drop_artifact(tx, org_id(2), Tenant::of(1).release.id)
    }),
    ("instances::create", |tx| {
        let mut made = Tenant::of(1).instance;
        (made.id, made.org) = (crate::model::instance_id(9), org_id(2));
        instances::create(tx, &made)
    }),
    ("instances::create of a stranger's release", |tx| {
        let (ours, theirs) = (Tenant::of(1), Tenant::of(2));
        instances::create(tx, &crate::model::instance(&theirs.app, &ours.release, 9))
    }),
    ("instances::set_intent", |tx| {
        let intent = Intent::Stop { since: at(1) };
        instances::set_intent(tx, org_id(2), Tenant::of(1).instance.id, intent).map(drop)
    }),
    ("instances::set_observed", |tx| {
        let observed = Observed::Absent { seen: at(1) };
        instances::set_observed(tx, org_id(2), Tenant::of(1).instance.id, &observed).map(drop)
    }),
    ("instances::delete", |tx| instances::delete(tx, org_id(2), Tenant::of(1).instance.id)),
    ("runs::create", |tx| {
        let mut made = Tenant::of(1).run;
        (made.id, made.org) = (crate::model::run_id(9), org_id(2));
        runs::create(tx, &made)
    }),
    ("runs::update", |tx| {
        let mut made = Tenant::of(1).run;
        made.org = org_id(2);
        runs::update(tx, &RunState::Queued, &made)
    }),
    ("members::set_role", |tx| members::set_role(tx, org_id(2), user_id(1), Role::Owner)),
    ("members::remove", |tx| members::remove(tx, org_id(2), user_id(1))),
    ("invitations::revoke", |tx| invitations::revoke(tx, org_id(2), invitation().id)),
    ("tokens::revoke", |tx| tokens::revoke(tx, org_id(2), token_id(1))),
    ("tokens::revoke_session", |tx| tokens::revoke_session(tx, user_id(1), token_id(1))),
    ("tokens::revoke_operator", |tx| tokens::revoke_operator(tx, token_id(1))),
    ("variables::set", |tx| {
        variables::set(
            tx,
            &Variable {
                org: org_id(2),
                scope: ConfigScope::App(Tenant::of(1).app.id),
                name: NAME.parse().unwrap(),
                value: "debug".to_owned(),
                updated: at(1),
            },
        )
    }),
    ("variables::unset", |tx| {
        let scope = ConfigScope::App(Tenant::of(1).app.id);
        variables::unset(tx, org_id(2), scope, &NAME.parse().unwrap())
    }),
    ("secrets::set", |tx| {
        let secret = Secret {
            org: org_id(2),
            scope: ConfigScope::App(Tenant::of(1).app.id),
            name: NAME.parse().unwrap(),
            version: 1,
            updated: at(1),
        };
        secrets::set(tx, &secret, &Sealed { key: KeyId(1), blob: vec![] })
    }),
    ("secrets::set under a stranger's key", |tx| {
        let secret = Secret {
            org: org_id(2),
            scope: ConfigScope::App(Tenant::of(2).app.id),
            name: NAME.parse().unwrap(),
            version: 1,
            updated: at(1),
        };
        secrets::set(tx, &secret, &Sealed { key: KeyId(1), blob: vec![] })
    }),
    ("secrets::unset", |tx| {
        let scope = ConfigScope::App(Tenant::of(1).app.id);
        secrets::unset(tx, org_id(2), scope, &NAME.parse().unwrap())
    }),
    ("secrets::reseal", |tx| {
        let secret = Secret {
            org: org_id(2),
            scope: ConfigScope::App(Tenant::of(1).app.id),
            name: NAME.parse().unwrap(),
            version: 1,
            updated: at(1),
        };
        secrets::reseal(tx, &secret, &Sealed { key: KeyId(1), blob: vec![] })
    }),
    ("data_keys::rewrap", |tx| data_keys::rewrap(tx, org_id(2), KeyId(1), &[9])),
    ("data_keys::delete", |tx| data_keys::delete(tx, org_id(2), KeyId(1))),
];

#[test]
fn a_strangers_row_is_not_changed_by_any_writer() {
    let fixture = Fixture::new();
    fixture.write(two_orgs).unwrap();
    let before = fixture.read(|tx| Ok(insula_store::feed::snapshot(tx)?));
    for (writer, attempt) in ATTEMPTS {
        let outcome = fixture.write(*attempt);
        assert!(matches!(outcome, Err(WriteError::NotFound { .. })), "{writer}: {outcome:?}");
    }
    assert_eq!(fixture.read(|tx| Ok(insula_store::feed::snapshot(tx)?)), before);
    for (reader, found) in fixture.read(|tx| found(tx, org_id(1))) {
        assert!(found, "{reader} after the attempts");
    }
}

#[test]
fn the_end_of_an_org_leaves_nothing_of_it_but_what_must_stop() {
    let fixture = Fixture::new();
    fixture.write(two_orgs).unwrap();
    fixture.write(|tx| insula_store::orgs::delete(tx, org_id(1))).unwrap();
    let left: Vec<_> = fixture
        .read(|tx| found(tx, org_id(1)))
        .into_iter()
        .filter(|(_, found)| *found)
        .map(|(reader, _)| reader)
        .collect();
    // The instance runs until its node has stopped it, from the release that it needs for that.
    // Events are the platform's memory.
    assert_eq!(
        left,
        [
            "releases::get",
            "releases::by_number",
            "releases::list",
            "instances::get",
            "instances::list",
            "events::list",
            "events::since",
            "blobs::is_referenced",
            "blobs::referenced",
        ]
    );
    let instance = Tenant::of(1).instance.id;
    fixture.write(move |tx| instances::delete(tx, org_id(1), instance)).unwrap();
    let left = fixture.read(|tx| found(tx, org_id(1)));
    let left: Vec<_> = left.into_iter().filter(|(_, found)| *found).collect();
    assert_eq!(left, [("events::list", true), ("events::since", true)]);
    // The neighbour noticed nothing.
    let theirs = Tenant::of(2);
    let found = fixture.read(move |tx| Ok(apps::get(tx, theirs.org.id, theirs.app.id)?));
    assert!(found.is_some());
}
