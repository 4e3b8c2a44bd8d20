//! One history on both databases: the same answers, the same errors, the same feed, the same rows;
//! and from one database to the other without a difference.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use insula_model::Generation;
use insula_store::{
    CopyError, Page, Paged, RestoreError, Store, StoreConfig, StoreError, Tx, WriteError, apps,
    backup, builds, copy, deployments, domains, environments, events, feed, instances, nodes, orgs,
    projects, quotas, releases, restore, runs, sweep, users,
};

use crate::fleet::Refusal;
use crate::history::{Dice, STEPS, follow, snapshot, step};
use crate::model::{Tenant, at, event, org, user};
use crate::postgres::{Server, place_of_data};
use crate::unfollowed;
use crate::world::World;

const SEEDS: u64 = 8;
/// A way there and back is worth as much as many steps, and every row is on each.
const SEEDS_COPIED: u64 = 3;
/// Their rows say by the database's clock when, of which there are two here.
const BY_ITS_CLOCK: [&str; 2] = ["servers", "leases"];
/// Rows of a page: small, so that lists have several.
const PAGE_ROWS: usize = 5;

/// Rows, and where the next ones begin.
type Shown<T> = (Vec<T>, Option<String>);

/// All pages of a list.
pub fn pages<T>(
    list: impl Fn(&Page) -> Result<Paged<T>, StoreError>,
) -> Result<Vec<Shown<T>>, StoreError> {
    let mut found = Vec::new();
    let mut page = Page::first(PAGE_ROWS);
    loop {
        let Paged { items, next } = list(&page)?;
        found.push((items, next.as_ref().map(ToString::to_string)));
        let Some(next) = next else { return Ok(found) };
        page = Page::after(PAGE_ROWS, next);
    }
}

/// What every reader says, in words.
fn everything(tx: &Tx) -> Result<Vec<String>, StoreError> {
    let mut said = Vec::new();
    macro_rules! say {
        ($what:expr) => {
            said.push(format!("{}: {:?}", stringify!($what), $what))
        };
    }
    say!(feed::head(tx)?);
    say!(orgs::count(tx)?);
    say!(pages(|page| orgs::list(tx, page))?);
    say!(pages(|page| nodes::list(tx, page))?);
    say!(pages(|page| events::list(tx, events::Of::Platform, page))?);
    for org in orgs::list(tx, &Page::first(200))?.items {
        let id = org.id;
        say!(orgs::by_name(tx, &org.name)?);
        say!(quotas::usage(tx, id)?);
        say!(pages(|page| projects::list(tx, id, page))?);
        say!(pages(|page| environments::list(tx, id, None, page))?);
        say!(pages(|page| domains::list(tx, id, None, page))?);
        say!(pages(|page| apps::list(tx, id, &apps::Filter::default(), page))?);
        say!(pages(|page| deployments::list(tx, id, None, page))?);
        say!(pages(|page| builds::list(tx, id, None, page))?);
        say!(pages(|page| runs::list(tx, id, None, page))?);
        say!(pages(|page| instances::list(tx, id, None, page))?);
        say!(pages(|page| events::list(tx, events::Of::Org(id), page))?);
        for app in apps::list(tx, id, &apps::Filter::default(), &Page::first(200))?.items {
            say!(quotas::ask_of(tx, &app)?);
            say!(pages(|page| releases::list(tx, id, app.id, page))?);
            say!(deployments::under_way(tx, id, app.id)?);
        }
    }
    // In the order of positions, so the order is part of the answer.
    match feed::since(tx, Generation(0), 100_000) {
        Ok(told) => say!(told),
        Err(feed::FeedError::Gap(gap)) => say!(gap),
        Err(feed::FeedError::Store(error)) => return Err(error),
    }
    Ok(said)
}

