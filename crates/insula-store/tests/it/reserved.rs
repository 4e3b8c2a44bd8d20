//! Names and hosts that were somebody's are never handed to somebody else.

use insula_store::{WriteError, apps, domains, orgs};

use crate::model::{
    Fixture, Tenant, app, default_host, domain, environment, host, org, org_id, project,
};

#[test]
fn an_orgs_name_stays_its_own_after_its_end() {
    let fixture = Fixture::new();
    fixture.write(|tx| orgs::create(tx, &org(1))).unwrap();
    fixture.write(|tx| orgs::delete(tx, org_id(1))).unwrap();
    let mut heir = org(2);
    heir.name = org(1).name;
    let refused = fixture.write(move |tx| orgs::create(tx, &heir));
    assert!(matches!(refused, Err(WriteError::NameTaken { .. })));
}

#[test]
fn a_host_stays_with_its_org_and_moves_between_its_apps() {
    let fixture = Fixture::new();
    let (ours, theirs) = (Tenant::of(1), Tenant::of(2));
    let (shop, stranger) = (ours.app.clone(), theirs.app.clone());
    let blog = app(&ours.environment, 3);
    let other = blog.clone();
    fixture
        .write(move |tx| {
            ours.settle(tx)?;
            theirs.settle(tx)?;
            apps::create(tx, &other, &default_host(&other))?;
            Ok(())
        })
        .unwrap();
    let add = |app: &insula_model::app::App, n, name: &str| {
        let domain = domain(app, n, name);
        fixture.write(move |tx| domains::add(tx, &domain))
    };
    let taken = |outcome| matches!(outcome, Err(WriteError::HostTaken { .. }));
    let name = "www.example.org";
    add(&shop, 1, name).unwrap();
    assert!(taken(add(&shop, 2, name)), "twice");
    assert!(taken(add(&blog, 2, name)), "by another app of the org");
    assert!(taken(add(&stranger, 2, name)), "by another org");
    let id = domain(&shop, 1, name).id;
    assert!(matches!(
        fixture.write(move |tx| domains::remove(tx, org_id(2), id)),
        Err(WriteError::NotFound { .. })
    ));
    fixture.write(move |tx| domains::remove(tx, org_id(1), id)).unwrap();
    assert!(taken(add(&stranger, 2, name)), "by another org after its removal");
    add(&blog, 3, name).unwrap();

    // Nor is a default host, after the app's end or the org's.
    let default = default_host(&shop);
    assert!(taken(add(&blog, 4, default.as_str())), "while its app is there");
    let gone = shop.id;
    fixture.write(move |tx| apps::delete(tx, org_id(1), gone)).unwrap();
    assert!(taken(add(&stranger, 4, default.as_str())), "after the app's end");
    fixture.write(|tx| orgs::delete(tx, org_id(1))).unwrap();
    for name in [default.as_str(), name, default_host(&blog).as_str()] {
        assert!(taken(add(&stranger, 5, name)), "{name} after the org's end");
    }
}

#[test]
fn a_default_host_that_is_taken_can_be_tried_again_with_another_id() {
    let fixture = Fixture::new();
    let (ours, theirs) = (Tenant::of(1), Tenant::of(2));
    let taken = host("app-9-abcdef.localhost");
    let (squatter, wanted) = (theirs.app.clone(), app(&ours.environment, 9));
    let id = wanted.id;
    fixture
        .write(move |tx| {
            ours.settle(tx)?;
            theirs.settle(tx)?;
            domains::add(tx, &domain(&squatter, 1, taken.as_str()))?;
            let refused = apps::create(tx, &wanted, &taken);
            assert!(matches!(refused, Err(WriteError::HostTaken { .. })));
            apps::create(tx, &wanted, &default_host(&wanted))
        })
        .unwrap();
    assert!(fixture.read(move |tx| Ok(apps::get(tx, org_id(1), id)?)).is_some());
}

#[test]
fn names_are_taken_where_they_must_be_unique_and_nowhere_else() {
    let fixture = Fixture::new();
    let (ours, theirs) = (Tenant::of(1), Tenant::of(2));
    let mut twin_project = project(1, 7);
    twin_project.name = ours.project.name.clone();
    let mut twin_environment = environment(&ours.project, 7);
    twin_environment.name = ours.environment.name.clone();
    let mut twin_app = app(&ours.environment, 7);
    twin_app.name = ours.app.name.clone();
    // The same names in another org are nobody's business.
    let mut namesake = project(2, 8);
    namesake.name = ours.project.name.clone();
    fixture
        .write(move |tx| {
            ours.settle(tx)?;
            theirs.settle(tx)?;
            insula_store::projects::create(tx, &namesake)
        })
        .unwrap();
    let taken = |outcome| matches!(outcome, Err(WriteError::NameTaken { .. }));
    assert!(taken(fixture.write(move |tx| insula_store::projects::create(tx, &twin_project))));
    assert!(taken(
        fixture.write(move |tx| insula_store::environments::create(tx, &twin_environment))
    ));
    assert!(taken(fixture.write(move |tx| apps::create(tx, &twin_app, &default_host(&twin_app)))));
}
