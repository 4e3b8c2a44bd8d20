//! Counters, gauges and histograms, rendered as Prometheus text.
//!
//! Written by hand because it is small: the crates that do this bring a global recorder, a macro
//! layer and a dozen dependencies for what are a few atomics and one page of text. Handles are
//! taken once and kept; using one is an atomic operation, the lock is for registering and
//! rendering. Label values may come from strangers, so the number of series has a limit.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A thousand apps with a handful of codes each; past it, new label values are counted together
/// as `other`, so that a tenant's imagination does not become our memory.
pub const SERIES_PER_METRIC_MAX: usize = 8_192;

/// From half a millisecond, a request on loopback, to two minutes, a slow build step.
pub const SECONDS_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    120.0,
];

pub type Labels<'a> = &'a [(&'static str, &'a str)];

/// Clones are handles on the same registry.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    families: Arc<Mutex<BTreeMap<&'static str, Family>>>,
}

#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicI64>);

#[derive(Debug, Clone)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    /// One more than the bounds: the last holds what is above them all.
    counts: Vec<AtomicU64>,
    /// The bits of a double.
    sum: AtomicU64,
}

#[derive(Debug)]
struct Family {
    help: &'static str,
    kind: &'static str,
    series: BTreeMap<String, Series>,
}

#[derive(Debug, Clone)]
enum Series {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

impl Metrics {
    pub fn new() -> Self {
        Self::default()
    }

    /// The counter of that name and those labels, made if there is none yet. Panics, as do its
    /// siblings, if the name was taken for another kind: two places in the code disagree.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: Labels<'_>) -> Counter {
        match self.series(name, help, "counter", labels, || Series::Counter(Counter::default())) {
            Series::Counter(counter) => counter,
            Series::Gauge(_) | Series::Histogram(_) => panic!("{name} is not a counter"),
        }
    }

    pub fn gauge(&self, name: &'static str, help: &'static str, labels: Labels<'_>) -> Gauge {
        match self.series(name, help, "gauge", labels, || Series::Gauge(Gauge::default())) {
            Series::Gauge(gauge) => gauge,
            Series::Counter(_) | Series::Histogram(_) => panic!("{name} is not a gauge"),
        }
    }