fn same(seed: u64, n: u32, world: &World, sqlite: &Store, postgres: &Store) {
    let [one, other] = [sqlite, postgres].map(|store| {
        let world = world.clone();
        let all = move |tx: &Tx| -> Result<_, StoreError> {
            let mut all = everything(tx)?;
            all.extend(unfollowed::everything(&world, n, tx)?);
            Ok(all)
        };
        store.read_blocking(all).unwrap()
    });
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(one, other, "seed {seed}, step {n}");
    }
    assert_eq!(one.len(), other.len(), "seed {seed}, step {n}");
}

/// A step that the feed tells of, or one that it does not.
fn next(world: &World, dice: &mut Dice, n: u32) -> Option<unfollowed::Step> {
    if dice.roll(5) < 2 {
        return Some(unfollowed::any(world, dice, n));
    }
    let told = step(world, dice, n)?;
    Some(Box::new(move |tx| told(tx).map(|()| String::new()).map_err(Refusal::Write)))
}

#[test]
fn one_history_has_the_same_answers_and_leaves_the_same_rows_on_both() {
    let Some(server) = Server::start() else { return };
    // Not on a disk, whose syncs would be most of it.
    let folder = tempfile::tempdir_in(place_of_data()).unwrap();
    let seeds = AtomicU64::new(0);
    // Each waits for one database while the other waits for the other.
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while let Some(nth) = Some(seeds.fetch_add(1, Relaxed)).filter(|it| *it < SEEDS) {
                    one_history(100 + nth, nth < SEEDS_COPIED, &server, folder.path());
                }
            });
        }
    });
}

fn one_history(seed: u64, is_copied: bool, server: &Server, folder: &Path) {
    let file = |name: &str| folder.join(format!("{name}-{seed}.db"));
    let sqlite = Store::open(StoreConfig::new(file("sqlite"))).unwrap();
    let postgres = Store::open(server.config(&format!("s{seed}"))).unwrap();
    let both = [&sqlite, &postgres];
    let mut dice = Dice(seed);
    let (mut near, mut near_at) = (World::default(), Generation(0));
    let mut refused = BTreeSet::new();
    for store in both {
        store.write_blocking(|tx| Tenant::of(STEPS + 1).deploy(tx)).unwrap();
    }
    near_at = follow(&sqlite, &mut near, near_at);
    for n in 1..=STEPS {
        // Now and then the same thing again, which is refused more often than not.
        let times = 1 + usize::from(dice.roll(4) == 0);
        let before = dice.clone();
        for time in 0..times {
            let number = n + time as u32 * 1_000;
            let answers = both.map(|store| {
                let made = next(&near, &mut before.clone(), n)?;
                let about = near.apps.values().next().map(|app| (app.org, app.id));
                Some(store.write_blocking(move |tx| -> unfollowed::Said {
                    let said = made(tx)?;
                    let (org, app) = about.unzip();
                    events::append(tx, &event(org, app, number))?;
                    Ok(said)
                }))
            });
            let [one, other] = answers.map(|answer| answer.map(|answer| format!("{answer:?}")));
            assert_eq!(one, other, "seed {seed}, step {n}");
            refused.extend(one.filter(|one| one.starts_with("Err")));
        }
        next(&near, &mut dice, n);
        near_at = follow(&sqlite, &mut near, near_at);
        if n % 30 == 0 {
            same(seed, n, &near, &sqlite, &postgres);
            let (told, other) = (snapshot(&sqlite), snapshot(&postgres));
            assert_eq!(told, other, "seed {seed}, step {n}");
        }
    }
    assert!(refused.len() > 10, "seed {seed} was refused too little: {refused:?}");
    let swept = both.map(|store| store.write_blocking(|tx| sweep::all(tx, at(1 << 40))));
    let [one, other] = swept.map(|swept| format!("{swept:?}"));
    assert_eq!(one, other);
    same(seed, STEPS, &near, &sqlite, &postgres);
    if !is_copied {
        return;
    }

    // Every row, there and back.
    let there = Store::open(server.config(&format!("c{seed}"))).unwrap();
    let of_sqlite = copy(&sqlite, &there).unwrap();
    let back = Store::open(StoreConfig::new(file("back"))).unwrap();
    let of_postgres = copy(&postgres, &back).unwrap();
    for (one, other) in of_sqlite.iter().zip(&of_postgres) {
        assert_eq!((one.name, one.rows), (other.name, other.rows), "seed {seed}");
        let is_same = one.digest == other.digest || BY_ITS_CLOCK.contains(&one.name);
        assert!(is_same, "seed {seed}: {one:?} is {other:?}");
    }
    let rows: u64 = of_sqlite.iter().map(|table| table.rows).sum();
    assert!(rows > 100, "{of_sqlite:?}");
    // Who was told where the feed stands goes on from there.
    assert_eq!(*there.head().borrow(), near_at);
    same(seed, STEPS, &near, &back, &there);
    let again = Store::open(StoreConfig::new(file("again"))).unwrap();
    assert_eq!(copy(&there, &again).unwrap(), of_sqlite);
}

