//! Lists in pages that others' insertions do not shift.

use insula_model::limits::PAGE_MAX;
use insula_store::{
    Cursor, Page, Paged, StoreError, Tx, WriteError, apps, deployments, events, orgs, users,
};

use crate::model::{
    Fixture, Tenant, app, default_host, deployment, event, folder, org, org_id, user,
};

/// Every page of a list, with something done between any two.
fn walk<T>(
    mut list: impl FnMut(&Page) -> Paged<T>,
    limit: usize,
    mut between: impl FnMut(),
) -> Vec<Vec<T>> {
    let mut pages = Vec::new();
    let mut page = Page::first(limit);
    loop {
        let Paged { items, next } = list(&page);
        pages.push(items);
        match next {
            Some(next) => page = Page::after(limit, next),
            None => return pages,
        }
        between();
    }
}

#[test]
fn pages_show_each_row_once_whatever_is_inserted_meanwhile() {
    let fixture = Fixture::new();
    fixture.write(|tx| (1..=9).try_for_each(|n| orgs::create(tx, &org(n)))).unwrap();
    let mut next = 10;
    let pages = walk(
        |page| {
            let page = page.clone();
            fixture.read(move |tx| Ok(orgs::list(tx, &page)?))
        },
        4,
        || {
            // Before the place that was reached, in the order of names.
            let n = next;
            next += 1;
            fixture.write(move |tx| orgs::create(tx, &org(n))).unwrap();
        },
    );
    let names: Vec<Vec<_>> =
        pages.iter().map(|page| page.iter().map(|org| org.name.as_str()).collect()).collect();
    assert_eq!(
        names,
        [
            vec!["org-1", "org-2", "org-3", "org-4"],
            vec!["org-5", "org-6", "org-7", "org-8"],
            vec!["org-9"]
        ]
    );
}

#[test]
fn the_newest_come_first_and_those_that_come_later_wait_for_the_next_look() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let (shop, of) = (tenant.app.clone(), tenant.app.id);
    fixture.write(move |tx| tenant.settle(tx)).unwrap();
    let mut next = 1;
    let mut deploy = |count: u32| {
        let (from, shop) = (next, shop.clone());
        next += count;
        fixture
            .write(move |tx| {
                (from..from + count).try_for_each(|n| {
                    let source = folder(n, insula_model::Bytes::kib(1));
                    deployments::create(tx, &deployment(&shop, n, source))
                })
            })
            .unwrap();
    };
    deploy(7);
    let pages = walk(
        |page| {
            let page = page.clone();
            fixture.read(move |tx| Ok(deployments::list(tx, org_id(1), Some(of), &page)?))
        },
        3,
        || deploy(1),
    );
    let ids: Vec<Vec<_>> = pages.iter().map(|page| page.iter().map(|d| d.id).collect()).collect();
    let id = crate::model::deployment_id;
    assert_eq!(ids, [vec![id(7), id(6), id(5)], vec![id(4), id(3), id(2)], vec![id(1)]]);
}

#[test]
fn apps_of_one_name_in_two_environments_share_a_list() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let (project, production) = (tenant.project.clone(), tenant.environment.clone());
    let staging = crate::model::environment(&project, 2);
    let (one, two) = (app(&production, 2), {
        let mut two = app(&staging, 3);
        two.name = app(&production, 2).name;
        two
    });
    let (staging_id, name) = (staging.id, one.name.clone());
    fixture
        .write(move |tx| {
            tenant.settle(tx)?;
            insula_store::environments::create(tx, &staging)?;
            apps::create(tx, &one, &default_host(&one))?;
            apps::create(tx, &two, &default_host(&two))
        })
        .unwrap();
    let list = |filter: apps::Filter| {
        walk(
            |page| {
                let (filter, page) = (filter.clone(), page.clone());
                fixture.read(move |tx| Ok(apps::list(tx, org_id(1), &filter, &page)?))
            },
            1,
            || {},
        )
        .concat()
        .into_iter()
        .map(|app| app.id)
        .collect::<Vec<_>>()
    };
    let id = crate::model::app_id;
    assert_eq!(list(apps::Filter::default()), [id(1), id(2), id(3)]);
    let named = apps::Filter { name: Some(name), ..Default::default() };
    assert_eq!(list(named.clone()), [id(2), id(3)]);
    assert_eq!(list(apps::Filter { environment: Some(staging_id), ..named }), [id(3)]);
}

