//! Credentials and sealed values: versions, rotation, expiry, and what is never shown.

use insula_model::app::{ConfigScope, Secret, Variable};
use insula_model::tenancy::{Actor, Invitation, Member, Role, TokenScope};
use insula_model::{InvitationId, Millis, VariableName};
use insula_store::data_keys::{self, DataKey, KeyId};
use insula_store::secrets::{self, Sealed};
use insula_store::users::PasswordHash;
use insula_store::{WriteError, invitations, members, orgs, tokens, users, variables};

use crate::model::{Fixture, Tenant, at, hash, org, org_id, token, token_id, user, user_id};

fn key(n: u32) -> DataKey {
    DataKey { org: org_id(1), id: KeyId(n), wrapped: vec![n as u8], created: at(0) }
}

fn secret(scope: ConfigScope, name: &str, version: u32) -> Secret {
    let name = name.parse().unwrap();
    Secret { org: org_id(1), scope, name, version, updated: at(version.into()) }
}

fn sealed(key: u32, text: &str) -> Sealed {
    Sealed { key: KeyId(key), blob: text.as_bytes().to_vec() }
}

fn name(text: &str) -> VariableName {
    text.parse().unwrap()
}

#[test]
fn a_secret_counts_its_values_and_refuses_one_sealed_for_another_version() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let scope = ConfigScope::App(tenant.app.id);
    fixture
        .write(move |tx| {
            tenant.settle(tx)?;
            data_keys::insert(tx, &key(1))
        })
        .unwrap();
    let set = |version| {
        fixture
            .write(move |tx| secrets::set(tx, &secret(scope, "API_KEY", version), &sealed(1, "x")))
    };
    set(1).unwrap();
    assert!(matches!(set(1), Err(WriteError::Moved { .. })));
    assert!(matches!(set(3), Err(WriteError::Moved { .. })));
    set(2).unwrap();
    let listed = fixture.read(move |tx| Ok(secrets::list(tx, org_id(1), scope)?));
    assert_eq!(listed, [secret(scope, "API_KEY", 2)]);
    let head = *fixture.store.head().borrow();
    fixture.write(move |tx| secrets::unset(tx, org_id(1), scope, &name("API_KEY"))).unwrap();
    let told = fixture.store.read_blocking(move |tx| insula_store::feed::since(tx, head, 9));
    assert_eq!(told.unwrap().1, [insula_model::feed::Change::SecretsOf(org_id(1))]);
}

#[test]
fn the_narrower_scope_wins() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let app = tenant.app.clone();
    let scopes = [
        ConfigScope::Project(app.project),
        ConfigScope::Environment(app.environment),
        ConfigScope::App(app.id),
    ];
    fixture
        .write(move |tx| {
            tenant.settle(tx)?;
            data_keys::insert(tx, &key(1))?;
            for (depth, scope) in scopes.into_iter().enumerate() {
                for wanted in ["A", "B", "C"].iter().take(3 - depth) {
                    let value = format!("{wanted} at depth {depth}");
                    secrets::set(tx, &secret(scope, wanted, 1), &sealed(1, &value))?;
                    let (org, name, updated) = (org_id(1), name(wanted), at(0));
                    variables::set(tx, &Variable { org, scope, name, value, updated })?;
                }
            }
            Ok(())
        })
        .unwrap();
    let expected = ["A at depth 2", "B at depth 1", "C at depth 0"];
    let seen = app.clone();
    let plain = fixture.read(move |tx| Ok(variables::of_app(tx, &seen)?));
    assert_eq!(plain.values().map(|v| v.value.as_str()).collect::<Vec<_>>(), expected);
    let hidden = fixture.read(move |tx| Ok(secrets::values_of_app(tx, &app)?));
    let hidden: Vec<_> = hidden.values().map(|s| s.value.blob.as_slice()).collect();
    assert_eq!(hidden, expected.map(str::as_bytes));
}

