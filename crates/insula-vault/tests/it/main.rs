//! Secrets against a real store: what opens them, and what does not.

mod fleet;

use std::sync::Arc;

use insula_kit::random::SystemRandom;
use insula_kit::seal::{Key, Keyring, SecretBytes};
use insula_model::app::{App, ConfigScope, Environment, Project};
use insula_model::tenancy::{Org, Quota};
use insula_model::*;
use insula_store::{Store, StoreConfig, apps, environments, orgs, projects, secrets};
use insula_vault::{NewSecret, VaultError};

/// A master key that two rings can hold: a key itself is never copied.
fn key(n: u8) -> Key {
    Key::from_bytes(&SecretBytes::new(vec![n; 32])).unwrap()
}

const NOW: Timestamp = Timestamp::from_millis(1_000);

struct House {
    store: Store,
    master: Arc<Keyring>,
    random: SystemRandom,
    _folder: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig::new(folder.path().join("db"))).unwrap();
        let random = SystemRandom::new();
        let master = Arc::new(Keyring::new(key(1)));
        Self { store, master, random, _folder: folder }
    }

    fn app(&self, n: u8) -> App {
        let parts = [n; 10];
        let org = OrgId::from_parts(NOW, parts);
        let project = ProjectId::from_parts(NOW, parts);
        let environment = EnvironmentId::from_parts(NOW, parts);
        let app = App {
            id: AppId::from_parts(NOW, parts),
            org,
            project,
            environment,
            name: "shop".parse().unwrap(),
            created: NOW,
            running: true,
            scale: Default::default(),
            live: None,
        };
        let made = app.clone();
        self.store
            .write_blocking(move |tx| {
                let name = format!("org-{n}").parse().unwrap();
                orgs::create(tx, &Org { id: org, name, quota: Quota::default(), created: NOW })?;
                let name = "main".parse().unwrap();
                projects::create(tx, &Project { id: project, org, name, created: NOW })?;
                let name = "main".parse().unwrap();
                let row = Environment { id: environment, org, project, name, created: NOW };
                environments::create(tx, &row)?;
                let host = format!("shop-{n}.localhost").parse().unwrap();
                apps::create(tx, &made, &host)
            })
            .unwrap();
        app
    }

    fn set(&self, app: &App, scope: ConfigScope, name: &str, value: &'static str) {
        let (org, name): (_, VariableName) = (app.org, name.parse().unwrap());
        let (master, random) = (self.master.clone(), self.random.clone());
        self.store
            .write_blocking(move |tx| {
                let secret = NewSecret { org, scope, name: &name, value, now: NOW };
                insula_vault::set(tx, &master, &random, secret).map(drop)
            })
            .unwrap();
    }

    fn values(
        &self,
        master: &Arc<Keyring>,
        app: &App,
    ) -> Result<Vec<(String, String)>, VaultError> {
        let (master, app) = (Arc::clone(master), app.clone());
        let values =
            self.store.read_blocking(move |tx| insula_vault::values_of_app(tx, &master, &app))?;
        Ok(values.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
    }
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn the_narrower_scope_wins_and_the_newest_value_counts() {
    let house = House::new();
    let app = house.app(1);
    house.set(&app, ConfigScope::Project(app.project), "KEY", "of the project");
    house.set(&app, ConfigScope::Project(app.project), "OTHER", "shared");
    house.set(&app, ConfigScope::App(app.id), "KEY", "old");
    house.set(&app, ConfigScope::App(app.id), "KEY", "new");
    let values = house.values(&house.master, &app).unwrap();
    assert_eq!(values, [pair("KEY", "new"), pair("OTHER", "shared")]);
}

#[test]
fn another_master_key_opens_nothing_and_what_is_set_under_it_counts() {
    let mut house = House::new();
    let app = house.app(1);
    house.set(&app, ConfigScope::App(app.id), "LOST", "value");
    let stranger = Arc::new(Keyring::new(key(9)));
    assert_eq!(house.values(&stranger, &app).unwrap(), []);
    house.master = stranger;
    house.set(&app, ConfigScope::App(app.id), "NEW", "value");
    assert_eq!(house.values(&house.master, &app).unwrap(), [pair("NEW", "value")]);
}

#[test]
fn a_value_that_was_moved_to_another_name_does_not_open() {
    let house = House::new();
    let app = house.app(1);
    let scope = ConfigScope::App(app.id);
    house.set(&app, scope, "MINE", "value");
    house.set(&app, scope, "THEIRS", "other");
    let org = app.org;
    house
        .store
        .write_blocking(move |tx| {
            let rows = secrets::values_sealed(tx, org, scope)?;
            let mine = rows.iter().find(|r| r.secret.name.as_str() == "MINE").unwrap();
            let theirs = rows.iter().find(|r| r.secret.name.as_str() == "THEIRS").unwrap();
            secrets::reseal(tx, &theirs.secret, &mine.value)
        })
        .unwrap();
    let error = house.values(&house.master, &app).unwrap_err();
    assert!(matches!(error, VaultError::Value { .. }), "{error}");
}

#[test]
fn rotation_keeps_every_value_and_forgets_the_old_key() {
    let house = House::new();
    let app = house.app(1);
    house.set(&app, ConfigScope::App(app.id), "KEY", "value");
    let (org, master, random) = (app.org, house.master.clone(), house.random.clone());
    let keys = house
        .store
        .write_blocking(move |tx| {
            insula_vault::rotate(tx, &master, &random, org, NOW)?;
            assert!(insula_vault::reseal_some(tx, &master, &random, org)?);
            Ok::<_, VaultError>(insula_store::data_keys::list(tx, org)?.len())
        })
        .unwrap();
    assert_eq!(keys, 1);
    assert_eq!(house.values(&house.master, &app).unwrap(), [pair("KEY", "value")]);
}

#[test]
fn a_new_master_key_takes_over_from_the_old_one() {
    let house = House::new();
    let app = house.app(1);
    house.set(&app, ConfigScope::App(app.id), "KEY", "value");
    let both = Keyring::new(key(2)).with_older(key(1));
    let random = house.random.clone();
    house
        .store
        .write_blocking(move |tx| insula_vault::rewrap_all(tx, &both, &random).map(drop))
        .unwrap();
    let values = house.values(&Arc::new(Keyring::new(key(2))), &app).unwrap();
    assert_eq!(values, [pair("KEY", "value")]);
    assert_eq!(house.values(&house.master, &app).unwrap(), []);
}

#[test]
fn errors_and_debug_texts_hold_no_value() {
    let house = House::new();
    let app = house.app(1);
    house.set(&app, ConfigScope::App(app.id), "KEY", "very-secret-value");
    let (org, scope) = (app.org, ConfigScope::App(app.id));
    let rows = house.store.read_blocking(move |tx| secrets::values_sealed(tx, org, scope)).unwrap();
    assert!(!format!("{rows:?}").contains("very-secret-value"));
}
