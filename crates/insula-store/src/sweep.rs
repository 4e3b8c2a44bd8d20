//! Forgets what has served its time. Somebody calls this now and then; nothing waits for it.

use insula_model::Timestamp;

use crate::error::StoreError;
use crate::tx::Tx;
use crate::{events, idempotency, invitations, joins, tokens};

/// How many rows went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub answers: usize,
    pub tokens: usize,
    pub invitations: usize,
    pub events: usize,
    pub joins: usize,
}

pub fn all(tx: &mut Tx, now: Timestamp) -> Result<Swept, StoreError> {
    Ok(Swept {
        answers: idempotency::sweep(tx, now)?,
        tokens: tokens::sweep(tx, now)?,
        invitations: invitations::sweep(tx, now)?,
        events: events::sweep(tx, events::KEPT_PER_ORG)?,
        joins: joins::sweep(tx, now)?,
    })
}
