//! Hears of the commits of every server that shares the database.
//!
//! A notification says how far the feed and the events have come. It is a wake, and may be lost
//! with its connection: the position is read whenever one is made, and once a second besides.

use std::sync::Arc;
use std::time::Duration;

use insula_model::Generation;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::AsyncMessage;

use crate::database::DbError;
use crate::events::EventSeq;
use crate::group::Heads;
use crate::postgres::{Backoff, PostgresUrl, connect};

/// How late a wake is if its notification was lost and the connection was not.
const POLL: Duration = Duration::from_secs(1);
/// To connect, or to read two numbers. A longer silence is a connection that is no more.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const NEWEST: &str = "SELECT feed.value, event.value FROM counters AS feed, counters AS event
                      WHERE feed.name = 'feed' AND event.name = 'event'";

/// Until `stop` is dropped.
pub(crate) fn run(url: &PostgresUrl, heads: &Arc<Heads>, mut stop: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "nobody listens to the database"),
    };
    runtime.block_on(async {
        let mut backoff = Backoff::default();
        loop {
            let lost = tokio::select! {
                biased;
                _ = &mut stop => return,
                lost = listen(url, heads, &mut backoff) => lost,
            };
            if let Err(error) = lost {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "the connection that listens is lost"
                );
            }
            tokio::select! {
                biased;
                _ = &mut stop => return,
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    });
}

/// For as long as the connection lasts.
async fn listen(
    url: &PostgresUrl,
    heads: &Arc<Heads>,
    backoff: &mut Backoff,
) -> Result<(), DbError> {
    let (heard, mut notes) = mpsc::unbounded_channel();
    let hear = move |message| {
        if let AsyncMessage::Notification(note) = message {
            // Nobody reads any more: the connection is about to be dropped.
            let _ = heard.send(note.payload().to_owned());
        }
    };
    let begin = format!("SET search_path TO \"{}\", pg_temp; LISTEN {}", url.schema, url.channel());
    let connect = async {
        let (client, mut driver) = connect::open(url, hear).await?;
        // Listening first, so that nothing falls between the two.
        connect::driven(&mut driver, client.batch_execute(&begin)).await?;
        let newest = connect::driven(&mut driver, client.prepare(NEWEST)).await?;
        Ok::<_, DbError>((client, driver, newest))
    };
    let Ok(connected) = tokio::time::timeout(ANSWER_MAX, connect).await else { return Ok(()) };
    let (client, mut driver, newest) = connected?;
    *backoff = Backoff::default();
    loop {
        let asked = connect::driven(&mut driver, client.query_one(&newest, &[]));
        let Ok(row) = tokio::time::timeout(ANSWER_MAX, asked).await else { return Ok(()) };
        let row = row?;
        publish(heads, row.try_get(0)?, row.try_get(1)?);
        let pause = tokio::time::sleep(POLL);
        tokio::pin!(pause);
        loop {
            let note = tokio::select! {
                () = &mut pause => break,
                () = &mut driver => return Ok(()),
                note = notes.recv() => note.unwrap_or_default(),
            };
            let mut numbers = note.split(' ').map(str::parse);
            if let (Some(Ok(head)), Some(Ok(events))) = (numbers.next(), numbers.next()) {
                publish(heads, head, events);
            }
        }
    }
}

fn publish(heads: &Heads, head: i64, events: i64) {
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    heads.publish((Some(Generation(number(head))), Some(EventSeq(number(events)))));
}
