//! A connection made ready for one thread of the store.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Socket};

use crate::database::{Access, Cause, DbError};
use crate::postgres::url::{PostgresUrl, Trust};
use crate::postgres::{Postgres, tls};

/// To an address that does not answer.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// All of it: every address, TLS, authentication, settings.
const READY_MAX: Duration = Duration::from_secs(5);
/// Mutations take milliseconds. A server that is cut off or stopped in the middle of one loses its
/// lock after this, and the others go on.
const PAUSE_WRITE_MAX: Duration = Duration::from_secs(3);
/// Between two statements of one view: a large World is decoded meanwhile.
const PAUSE_READ_MAX: Duration = Duration::from_secs(120);
/// Unanswered data means that the way is cut.
const TCP_SILENT_MAX: Duration = Duration::from_secs(10);

/// What reads and writes the socket. It lives with the connection and moves only while somebody
/// waits for an answer: dropped, the socket is closed at once.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection with the settings of a transaction of ours.
pub(super) async fn session(of: &Postgres) -> Result<(Client, Driver), DbError> {
    let ready = async {
        let (client, mut driver) = open(&of.url, |_| {}).await?;
        driven(&mut driver, prepare(of, &client)).await?;
        Ok((client, driver))
    };
    let waited = tokio::time::timeout(READY_MAX, ready).await;
    waited.unwrap_or_else(|_| Err(Cause::Silent(READY_MAX).into()))
}

async fn prepare(of: &Postgres, client: &Client) -> Result<(), DbError> {
    let pause = match of.access {
        Access::Write => PAUSE_WRITE_MAX,
        Access::Read => PAUSE_READ_MAX,
    };
    // The pause is the server's to measure: it holds even when this process does not run.
    let settings = format!(
        "SET search_path TO \"{}\", pg_temp;
         SET lock_timeout TO {};
         SET idle_in_transaction_session_timeout TO {};
         SET synchronous_commit TO on;
         SET client_min_messages TO warning",
        of.url.schema,
        of.lock_wait.0,
        pause.as_millis()
    );
    client.batch_execute(&settings).await?;
    let Some(known) = of.format else { return Ok(()) };
    let found = client.query_one("SELECT number FROM format", &[]).await?;
    let found = u32::try_from(found.try_get::<_, i64>(0)?).unwrap_or(u32::MAX);
    if found == known { Ok(()) } else { Err(Cause::Format { found, known }.into()) }
}

/// Polls the connection for as long as the answer takes.
pub(super) async fn driven<T>(driver: &mut Driver, answer: impl Future<Output = T>) -> T {
    let mut answer = pin!(answer);
    poll_fn(|cx| {
        // Once it has ended it stays so; the answer then is that it is closed.
        let _ = driver.as_mut().poll(cx);
        answer.as_mut().poll(cx)
    })
    .await
}

/// A bare connection. `hear` is told what the server says by itself.
pub(super) async fn open(
    url: &PostgresUrl,
    hear: impl FnMut(AsyncMessage) + Send + 'static,
) -> Result<(Client, Driver), DbError> {
    let mut config = (*url.config).clone();
    config.application_name("insula").connect_timeout(CONNECT_MAX).tcp_user_timeout(TCP_SILENT_MAX);
    config.keepalives_idle(TCP_SILENT_MAX);
    match &url.trust {
        Trust::Plain => with(&config, NoTls, hear).await,
        Trust::Anyone => with(&config, tls::to_anyone()?, hear).await,
        Trust::Named { roots } => with(&config, tls::to_named(roots.as_deref())?, hear).await,
    }
}

async fn with<T>(
    config: &Config,
    tls: T,
    mut hear: impl FnMut(AsyncMessage) + Send + 'static,
) -> Result<(Client, Driver), DbError>
where
    T: MakeTlsConnect<Socket, Stream: Send + 'static>,
{
    let (client, connection) = config.connect(tls).await?;
    let mut connection = Some(connection);
    let driver = poll_fn(move |cx| {
        while let Some(open) = &mut connection {
            match open.poll_message(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(message))) => hear(message),
                // Dropped, it tells those who wait for an answer that there will be none.
                Poll::Ready(Some(Err(_)) | None) => connection = None,
            }
        }
        Poll::Ready(())
    });
    Ok((client, Box::pin(driver)))
}