#[test]
fn data_keys_are_rotated_value_by_value() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let scope = ConfigScope::App(tenant.app.id);
    fixture
        .write(move |tx| {
            tenant.settle(tx)?;
            data_keys::insert(tx, &key(1))?;
            for name in ["A", "B", "C"] {
                secrets::set(tx, &secret(scope, name, 1), &sealed(1, name))?;
            }
            data_keys::insert(tx, &key(2))
        })
        .unwrap();
    assert!(matches!(
        fixture.write(|tx| data_keys::delete(tx, org_id(1), KeyId(1))),
        Err(WriteError::NotEmpty { .. })
    ));
    loop {
        let left = fixture.read(|tx| {
            let current = data_keys::current(tx, org_id(1))?.unwrap();
            assert_eq!(current.id, KeyId(2));
            Ok(secrets::not_under_key(tx, org_id(1), current.id, 2)?)
        });
        if left.is_empty() {
            break;
        }
        fixture
            .write(move |tx| {
                left.iter()
                    .try_for_each(|one| secrets::reseal(tx, &one.secret, &sealed(2, "sealed anew")))
            })
            .unwrap();
    }
    fixture.write(|tx| data_keys::delete(tx, org_id(1), KeyId(1))).unwrap();
    let values = fixture.read(move |tx| Ok(secrets::values_sealed(tx, org_id(1), scope)?));
    assert_eq!(values.len(), 3);
    for value in values {
        assert_eq!((value.secret.version, value.value), (1, sealed(2, "sealed anew")));
    }
    // A value that was set meanwhile is not overwritten by the rotation.
    fixture.write(move |tx| secrets::set(tx, &secret(scope, "A", 2), &sealed(2, "newer"))).unwrap();
    assert!(matches!(
        fixture.write(move |tx| secrets::reseal(tx, &secret(scope, "A", 1), &sealed(2, "old"))),
        Err(WriteError::Moved { .. })
    ));
}