#[test]
fn a_page_has_a_bound_and_at_least_one_row() {
    let fixture = Fixture::new();
    let many = PAGE_MAX as u32 + 5;
    fixture.write(move |tx| (0..many).try_for_each(|n| users::create(tx, &user(n), None))).unwrap();
    let list = |limit| fixture.read(move |tx| Ok(users::list(tx, &Page::first(limit))?));
    assert_eq!(list(usize::MAX).items.len(), PAGE_MAX);
    assert_eq!(list(0).items.len(), 1);
}

#[test]
fn a_cursor_survives_its_text_and_serves_its_own_list_only() {
    let fixture = Fixture::new();
    fixture
        .write(|tx| {
            (0..3).try_for_each(|n| orgs::create(tx, &org(n)))?;
            (0..3).try_for_each(|n| users::create(tx, &user(n), None))
        })
        .unwrap();
    let first = fixture.read(|tx| Ok(orgs::list(tx, &Page::first(1))?));
    let cursor = first.next.unwrap();
    assert_eq!(cursor.to_string().parse(), Ok(cursor.clone()));
    let wrong = move |tx: &Tx| users::list(tx, &Page::after(1, cursor));
    assert!(matches!(fixture.store.read_blocking(wrong), Err(StoreError::Cursor)));
    for bad in ["", "abc", "ABCD", "zz", "' OR 1=1", &"ab".repeat(300)] {
        assert!(bad.parse::<Cursor>().is_err(), "{bad:?} passed");
    }
    // Well formed, and made up.
    for made_up in ["00", "ff", "6f726773", "6f7267730a610a620a63"] {
        let cursor: Cursor = made_up.parse().unwrap();
        let list = move |tx: &Tx| orgs::list(tx, &Page::after(1, cursor));
        assert!(matches!(fixture.store.read_blocking(list), Err(StoreError::Cursor)), "{made_up}");
    }
}

#[test]
fn a_history_is_read_backwards_in_pages_and_followed_forwards() {
    let fixture = Fixture::new();
    let (shop, blog) = (crate::model::app_id(1), crate::model::app_id(2));
    fixture
        .write(move |tx| -> Result<(), WriteError> {
            for n in 0..6 {
                let app = if n % 2 == 0 { shop } else { blog };
                events::append(tx, &event(Some(org_id(1)), Some(app), n))?;
            }
            events::append(tx, &event(Some(org_id(2)), None, 6))?;
            Ok(events::append(tx, &event(None, None, 7))?)
        })
        .unwrap();
    let read = |of: events::Of| {
        let pages = walk(
            |page| {
                let page = page.clone();
                fixture.read(move |tx| Ok(events::list(tx, of, &page)?))
            },
            2,
            || {},
        );
        pages.concat().into_iter().map(|event| event.message).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(read(events::Of::App(org_id(1), shop)), "event 4, event 2, event 0");
    // The id of another org's app shows nothing of it.
    assert_eq!(read(events::Of::App(org_id(2), shop)), "");
    assert_eq!(read(events::Of::Org(org_id(2))), "event 6");
    assert_eq!(read(events::Of::Platform).split(", ").count(), 8);

    let heard = *fixture.store.events().borrow();
    fixture
        .write(move |tx| Ok(events::append(tx, &event(Some(org_id(1)), Some(shop), 8))?))
        .unwrap();
    assert!(*fixture.store.events().borrow() > heard);
    let followed =
        fixture.read(move |tx| Ok(events::since(tx, events::Of::Org(org_id(1)), heard, 10)?));
    let followed: Vec<_> = followed.into_iter().map(|(_, event)| event.message).collect();
    assert_eq!(followed, ["event 8"]);
}
