//! Lets go of servers that were killed and have not come back. Takes no input but the store and the
//! time.
//!
//! Join tokens that have expired go with everything else that has had its time (`housekeeping`);
//! identities that were revoked stay for ever (`insula_store::enrolments`).

use std::time::{Duration, Instant};

use insula_model::{Millis, ServerId, Timestamp};
use insula_store::{StoreError, Tx, WriteError, servers};
use tracing::warn;

use crate::Cx;
use crate::core::report::{Pass, Reconciler};
use crate::fence::Fence;
use crate::status::Board;

/// Between passes.
const ROUND: Duration = Duration::from_secs(30);
/// A server that was not seen for this long was killed, and has not come back.
const SERVER_KEPT: Millis = Millis::secs(3_600);

/// Runs until it is dropped: for one term.
pub(crate) async fn run(cx: &Cx, fence: Fence, board: &Board) {
    loop {
        let (began, now) = (Instant::now(), Timestamp::from_millis(cx.clock.now_ms()));
        let mut pass = pass(cx, fence, now).await.unwrap_or_else(|error| {
            warn!(error = &error as &dyn std::error::Error, "identities were not looked after");
            Pass { error: Some(error.to_string()), ..Pass::default() }
        });
        pass.took_micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        board.note(Reconciler::Identities, pass, now);
        tokio::time::sleep(ROUND).await;
    }
}

async fn pass(cx: &Cx, fence: Fence, now: Timestamp) -> Result<Pass, WriteError> {
    let mut pass = Pass::default();
    // By the clock of the store, which is the one that they said it by.
    let gone = cx.store.read(move |tx| gone(tx, now)).await?;
    if !gone.is_empty() {
        let forget = move |tx: &mut Tx| {
            fence.check(tx)?;
            let gone = self::gone(tx, now)?;
            gone.iter().try_for_each(|server| servers::forget(tx, *server))?;
            Ok::<_, WriteError>(gone.len())
        };
        pass.did("server forgotten", cx.store.write(forget).await?);
    }
    Ok(pass)
}

fn gone(tx: &Tx, now: Timestamp) -> Result<Vec<ServerId>, StoreError> {
    let kept = servers::fresh(tx, now, SERVER_KEPT)?;
    let mut gone: Vec<ServerId> = servers::list(tx)?.iter().map(|server| server.id).collect();
    gone.retain(|id| kept.iter().all(|server| server.id != *id));
    Ok(gone)
}
