//! What went through, per component: counted by the threads, told to the server as differences.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use insula_model::{AppId, ComponentName};
use insula_wire::node as wire;
use tokio::sync::Notify;

/// Of one component. Counted up by every thread, taken by the session.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    requests: AtomicU64,
    errors_5xx: AtomicU64,
    bytes_out: AtomicU64,
    ledger: Arc<Flag>,
}

#[derive(Debug, Default)]
struct Flag {
    changed: AtomicBool,
    notify: Notify,
}

#[derive(Debug, Default)]
pub(crate) struct Traffic {
    apps: Mutex<BTreeMap<(AppId, ComponentName), Arc<Counts>>>,
    flag: Arc<Flag>,
}

impl Counts {
    pub(crate) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.ledger.raise();
    }

    pub(crate) fn error(&self) {
        self.errors_5xx.fetch_add(1, Ordering::Relaxed);
        self.ledger.raise();
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
        self.ledger.raise();
    }
}

impl Flag {
    fn raise(&self) {
        if !self.changed.load(Ordering::Relaxed) && !self.changed.swap(true, Ordering::AcqRel) {
            self.notify.notify_one();
        }
    }
}

impl Traffic {
    pub(crate) fn counts(&self, app: AppId, component: &ComponentName) -> Arc<Counts> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Arc::new(Counts { ledger: Arc::clone(&self.flag), ..Counts::default() });
        Arc::clone(apps.entry((app, component.clone())).or_insert_with(fresh))
    }

    /// Ready when something was counted since the last report: nobody wakes for nothing.
    pub(crate) async fn changed(&self) {
        self.flag.notify.notified().await;
    }

    /// What was counted since the last call; forgets components that nobody counts for any more.
    pub(crate) fn take(&self) -> wire::TrafficReport {
        self.flag.changed.store(false, Ordering::Release);
        let mut report = wire::TrafficReport::default();
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        apps.retain(|(app, component), counts| {
            let taken = wire::AppTraffic {
                app: app.to_string(),
                component: component.to_string(),
                requests: counts.requests.swap(0, Ordering::Relaxed),
                errors_5xx: counts.errors_5xx.swap(0, Ordering::Relaxed),
                bytes_out: counts.bytes_out.swap(0, Ordering::Relaxed),
            };
            let nothing = taken.requests == 0 && taken.errors_5xx == 0 && taken.bytes_out == 0;
            if !nothing {
                report.apps.push(taken);
            }
            !nothing || Arc::strong_count(counts) > 1
        });
        report
    }
}
