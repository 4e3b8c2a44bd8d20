//! An org's history, read backwards in pages or followed forwards.

use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use insula_model::AppId;
use insula_model::event;
use insula_model::tenancy::Actor;
use insula_store::events::{self, EventSeq, Of};
use insula_store::{Store, StoreError, Tx, members, tokens, users};
use insula_wire::rest::Page;
use insula_wire::rest::event::{Event, SSE_EVENT};

use crate::context::{Cx, page_of, shown};
use crate::endpoint::public::whole_list;
use crate::endpoint::stream;
use crate::error::ApiError;
use crate::reply::Reply;
use crate::route::{Param, Route, Rule, VIEWER, flag, number, read, text};

/// Events read at a time by one who follows.
const FOLLOW_BATCH: usize = 100;

const AFTER: Param = number("after", "only what came after this id of a stream, the oldest first");

const FOLLOW: Param = flag("follow", "what a stream does anyway; refused for a page");

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/orgs/{org}/events", "list_events", VIEWER, of_org)
            .about("What happened in the org: the newest first, or as a stream from now on")
            .paged()
            .query(&[text("app", "only what concerns this app, by id"), AFTER, FOLLOW])
            .answers_page_or_stream::<Event>(),
        read("/v1/events", "list_platform_events", Rule::Operator, of_platform)
            .about("What happened on the whole installation")
            .paged()
            .query(&[AFTER, FOLLOW])
            .answers_page_or_stream::<Event>(),
    ]
}

async fn of_org(cx: Cx) -> Result<Reply, ApiError> {
    let org = cx.org_id()?;
    let of = match cx.query::<AppId>("app")? {
        None => Of::Org(org),
        // Also of an app that is gone: its history is the org's.
        Some(app) => Of::App(org, app),
    };
    answer(cx, of).await
}

async fn of_platform(cx: Cx) -> Result<Reply, ApiError> {
    answer(cx, Of::Platform).await
}

async fn answer(cx: Cx, of: Of) -> Result<Reply, ApiError> {
    let after = match cx.query::<u64>("after")? {
        Some(after) => Some(after),
        None => last_event_id(&cx.headers),
    };
    if cx.wants_stream() {
        let place = cx.api.stream_place(cx.caller()?.token)?;
        let newest = cx.read(|tx| Ok(events::newest(tx)?)).await?;
        let from = after.map_or(newest, EventSeq);
        let events = follow(cx.store().clone(), of, from);
        return Ok(stream::answer(events, place, cx.api.shutdown.clone()));
    }
    if cx.flag("follow")?.unwrap_or(false) {
        return Err(ApiError::query("follow", "only a stream can go on")
            .hint("send Accept: text/event-stream"));
    }
    let page = cx.page()?;
    match after {
        Some(after) => {
            let limit = page.limit.clamp(1, insula_model::limits::PAGE_MAX);
            let found = cx.read(move |tx| Ok(since(tx, of, EventSeq(after), limit)?)).await?;
            whole_list(found.into_iter().map(|(_, event)| event).collect())
        }
        None => {
            let found = cx.read(move |tx| {
                let mut paged = events::list(tx, of, &page)?;
                let items = std::mem::take(&mut paged.items).into_iter();
                let items = items.map(|event| view(tx, of, event)).collect::<Result<_, _>>()?;
                Ok(Page { items, next: page_of(paged, |_| ()).next })
            });
            shown::<Page<Event>>(&found.await?)
        }
    }
}

fn since(
    tx: &Tx,
    of: Of,
    after: EventSeq,
    limit: usize,
) -> Result<Vec<(EventSeq, Event)>, StoreError> {
    let found = events::since(tx, of, after, limit)?.into_iter();
    found.map(|(seq, event)| Ok((seq, view(tx, of, event)?))).collect()
}

/// An event with the name of who did it, as one who reads `of` may know it: an org learns the
/// addresses of its own members only, not of an operator who did something in it.
fn view(tx: &Tx, of: Of, event: event::Event) -> Result<Event, StoreError> {
    let name = match (&event.actor, of, event.org) {
        (Actor::User(id), Of::Platform | Of::Operator, _) => {
            users::get(tx, *id)?.map(|user| user.email.to_string())
        }
        (Actor::User(id), Of::Org(org) | Of::App(org, _), _) => {
            members::get(tx, org, *id)?.map(|member| member.email.to_string())
        }
        (Actor::Token(id), _, Some(org)) => {
            tokens::get(tx, org, *id)?.map(|known| known.token.name.to_string())
        }
        (Actor::Token(_), _, None) | (Actor::Operator | Actor::Platform, _, _) => None,
    };
    Ok(Event::new(event, name))
}

/// What browsers send when a stream broke and is opened again.
fn last_event_id(headers: &HeaderMap) -> Option<u64> {
    headers.get("last-event-id")?.to_str().ok()?.parse().ok()
}

/// Everything after `from`, and then whatever comes. Misses nothing, however slow its reader is:
/// it reads from the store, and the watch only says that there is more.
fn follow(store: Store, of: Of, from: EventSeq) -> impl Stream<Item = Bytes> + Send + 'static {
    let moved = store.events();
    futures_util::stream::unfold((store, moved, from), move |(store, mut moved, from)| async move {
        loop {
            moved.borrow_and_update();
            let read = store.read(move |tx| since(tx, of, from, FOLLOW_BATCH));
            let found: Result<_, StoreError> = read.await;
            match found {
                Ok(found) if found.is_empty() => moved.changed().await.ok()?,
                Ok(found) => {
                    let mut bytes = Vec::new();
                    let last = found.last().map_or(from, |(seq, _)| *seq);
                    for (seq, event) in found {
                        bytes.extend_from_slice(&stream::event(SSE_EVENT, Some(seq.0), &event));
                    }
                    return Some((Bytes::from(bytes), (store, moved, last)));
                }
                Err(error) => {
                    tracing::warn!(%error, "read events for a stream");
                    return None;
                }
            }
        }
    })
}
