//! Opens the store, and waits for a PostgreSQL that is away.
//!
//! A database restarts, moves to its standby, or comes up after us. Dying then would say nothing
//! that waiting does not, and a supervisor would start us again and again.

use std::time::Duration;

use anyhow::Context;
use insula_kit::backoff::Backoff;
use insula_store::{OpenError, Store, StoreConfig, StoreError};
use tokio::time::Instant;

/// Longer than a database takes to restart or to fail over; then whoever started us shall know.
const AWAY_TIME_MAX: Duration = Duration::from_secs(120);
/// Between attempts.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));

pub async fn open(config: StoreConfig) -> anyhow::Result<Store> {
    let opened = patiently(move || Store::open(config.clone())).await;
    opened.context("open the store")
}

async fn patiently<T: Send + 'static>(
    open: impl Fn() -> Result<T, OpenError> + Clone + Send + 'static,
) -> Result<T, OpenError> {
    let began = Instant::now();
    let mut failures = 0;
    let mut said = String::new();
    loop {
        // The driver has a runtime of its own.
        let opened = match tokio::task::spawn_blocking(open.clone()).await {
            Ok(opened) => opened,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        let error = match opened {
            Err(error) if is_away(&error) && began.elapsed() < AWAY_TIME_MAX => error,
            other => return other,
        };
        let error = format!("{:#}", anyhow::Error::from(error));
        if error != said {
            let seconds = AWAY_TIME_MAX.as_secs();
            tracing::warn!(error, "waiting for the database, for {seconds} s at most");
            said = error;
        }
        failures += 1;
        tokio::time::sleep(AGAIN.delay(failures, 1.0)).await;
    }
}

/// Whether it may pass by itself.
fn is_away(error: &OpenError) -> bool {
    match error {
        OpenError::Connect { .. } => true,
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
    async fn one_that_stays_away_is_given_up_with_words() {
        let began = Instant::now();
        let (opened, attempts) = trying(|_| Err(away())).await;
        let words = opened.unwrap_err().to_string();
        assert!(words.contains("postgres://db/insula"), "{words}");
        assert!(began.elapsed() >= AWAY_TIME_MAX && attempts > 10);
        assert!(began.elapsed() < AWAY_TIME_MAX + AGAIN.max * 2);
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