#[test]
fn a_copy_is_of_one_moment_and_overwrites_nothing() {
    let Some(server) = Server::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let from = Store::open(server.config("a")).unwrap();
    // More than fits on the way at once, and more than one page.
    from.write_blocking(|tx| -> Result<(), WriteError> {
        for n in 0..3_000 {
            orgs::create(tx, &org(n))?;
            users::create(tx, &user(n), None)?;
        }
        Ok(())
    })
    .unwrap();
    let writer = from.clone();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writing = std::thread::spawn(move || {
        let mut n = 3_000;
        while stopped.try_recv().is_err() {
            let pair = move |tx: &mut Tx| -> Result<(), WriteError> {
                orgs::create(tx, &org(n))?;
                users::create(tx, &user(n), None)
            };
            writer.write_blocking(pair).unwrap();
            n += 1;
        }
    });
    let to = Store::open(StoreConfig::new(folder.path().join("to.db"))).unwrap();
    let copied = copy(&from, &to).unwrap();
    let backup = folder.path().join("backup");
    from.backup_to_blocking(&backup).unwrap();
    stop.send(()).unwrap();
    writing.join().unwrap();
    let rows = |name: &str| copied.iter().find(|table| table.name == name).unwrap().rows;
    assert_eq!(rows("orgs"), rows("users"), "half of a mutation");
    assert!(rows("orgs") >= 3_000);
    assert_eq!(to.read_blocking(orgs::count).unwrap(), rows("orgs"));
    to.write_blocking(|tx| orgs::create(tx, &org(999_999))).unwrap();

    // Twice is refused, and so is a place where anything is; what was there stays.
    let before = to.read_blocking(orgs::count).unwrap();
    let refused = copy(&from, &to).unwrap_err();
    assert!(matches!(refused, CopyError::NotEmpty { .. }), "{refused:?}");
    assert!(refused.to_string().contains("is not empty"), "{refused}");
    assert_eq!(to.read_blocking(orgs::count).unwrap(), before);
    let refused = copy(&to, &from).unwrap_err();
    assert!(matches!(refused, CopyError::NotEmpty { .. }), "{refused:?}");

    // A backup of PostgreSQL is a file, restored as one, and back into PostgreSQL from there.
    let restored = folder.path().join("restored.db");
    restore(&backup, &restored).unwrap();
    let restored = Store::open(StoreConfig::new(restored)).unwrap();
    let anew = Store::open(server.config("b")).unwrap();
    copy(&restored, &anew).unwrap();
    assert!(anew.read_blocking(orgs::count).unwrap() >= 3_000);
    assert!(*anew.head().borrow() > *from.head().borrow(), "beyond every generation given");
    anew.write_blocking(|tx| orgs::create(tx, &org(999_999))).unwrap();
}