    /// `bounds` are the upper ends of the buckets, rising; see `SECONDS_BUCKETS`.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
        bounds: &'static [f64],
    ) -> Histogram {
        let made = || Series::Histogram(Histogram::new(bounds));
        match self.series(name, help, "histogram", labels, made) {
            Series::Histogram(histogram) => histogram,
            Series::Counter(_) | Series::Gauge(_) => panic!("{name} is not a histogram"),
        }
    }

    /// Forgets one series, when what it told of is gone.
    pub fn forget(&self, name: &str, labels: Labels<'_>) {
        if let Some(family) = self.locked().get_mut(name) {
            family.series.remove(&label_text(labels));
        }
    }

    /// Prometheus text format 0.0.4, in a determined order.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (name, family) in &*self.locked() {
            let _ = writeln!(text, "# HELP {name} {}", family.help.replace('\n', " "));
            let _ = writeln!(text, "# TYPE {name} {}", family.kind);
            for (labels, series) in &family.series {
                series.render(&mut text, name, labels);
            }
        }
        text
    }

    fn series(
        &self,
        name: &'static str,
        help: &'static str,
        kind: &'static str,
        labels: Labels<'_>,
        make: impl FnOnce() -> Series,
    ) -> Series {
        debug_assert!(is_name(name) && labels.iter().all(|(label, _)| is_name(label)), "{name}");
        let mut families = self.locked();
        let family =
            families.entry(name).or_insert_with(|| Family { help, kind, series: BTreeMap::new() });
        let mut key = label_text(labels);
        if !family.series.contains_key(&key) && family.series.len() >= SERIES_PER_METRIC_MAX {
            let others: Vec<_> = labels.iter().map(|(label, _)| (*label, "other")).collect();
            key = label_text(&others);
        }
        family.series.entry(key).or_insert_with(make).clone()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Family>> {
        // Nothing panics half way through a change; a poisoned lock still holds whole maps.
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counter {
    pub fn increment(&self) {
        self.add(1);
    }

    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Gauge {
    pub fn set(&self, to: i64) {
        self.0.store(to, Ordering::Relaxed);
    }

    pub fn add(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        debug_assert!(bounds.is_sorted());
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Buckets { bounds, counts, sum: AtomicU64::new(0) }))
    }

    pub fn observe(&self, value: f64) {
        let bucket = self.0.bounds.partition_point(|bound| *bound < value);
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        let _ = self.0.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    pub fn observe_duration(&self, took: std::time::Duration) {
        self.observe(took.as_secs_f64());
    }
}

impl Series {
    fn render(&self, text: &mut String, name: &str, labels: &str) {
        let braces =
            |inner: &str| if inner.is_empty() { String::new() } else { format!("{{{inner}}}") };
        let _ = match self {
            Self::Counter(counter) => {
                writeln!(text, "{name}{} {}", braces(labels), counter.value())
            }
            Self::Gauge(gauge) => writeln!(text, "{name}{} {}", braces(labels), gauge.value()),
            Self::Histogram(Histogram(buckets)) => {
                let mut total = 0;
                let comma = if labels.is_empty() { "" } else { "," };
                let bounds = buckets.bounds.iter().map(ToString::to_string);
                let bounds = bounds.chain(["+Inf".to_owned()]);
                for (bound, count) in bounds.zip(&buckets.counts) {
                    total += count.load(Ordering::Relaxed);
                    let _ =
                        writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}");
                }
                let sum = f64::from_bits(buckets.sum.load(Ordering::Relaxed));
                let _ = writeln!(text, "{name}_sum{} {sum}", braces(labels));
                writeln!(text, "{name}_count{} {total}", braces(labels))
            }
        };
    }
}

fn label_text(labels: Labels<'_>) -> String {
    let mut text = String::new();
    for (label, value) in labels {
        let comma = if text.is_empty() { "" } else { "," };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{comma}{label}=\"{value}\"");
    }
    text
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = Metrics::new();
        metrics.counter("b_total", "Bees.", &[("code", "200"), ("org", "a\"\\\nb")]).add(3);
        metrics.counter("b_total", "Bees.", &[("code", "200"), ("org", "a\"\\\nb")]).increment();
        metrics.gauge("a_now", "Ants.", &[]).set(-2);
        let seconds = metrics.histogram("c_seconds", "Cats.", &[("x", "y")], &[0.1, 1.0]);
        [0.05, 0.1, 0.5, 7.0].into_iter().for_each(|value| seconds.observe(value));
        let expected = r#"# HELP a_now Ants.
# TYPE a_now gauge
a_now -2
# HELP b_total Bees.
# TYPE b_total counter
b_total{code="200",org="a\"\\\nb"} 4
# HELP c_seconds Cats.
# TYPE c_seconds histogram
c_seconds_bucket{x="y",le="0.1"} 2
c_seconds_bucket{x="y",le="1"} 3
c_seconds_bucket{x="y",le="+Inf"} 4
c_seconds_sum{x="y"} 7.65
c_seconds_count{x="y"} 4
"#;
        assert_eq!(metrics.render(), expected);
        metrics.forget("a_now", &[]);
        assert!(!metrics.render().contains("a_now -2"));
    }

    #[test]
    fn a_flood_of_label_values_ends_as_other() {
        let metrics = Metrics::new();
        for number in 0..SERIES_PER_METRIC_MAX + 100 {
            metrics.counter("hits", "", &[("host", &number.to_string())]).increment();
        }
        let text = metrics.render();
        assert!(text.contains("hits{host=\"other\"} 100\n"));
        assert_eq!(text.lines().count(), 2 + SERIES_PER_METRIC_MAX + 1);
    }

    #[test]
    fn threads_lose_no_count() {
        let metrics = Metrics::new();
        let seconds = metrics.histogram("s", "", &[], SECONDS_BUCKETS);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| seconds.observe(1.0)));
            }
        });
        assert!(metrics.render().contains("s_sum 4000\ns_count 4000\n"));
    }
}
