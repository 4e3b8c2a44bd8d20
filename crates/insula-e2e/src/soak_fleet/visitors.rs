//! Somebody who asks every app at every gateway again and again, each time on a connection of its
//! own, and forgets no answer that was not as it should be.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::apps::App;
use crate::fleet::process::Role;
use crate::http;

/// Who looks for an hour.
pub const EACH_SECOND: Duration = Duration::from_secs(1);
/// Of one app at one gateway; an hour of nothing but failures is told by its first half.
const FAILURES_KEPT_MAX: usize = 2_000;

/// An answer that was not as it should be, or none.
#[derive(Debug, Clone)]
pub struct Failure {
    pub asked: Instant,
    pub took: Duration,
    pub what: Wrong,
}

/// What was wrong, and what was heard.
#[derive(Debug, Clone)]
pub enum Wrong {
    /// Somebody answered in the place of the app, or nobody did.
    Refused(String),
    /// The app answered itself, and not well.
    Answered(String),
    /// An answer had begun, and ended before it was whole.
    CutOff(String),
}

impl Wrong {
    fn of(error: &anyhow::Error) -> Self {
        let text = format!("{error:#}");
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        match kind {
            Some(std::io::ErrorKind::UnexpectedEof) => Self::CutOff(text),
            Some(_) | None => Self::Refused(text),
        }
    }

    fn heard(&self) -> &str {
        match self {
            Self::Refused(text) | Self::Answered(text) | Self::CutOff(text) => text,
        }
    }
}

impl Failure {
    pub fn was_under_way(&self, from: Instant, to: Instant) -> bool {
        self.asked < to && self.asked + self.took >= from
    }
}

/// What the visitors of one app at one gateway met.
#[derive(Debug, Clone)]
pub struct Met {
    pub app: String,
    pub gateway: String,
    pub good: u64,
    pub failed: u64,
    pub failures: Vec<Failure>,
    pub worst: Duration,
}

#[derive(Debug)]
pub struct Visitors {
    stop: Arc<AtomicBool>,
    met: Vec<Arc<Mutex<Met>>>,
    asking: Vec<JoinHandle<()>>,
}

impl Visitors {
    /// One for each app at each gateway.
    pub fn start(gateways: &[Role], apps: &[App], pause: Duration) -> Result<Self> {
        let mut visitors = Self { stop: Arc::default(), met: Vec::new(), asking: Vec::new() };
        for gateway in gateways {
            for app in apps {
                let met = Arc::new(Mutex::new(Met {
                    app: app.name.clone(),
                    gateway: gateway.name().to_owned(),
                    good: 0,
                    failed: 0,
                    failures: Vec::new(),
                    worst: Duration::ZERO,
                }));
                visitors.met.push(Arc::clone(&met));
                let (app, stop) = (app.clone(), Arc::clone(&visitors.stop));
                // What a thread starts stays in its network.
                visitors.asking.push(gateway.place.inside(move || {
                    Ok(std::thread::spawn(move || ask(&app, pause, &stop, &met)))
                })?);
            }
        }
        Ok(visitors)
    }

    pub fn met(&self) -> Vec<Met> {
        self.met
            .iter()
            .map(|met| met.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .collect()
    }

    pub fn finish(mut self) -> Vec<Met> {
        self.end();
        self.met()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for asking in self.asking.drain(..) {
            // One that panicked has said so already.
            let _ = asking.join();
        }
    }
}

impl Drop for Visitors {
    fn drop(&mut self) {
        self.end();
    }
}

fn ask(app: &App, pause: Duration, stop: &AtomicBool, met: &Mutex<Met>) {
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due = (due + pause).max(Instant::now());
        let asked = Instant::now();
        let wrong = match http::get(app.edge, &app.host, &app.path) {
            Ok(answer) if answer.status != 200 => {
                Some(Wrong::Refused(format!("status {}", answer.status)))
            }
            Ok(answer) if !app.is_good(&answer.text()) => Some(Wrong::Answered(answer.text())),
            Ok(_) => None,
            Err(error) => Some(Wrong::of(&error)),
        };
        let took = asked.elapsed();
        let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
        match wrong {
            None => {
                met.good += 1;
                met.worst = met.worst.max(took);
            }
            Some(what) => {
                met.failed += 1;
                if met.failures.len() < FAILURES_KEPT_MAX {
                    met.failures.push(Failure { asked, took, what });
                }
            }
        }
    }
}

impl Met {
    /// The failures that are kept of requests that were under way at some time between those
    /// moments.
    pub fn failures_between(&self, from: Instant, to: Instant) -> impl Iterator<Item = &Failure> {
        self.failures.iter().filter(move |failure| failure.was_under_way(from, to))
    }

    /// From the first of them to the end of the last.
    pub fn outage_between(&self, from: Instant, to: Instant) -> Duration {
        let mut within = self.failures_between(from, to);
        let Some(first) = within.next() else { return Duration::ZERO };
        let last = within.last().unwrap_or(first);
        (last.asked + last.took).duration_since(first.asked)
    }

    /// When it failed first and last and what was heard then, seen from `since`.
    pub fn excuse(&self, since: Instant) -> String {
        let told = |failure: &Failure| {
            let at = failure.asked.saturating_duration_since(since).as_secs_f32();
            format!(
                "at {at:.1} s for {:.1} s: {}",
                failure.took.as_secs_f32(),
                failure.what.heard().trim()
            )
        };
        match self.failures.as_slice() {
            [] => String::new(),
            [only] => told(only),
            [first, .., last] => format!("first {}; last {}", told(first), told(last)),
        }
    }
}