#[test]
fn what_breaks_a_copy_leaves_the_destination_empty() {
    let Some(mut server) = Server::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let from = Store::open(StoreConfig::new(folder.path().join("from.db"))).unwrap();
    from.write_blocking(|tx| (0..500).try_for_each(|n| orgs::create(tx, &org(n)))).unwrap();
    let to = Store::open(server.config("a")).unwrap();
    // A table that takes nothing, found half way.
    server.sql(
        "ALTER TABLE a.hosts ADD CHECK (false); ALTER TABLE a.orgs ADD CHECK (name <> 'org-77')",
    );
    let broken = copy(&from, &to).unwrap_err();
    assert!(matches!(broken, CopyError::Write { .. }), "{broken:?}");
    assert_eq!(to.read_blocking(orgs::count).unwrap(), 0);
    server.sql("ALTER TABLE a.hosts DROP CONSTRAINT hosts_check; ALTER TABLE a.orgs DROP CONSTRAINT orgs_name_check");
    // What arrives is not what was sent.
    server.sql(
        "CREATE FUNCTION a.meddle() RETURNS trigger LANGUAGE plpgsql
             AS 'BEGIN NEW.created := 0; RETURN NEW; END';
         CREATE TRIGGER meddle BEFORE INSERT ON a.orgs FOR EACH ROW EXECUTE FUNCTION a.meddle()",
    );
    let broken = copy(&from, &to).unwrap_err();
    let said = matches!(broken, CopyError::Differs { table: "orgs", sent: 500, arrived: 500 });
    assert!(said, "{broken:?}");
    assert_eq!(to.read_blocking(orgs::count).unwrap(), 0);
    server.sql("DROP TRIGGER meddle ON a.orgs");
    server.kill();
    server.run();
    copy(&from, &to).unwrap();
    assert_eq!(to.read_blocking(orgs::count).unwrap(), 500);
}

#[test]
fn both_databases_have_the_same_tables_and_columns() {
    let Some(server) = Server::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.db");
    drop(Store::open(StoreConfig::new(&file)).unwrap());
    drop(Store::open(server.config("a")).unwrap());
    let sqlite = rusqlite::Connection::open(&file).unwrap();
    let sql = "SELECT t.name || ' ' || c.name || ' ' || lower(c.type) ||
                      iif(c.\"notnull\" OR c.pk > 0, ' not null', '')
               FROM sqlite_schema t, pragma_table_info(t.name) c WHERE t.type = 'table'";
    let mut statement = sqlite.prepare(sql).unwrap();
    let of_sqlite: BTreeSet<String> =
        statement.query_map((), |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    let of_postgres: BTreeSet<String> = server
        .sql(
            "SELECT table_name || ' ' || column_name || ' ' || data_type ||
                    CASE is_nullable WHEN 'NO' THEN ' not null' ELSE '' END
             FROM information_schema.columns
             WHERE table_schema = 'a' AND table_name NOT IN ('format', 'writers')",
        )
        .into_iter()
        .map(|line| line.replace("bigint", "integer").replace("bytea", "blob"))
        .collect();
    assert_eq!(of_sqlite, of_postgres);
    let collations = "SELECT DISTINCT collation_name FROM information_schema.columns
                      WHERE table_schema = 'a' AND data_type = 'text' AND table_name <> 'writers'";
    assert_eq!(server.sql(collations), ["C"]);
}

#[test]
fn a_backup_of_postgresql_neither_makes_nor_migrates_anything() {
    let Some(server) = Server::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("backup");
    let refused = |schema: &str| {
        let error = backup(&server.config(schema).place, &to).unwrap_err();
        assert!(!to.exists(), "{error}");
        error
    };
    assert!(matches!(refused("nothing"), RestoreError::Empty { .. }));
    let schemas = "SELECT nspname FROM pg_namespace WHERE nspname = 'nothing'";
    assert_eq!(server.sql(schemas), Vec::<String>::new(), "a schema was made");

    let store = Store::open(server.config("s")).unwrap();
    store.write_blocking(|tx| orgs::create(tx, &org(1))).unwrap();
    drop(store);
    server.sql("UPDATE s.format SET number = number - 1");
    let before = server.sql("SELECT number FROM s.format");
    assert!(matches!(refused("s"), RestoreError::Older { .. }));
    assert_eq!(server.sql("SELECT number FROM s.format"), before, "it was migrated");
    server.sql("UPDATE s.format SET number = 999");
    assert!(refused("s").to_string().starts_with("open postgres://"));
}
