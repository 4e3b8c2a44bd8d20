//! Somebody who writes all the time and remembers what was acknowledged, and when.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::http::Answer;

/// Between two writes of one writer.
pub const PAUSE: Duration = Duration::from_millis(100);
/// Two writers and what the app has besides are fewer than an app may have.
const VARIABLES: u64 = 200;

/// What the writers were told.
#[derive(Debug, Default)]
pub struct Told {
    /// Of each variable the newest value that was acknowledged.
    pub variables: BTreeMap<String, u64>,
    pub deployments: Vec<String>,
    /// When each write was acknowledged.
    pub at: Vec<Instant>,
    /// What was heard instead, and how often.
    pub refused: BTreeMap<String, u64>,
    /// Until somebody who was not acknowledged heard so.
    pub longest_refusal: Duration,
}

#[derive(Debug, Default)]
pub struct Writers {
    told: Mutex<Told>,
    stop: AtomicBool,
}

/// The path of an app's variables, from what `apps show` tells of the app.
pub fn variables_of(app: &Value) -> Result<String> {
    let id = app["id"].as_str().with_context(|| format!("no id in {app}"))?;
    Ok(format!("/v1/orgs/default/apps/{id}/variables"))
}

impl Writers {
    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    pub fn into_told(self) -> Told {
        self.told.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets one variable after the other below that path, with numbers that rise from `first`.
    pub fn write(
        &self,
        variables: &str,
        prefix: &str,
        first: u64,
        ask: impl Fn(&str, &Value) -> Result<Answer>,
    ) {
        for number in first.. {
            if !self.goes_on() {
                break;
            }
            let name = format!("{prefix}_{}", number % VARIABLES);
            let path = format!("{variables}/{name}?deploy=false");
            let asked = Instant::now();
            let answer = ask(&path, &json!({"value": number.to_string()}));
            let mut told = self.told();
            match answer {
                Ok(answer) if answer.status == 200 => {
                    told.acknowledge();
                    told.variables.insert(name, number);
                }
                Ok(answer) => told.refuse(format!("status {}", answer.status), asked.elapsed()),
                Err(error) => told.refuse(error.root_cause().to_string(), asked.elapsed()),
            }
            drop(told);
            sleep(PAUSE);
        }
    }
}

impl Told {
    pub fn acknowledge(&mut self) {
        self.at.push(Instant::now());
    }

    pub fn refuse(&mut self, what: String, took: Duration) {
        self.longest_refusal = self.longest_refusal.max(took);
        *self.refused.entry(what).or_default() += 1;
    }

    /// How long after that moment the first write was acknowledged.
    pub fn first_after(&self, moment: Instant) -> Option<Duration> {
        self.at.iter().filter(|at| **at > moment).map(|at| at.duration_since(moment)).min()
    }

    /// The longest time between those two moments in which nothing was acknowledged.
    pub fn longest_silence(&self, from: Instant, to: Instant) -> Duration {
        let mut between: Vec<Instant> =
            self.at.iter().copied().filter(|at| (from..to).contains(at)).collect();
        between.extend([from, to]);
        between.sort_unstable();
        let pauses = between.windows(2).map(|pair| pair[1].duration_since(pair[0]));
        pauses.max().unwrap_or_default()
    }

    /// Refuses unless each variable has the value that was acknowledged, or a newer one.
    pub fn ensure_variables(&self, listed: &Answer) -> Result<()> {
        ensure!(listed.status == 200, "{}: {}", listed.status, listed.text());
        ensure!(!self.variables.is_empty(), "nothing was acknowledged: {:?}", self.refused);
        let listed: Value = serde_json::from_slice(&listed.body)?;
        let items = listed["items"].as_array().context("a list of variables")?;
        let value = |one: &Value| {
            Some((one["name"].as_str()?.to_owned(), one["value"].as_str()?.parse().ok()?))
        };
        let found: BTreeMap<String, u64> = items.iter().filter_map(value).collect();
        for (name, wanted) in &self.variables {
            let is = found.get(name);
            ensure!(is >= Some(wanted), "{name} = {wanted} was acknowledged, it is {is:?}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(at_ms: &[u64]) -> (Told, Instant) {
        let zero = Instant::now();
        let at = at_ms.iter().map(|ms| zero + Duration::from_millis(*ms)).collect();
        (Told { at, ..Told::default() }, zero)
    }

    #[test]
    fn a_silence_is_between_acknowledgements_and_to_both_ends() {
        let (told, zero) = told(&[10, 900, 1_000]);
        let ms = |ms| zero + Duration::from_millis(ms);
        assert_eq!(told.longest_silence(zero, ms(1_050)), Duration::from_millis(890));
        assert_eq!(told.longest_silence(ms(950), ms(3_000)), Duration::from_millis(2_000));
        assert_eq!(told.first_after(ms(20)), Some(Duration::from_millis(880)));
        assert_eq!(told.first_after(ms(1_000)), None);
    }

    #[test]
    fn an_older_value_than_acknowledged_is_a_lost_write_and_a_newer_one_is_not() {
        let mut told = Told::default();
        told.variables.insert("A".into(), 7);
        let listed = |value: &str| Answer {
            status: 200,
            headers: Vec::new(),
            body: json!({"items": [{"name": "A", "value": value}]}).to_string().into_bytes(),
        };
        assert!(told.ensure_variables(&listed("6")).is_err());
        assert!(told.ensure_variables(&listed("7")).is_ok());
        assert!(told.ensure_variables(&listed("8")).is_ok());
        told.variables.insert("B".into(), 1);
        assert!(told.ensure_variables(&listed("8")).is_err(), "one is missing");
    }
}
