//! Opens the store, and waits for a PostgreSQL that is away.
//!
//! A database restarts, moves to its standby, or comes up minutes after us when everything was
//! switched off. Giving up would say nothing that waiting does not, so it is waited for without
//! end, and said again and again what for. One that is there and does not let us in is an end at
//! once: somebody has to mend something.

use std::time::Duration;

use anyhow::Context;
use insula_kit::backoff::Backoff;
use insula_store::{OpenError, Store, StoreConfig, StoreError};
use tokio::time::Instant;

/// Between attempts.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
/// Between words about it: whoever looks sees them, and a log of an hour is not full of them.
const SAY_EVERY: Duration = Duration::from_secs(5);

pub async fn open(config: StoreConfig) -> anyhow::Result<Store> {
    let opened = patiently(move || Store::open(config.clone())).await;
    opened.context("open the store")
}

async fn patiently<T: Send + 'static>(
    open: impl Fn() -> Result<T, OpenError> + Clone + Send + 'static,
) -> Result<T, OpenError> {
    let began = Instant::now();
    let mut failures = 0;
    let mut said: Option<(String, Instant)> = None;
    loop {
        // The driver has a runtime of its own.
        let opened = match tokio::task::spawn_blocking(open.clone()).await {
            Ok(opened) => opened,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        let error = match opened {
            Err(error) if is_away(&error) => error,
            other => return other,
        };
        let error = format!("{:#}", anyhow::Error::from(error));
        let due =
            said.as_ref().is_none_or(|(before, at)| *before != error || at.elapsed() >= SAY_EVERY);
        if due {
            let seconds = began.elapsed().as_secs();
            tracing::warn!(error, "waiting for the database, {seconds} s so far");
            said = Some((error, Instant::now()));
        }
        failures += 1;
        tokio::time::sleep(AGAIN.delay(failures, 1.0)).await;
    }
}

/// Whether it may pass by itself.
fn is_away(error: &OpenError) -> bool {
    match error {
        OpenError::Connect { source, .. } => !source.is_refusal(),
        OpenError::Prepare { source, .. } | OpenError::Head(source) => {
            matches!(source, StoreError::Unavailable(_) | StoreError::Unknown(_))
        }
        OpenError::Create { .. }
        | OpenError::Open { .. }
        | OpenError::Foreign { .. }
        | OpenError::Newer { .. }
        | OpenError::Copy { .. }
        | OpenError::Migrate { .. }
        | OpenError::ForeignSchema { .. }
        | OpenError::NewerSchema { .. }
        | OpenError::Thread(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn away() -> OpenError {
        let source = std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into();
        OpenError::Connect { place: "postgres://db/insula".into(), source }
    }

    /// What came of it, and after how many attempts.
    async fn trying(
        open: impl Fn(u32) -> Result<(), OpenError> + Clone + Send + 'static,
    ) -> (Result<(), OpenError>, u32) {
        let attempts = Arc::new(AtomicU32::new(0));
        let counted = {
            let attempts = Arc::clone(&attempts);
            move || open(attempts.fetch_add(1, Ordering::SeqCst))
        };
        let opened = patiently(counted).await;
        (opened, attempts.load(Ordering::SeqCst))
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_comes_back_is_waited_for() {
        let (opened, attempts) =
            trying(|before| if before < 5 { Err(away()) } else { Ok(()) }).await;
        assert!(opened.is_ok() && attempts == 6);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_comes_an_hour_late_is_waited_for_as_well() {
        let began = Instant::now();
        let hour = Duration::from_secs(3_600);
        let late = move |_| if began.elapsed() < hour { Err(away()) } else { Ok(()) };
        let (opened, attempts) = trying(late).await;
        assert!(opened.is_ok() && attempts > 1_000);
        assert!(began.elapsed() < hour + AGAIN.max * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_pass_by_itself_is_said_at_once() {
        let newer = |_| {
            let place = "postgres://db/insula".into();
            Err(OpenError::NewerSchema { place, found: 9, known: 2 })
        };
        let (opened, attempts) = trying(newer).await;
        assert!(opened.is_err() && attempts == 1);
    }
}