#[test]
fn no_sealed_value_or_hash_is_ever_printed() {
    let shown = format!(
        "{:?} {:?} {:?} {:?}",
        sealed(1, "hunter2"),
        key(0x5a),
        hash(0x5a),
        PasswordHash("$argon2id$hunter2".to_owned())
    );
    assert!(!shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
    assert!(!shown.contains("[90"), "{shown}");
}

#[test]
fn tokens_are_found_by_their_hash_until_they_expire_or_are_revoked() {
    let fixture = Fixture::new();
    let mut brief = token(1, TokenScope::Org { org: org_id(1), role: Role::Viewer });
    brief.expires = Some(at(100));
    let kept = brief.clone();
    fixture
        .write(move |tx| {
            orgs::create(tx, &org(1))?;
            tokens::insert(tx, &brief, &hash(1))?;
            tokens::insert(tx, &token(2, TokenScope::Operator), &hash(2))
        })
        .unwrap();
    let find = |n, now| fixture.read(move |tx| Ok(tokens::find(tx, &hash(n), at(now))?));
    assert_eq!(find(1, 99).map(|known| known.token), Some(kept));
    assert_eq!(find(1, 100), None);
    assert_eq!(find(3, 0), None);

    // "Last used" is noted now and then.
    let known = find(2, 0).unwrap();
    assert!(known.touch_is_due(at(0)));
    fixture.write(|tx| Ok(tokens::touch(tx, token_id(2), at(0))?)).unwrap();
    let known = find(2, 1).unwrap();
    assert!(!known.touch_is_due(at(1)));
    assert!(known.touch_is_due(at(0).plus(Millis::secs(300))));

    fixture.write(|tx| tokens::revoke_operator(tx, token_id(2))).unwrap();
    assert_eq!(find(2, 1), None);
}

#[test]
fn a_new_password_ends_the_sessions_and_an_end_of_a_user_ends_all() {
    let fixture = Fixture::new();
    let session = |n| token(n, TokenScope::Session { user: user_id(1) });
    fixture
        .write(move |tx| {
            users::create(tx, &user(1), None)?;
            tokens::insert(tx, &session(1), &hash(1))
        })
        .unwrap();
    fixture
        .write(|tx| users::set_password(tx, user_id(1), &PasswordHash("$new".to_owned())))
        .unwrap();
    let hash_of = fixture.read(|tx| Ok(users::password_hash(tx, user_id(1))?));
    assert_eq!(hash_of, Some(PasswordHash("$new".to_owned())));
    assert_eq!(fixture.read(|tx| Ok(tokens::find(tx, &hash(1), at(0))?)), None);
    fixture.write(move |tx| tokens::insert(tx, &session(2), &hash(2))).unwrap();
    fixture.write(|tx| users::delete(tx, user_id(1))).unwrap();
    assert_eq!(fixture.read(|tx| Ok(tokens::find(tx, &hash(2), at(0))?)), None);
}

#[test]
fn an_address_is_one_person_whatever_its_capitals() {
    let fixture = Fixture::new();
    fixture.write(|tx| users::create(tx, &user(1), None)).unwrap();
    let mut twin = user(2);
    twin.email = user(1).email.as_str().to_lowercase().parse().unwrap();
    let email = twin.email.clone();
    assert!(matches!(
        fixture.write(move |tx| users::create(tx, &twin, None)),
        Err(WriteError::EmailTaken { .. })
    ));
    assert_eq!(fixture.read(move |tx| Ok(users::by_email(tx, &email)?)), Some(user(1)));
}

#[test]
fn an_invitation_is_accepted_once_and_in_time() {
    let fixture = Fixture::new();
    let invitation = |n: u8| Invitation {
        id: InvitationId::from_parts(at(n.into()), [n; 10]),
        org: org_id(1),
        email: user(1).email,
        role: Role::Admin,
        invited_by: Actor::Operator,
        created: at(0),
        expires: at(100),
    };
    fixture
        .write(move |tx| {
            orgs::create(tx, &org(1))?;
            (1..=3).try_for_each(|n| users::create(tx, &user(n), None))?;
            (1..=2).try_for_each(|n| invitations::create(tx, &invitation(n), &hash(n)))
        })
        .unwrap();
    let accept = |n: u8, who: u32, now| {
        fixture.write(move |tx| invitations::accept(tx, &hash(n), user_id(who), at(now)))
    };
    let member = accept(1, 1, 99).unwrap();
    let expected = Member {
        org: org_id(1),
        user: user_id(1),
        email: user(1).email,
        role: Role::Admin,
        since: at(99),
    };
    assert_eq!(member, expected);
    assert!(matches!(accept(1, 2, 99), Err(WriteError::InvitationSpent)));
    assert!(matches!(accept(2, 2, 100), Err(WriteError::InvitationSpent)));
    assert!(matches!(accept(9, 2, 0), Err(WriteError::InvitationSpent)));
    // One who is a member already does not use it up.
    assert!(matches!(accept(2, 1, 99), Err(WriteError::Exists { .. })));
    accept(2, 3, 99).unwrap();
}

#[test]
fn an_org_keeps_an_owner_and_the_platform_an_operator() {
    let fixture = Fixture::new();
    let member = |n: u32, role| Member {
        org: org_id(1),
        user: user_id(n),
        email: user(n).email,
        role,
        since: at(0),
    };
    fixture
        .write(move |tx| {
            orgs::create(tx, &org(1))?;
            for n in 1..=2 {
                users::create(tx, &user(n), None)?;
                members::add(tx, &member(n, Role::Owner))?;
            }
            users::set_operator(tx, user_id(1), true)
        })
        .unwrap();
    let last_operator = fixture.write(|tx| users::set_operator(tx, user_id(1), false));
    assert!(matches!(last_operator, Err(WriteError::LastOperator)));
    fixture.write(|tx| members::set_role(tx, org_id(1), user_id(2), Role::Viewer)).unwrap();
    for outcome in [
        fixture.write(|tx| members::set_role(tx, org_id(1), user_id(1), Role::Admin)),
        fixture.write(|tx| members::remove(tx, org_id(1), user_id(1))),
    ] {
        assert!(matches!(outcome, Err(WriteError::LastOwner)), "{outcome:?}");
    }
    fixture.write(|tx| members::set_role(tx, org_id(1), user_id(2), Role::Owner)).unwrap();
    fixture.write(|tx| members::remove(tx, org_id(1), user_id(1))).unwrap();
}
