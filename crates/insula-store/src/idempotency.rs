//! Answers to requests that carried an `Idempotency-Key`, so that a repeat does nothing twice.
//!
//! `begin` and `finish` stand around a mutation, in its transaction: either all three happen or
//! none does. Since mutations are run one after another, two requests of one key cannot both be
//! new. An answer may hold what is shown only once (a token's text): the caller seals it.

use insula_model::limits::IDEMPOTENCY_KEPT;
use insula_model::{Digest, Timestamp};

use crate::error::StoreError;
use crate::sql::params;
use crate::tx::Tx;

/// What makes two requests the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who asked: one caller's keys are nothing to another.
    pub caller: String,
    pub key: String,
    /// The method and the path.
    pub route: String,
    pub body: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// Do it, then `finish`.
    New,
    /// It was done: this was the answer.
    Replay { status: u16, answer: Vec<u8> },
    /// The key was used for another request.
    Conflict,
}

pub fn begin(tx: &mut Tx, request: &Request, now: Timestamp) -> Result<Begin, StoreError> {
    let found = tx.find(
        "SELECT route, body, status, answer, at FROM idempotency WHERE caller = ?1 AND key = ?2",
        params![request.caller.as_str(), request.key.as_str()],
        |row| {
            let (route, body) = (row.text()?, row.parse::<Digest>()?);
            let same = route == request.route && body == request.body;
            Ok((same, row.amount()?, row.blob()?, row.time()?))
        },
    )?;
    Ok(match found {
        Some((_, _, _, at)) if at.plus(IDEMPOTENCY_KEPT) <= now => Begin::New,
        Some((true, status, answer, _)) => Begin::Replay { status, answer },
        Some((false, ..)) => Begin::Conflict,
        None => Begin::New,
    })
}

/// Keeps the answer, for 24 hours from now.
pub fn finish(
    tx: &mut Tx,
    request: &Request,
    status: u16,
    answer: &[u8],
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO idempotency (caller, key, route, body, status, answer, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (caller, key) DO UPDATE SET
             route = excluded.route, body = excluded.body, status = excluded.status,
             answer = excluded.answer, at = excluded.at",
        params![
            request.caller.as_str(),
            request.key.as_str(),
            request.route.as_str(),
            request.body,
            u32::from(status),
            answer,
            now,
        ],
    )?;
    Ok(())
}

/// Forgets what is older than is promised.
pub(crate) fn sweep(tx: &mut Tx, now: Timestamp) -> Result<usize, StoreError> {
    let kept = i64::try_from(IDEMPOTENCY_KEPT.0).unwrap_or(i64::MAX);
    let oldest = Timestamp::from_millis(now.as_millis().saturating_sub(kept));
    tx.execute("DELETE FROM idempotency WHERE at <= ?1", params![oldest])
}
