//! Acknowledged is durable: a process that is killed has lost nothing that it said it had done.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use insula_store::{Store, StoreConfig, WriteError, feed, orgs};

use crate::model::{Fixture, org, org_id};

const PLACE: &str = "INSULA_STORE_TEST_KILLED_IN";
const ROUND: &str = "INSULA_STORE_TEST_ROUND";
const ROUNDS: u32 = 6;
const WRITERS: u32 = 4;
/// More than a writer gets to before it is killed.
const WRITES_MAX: u32 = 100_000;

fn config(place: &str) -> StoreConfig {
    match place.parse() {
        Ok(url) => StoreConfig::postgres(url),
        Err(_) => StoreConfig::new(place),
    }
}

/// The child: writes as fast as it can and says so, one line for each acknowledgement.
fn write_until_killed(place: &str, round: u32) {
    let store = Store::open(config(place)).unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            std::thread::spawn(move || {
                for n in 0..WRITES_MAX {
                    let id = (round * WRITERS + writer) * WRITES_MAX + n;
                    let made: Result<(), WriteError> =
                        store.write_blocking(move |tx| orgs::create(tx, &org(id)));
                    made.unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "acknowledged {id}").unwrap();
                    out.flush().unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_a_kill() {
    if let (Ok(place), Ok(round)) = (std::env::var(PLACE), std::env::var(ROUND)) {
        return write_until_killed(&place, round.parse().unwrap());
    }
    let fixture = Fixture::new();
    let place = fixture.config().place.to_string();
    // Whoever is killed is the only one.
    let Fixture { store, folder, .. } = fixture;
    drop(store);
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::nothing_acknowledged_is_lost_by_a_kill", "--nocapture"])
            .env(PLACE, &place)
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut note = |line: String| {
            let id = line.strip_prefix("acknowledged ").and_then(|id| id.parse::<u32>().ok());
            id.is_some_and(|id| acknowledged.insert(id))
        };
        // Killed at another place each round, always in the middle of its work.
        let mut enough = 20 + 37 * round;
        while enough > 0 {
            enough -= u32::from(note(lines.next().unwrap().unwrap()));
        }
        child.kill().unwrap();
        // What it said before it died counts too; a line cut short by the end does not.
        lines.map_while(Result::ok).for_each(|line| _ = note(line));
        assert!(!child.wait().unwrap().success());

        let store = Store::open(config(&place)).unwrap();
        let expected = acknowledged.clone();
        let (lost, kept, told) = store
            .read_blocking(move |tx| -> Result<_, WriteError> {
                let mut lost = Vec::new();
                for id in &expected {
                    if orgs::get(tx, org_id(*id))?.is_none() {
                        lost.push(*id);
                    }
                }
                Ok((lost, orgs::count(tx)?, feed::head(tx)?))
            })
            .unwrap();
        assert_eq!(lost, Vec::<u32>::new(), "round {round}");
        assert!(kept >= acknowledged.len() as u64);
        // The feed is in the same transactions: neither behind nor ahead.
        assert_eq!(told.0, kept);
    }
    drop(folder);
}
