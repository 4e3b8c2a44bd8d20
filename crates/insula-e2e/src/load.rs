//! A steady, bounded stream of requests that notices every one that fails.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::http::Connection;
use crate::machine::wait_for;
use crate::story::MOMENT;

/// Connections that share the rate. Each is used for a while and then made anew, as browsers do.
const CONNECTIONS: u32 = 4;
const REQUESTS_PER_CONNECTION: u32 = 50;
/// Different answers that are told apart; an app that answers with the time has more.
const ANSWERS_MAX: usize = 64;
/// A load ends by itself, whatever becomes of the test.
const TIME_MAX: Duration = Duration::from_secs(30 * 60);

#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub good: u64,
    pub failed: Vec<String>,
    pub latencies_us: Vec<u64>,
    /// Different answers, and when each was seen first.
    pub answers: BTreeMap<String, Instant>,
}

impl Seen {
    fn fail(&mut self, began: Instant, asked: Instant, what: &str) {
        let at = asked.duration_since(began).as_secs_f32();
        let took = asked.elapsed().as_secs_f32();
        self.failed.push(format!("{what} (asked at {at:.1} s, took {took:.1} s)"));
    }

    /// When the first answer came that was none of these.
    pub fn first_but(&self, known: &std::collections::BTreeSet<String>) -> Option<Instant> {
        let others = self.answers.iter().filter(|(answer, _)| !known.contains(*answer));
        others.map(|(_, first)| *first).min()
    }

    pub fn worst_ms(&self) -> u64 {
        self.latencies_us.iter().max().map_or(0, |worst| worst / 1_000)
    }

    pub fn percentile_us(&self, per_mille: usize) -> u64 {
        let mut sorted = self.latencies_us.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * per_mille / 1_000).min(sorted.len().saturating_sub(1));
        sorted.get(at).copied().unwrap_or(0)
    }
}

impl Load {
    /// `rate` requests a second in all.
    pub fn start(to: SocketAddr, host: &str, path: &str, rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let pause = Duration::from_secs(1) * CONNECTIONS / rate.max(1);
        let workers = (0..CONNECTIONS)
            .map(|_| {
                let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
                let (host, path) = (host.to_owned(), path.to_owned());
                std::thread::spawn(move || work(to, &host, &path, pause, &stop, &seen))
            })
            .collect();
        Self { stop, workers, seen }
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub fn finish(mut self) -> Seen {
        self.end();
        self.seen()
    }

    /// Waits for so many good answers more.
    pub fn wait_served(&self, more: u64) -> Result<()> {
        let wanted = self.seen().good + more;
        wait_for(&format!("{more} answers more"), MOMENT, || Ok(self.seen().good >= wanted))
    }

    /// Ends it, and refuses if a request failed, or if there were fewer than `least`.
    pub fn finish_served(self, least: u64, what: &str) -> Result<Seen> {
        let seen = self.finish();
        let (good, failed) = (seen.good, seen.failed.len());
        println!("{what}: {good} good, worst {} ms, {failed} failed", seen.worst_ms());
        ensure!(failed == 0, "{what}: {failed} beside {good}: {:?}", seen.failed);
        ensure!(good >= least, "{what}: there was hardly any load: {good}");
        Ok(seen)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            // A worker that panicked has said so already.
            let _ = worker.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

fn work(
    to: SocketAddr,
    host: &str,
    path: &str,
    pause: Duration,
    stop: &AtomicBool,
    seen: &Mutex<Seen>,
) {
    let began = Instant::now();
    let mut due = began;
    let mut connection: Option<(Connection, u32)> = None;
    while !stop.load(Ordering::Relaxed) && began.elapsed() < TIME_MAX {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += pause;
        let asked = Instant::now();
        let answer = match connection.take() {
            Some((open, used)) if used < REQUESTS_PER_CONNECTION => Ok((open, used)),
            _ => Connection::open(to).map(|open| (open, 0)),
        }
        .and_then(|(mut open, used)| {
            let answer = open.get(host, path)?;
            let closes =
                answer.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
            if !closes {
                connection = Some((open, used + 1));
            }
            Ok(answer)
        });
        let mut seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match answer {
            Ok(answer) if answer.status == 200 => {
                seen.good += 1;
                seen.latencies_us
                    .push(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX));
                if seen.answers.len() < ANSWERS_MAX {
                    seen.answers.entry(answer.text()).or_insert_with(Instant::now);
                }
            }
            Ok(answer) => seen.fail(began, asked, &format!("status {}", answer.status)),
            Err(error) => seen.fail(began, asked, &format!("{error:#}")),
        }
    }
}
