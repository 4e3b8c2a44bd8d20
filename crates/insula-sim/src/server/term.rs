//! Who leads, and for how long: the lease, as the product asks for it, and the life of a core.

use std::collections::BTreeMap;
use std::sync::Arc;

use insula_control::core::{Core, Settings};
use insula_kit::random::SeededRandom;

use super::{LEASE_TTL_MS, RENEW_EVERY_MS, TRY_EVERY_MS, Term};
use crate::sim::{Event, Sim};

impl Sim {
    /// Whoever leads now, as far as it knows itself.
    pub fn leader(&self) -> Option<usize> {
        let leads = |s: &usize| {
            let server = &self.servers[*s];
            server.up && server.term.as_ref().is_some_and(|term| self.now < term.sure_until)
        };
        (0..self.servers.len()).filter(leads).max_by_key(|s| self.epoch_of(*s))
    }

    pub fn epoch_of(&self, s: usize) -> Option<u64> {
        self.servers[s].term.as_ref().map(|term| term.epoch)
    }

    pub(super) fn is_term(&self, s: usize, epoch: u64) -> bool {
        self.servers[s].up && self.epoch_of(s) == Some(epoch)
    }

    /// Drops the core, whatever it was doing.
    pub fn end_term(&mut self, s: usize) {
        let Some(term) = self.servers[s].term.take() else { return };
        self.trace.tell(self.now, || format!("server {s} leads no more, epoch {}", term.epoch));
        for session in term.nodes.into_values().chain(term.gateways.into_values()) {
            self.server_lets_go(session);
        }
    }

    pub(super) fn elects_after(&mut self, s: usize, wait: u64) {
        self.servers[s].elects_at = self.now + wait;
        self.queue.push(self.now + wait, Event::Elect(s, self.lives[s]));
    }

    /// Takes the lease or renews it: the question travels to the store and back. There is one at a
    /// time, and its answer is waited for as long as the term is sure, as in `Elector::look`.
    pub fn elect(&mut self, s: usize, life: u64) {
        let server = &self.servers[s];
        // Whoever was answered looks after the lease at another time.
        if !server.up || self.lives[s] != life || self.now < server.elects_at {
            return;
        }
        if server.term.as_ref().is_some_and(|term| self.now >= term.sure_until) {
            self.end_term(s);
        }
        if self.servers[s].asked.take().is_some() {
            return self.elects_later(s);
        }
        self.servers[s].asked = Some(self.now);
        let sure = self.servers[s].term.as_ref().map(|term| term.sure_until - self.now);
        self.elects_after(s, sure.unwrap_or(LEASE_TTL_MS));
        let there = self.store_delay();
        let held = self.epoch_of(s);
        let ask = Event::Lease { server: s, life, sent: self.now, held };
        self.queue.push(self.now + there, ask);
    }

    fn elects_later(&mut self, s: usize) {
        let leads = self.servers[s].term.is_some();
        self.elects_after(s, if leads { RENEW_EVERY_MS } else { TRY_EVERY_MS });
    }

    pub fn lease(&mut self, s: usize, life: u64, sent: u64, held: Option<u64>) {
        if !self.store_answers(s) {
            return;
        }
        let (now, lease) = (self.now, &mut self.store.lease);
        let ours = lease.holder == Some(s);
        if !(ours && held == Some(lease.epoch)) && (ours || now >= lease.until) {
            // Every time under a new epoch, also in the name of who held it before.
            lease.holder = Some(s);
            lease.epoch += 1;
        }
        let epoch = (lease.holder == Some(s)).then_some(lease.epoch);
        if epoch.is_some() {
            lease.until = now + LEASE_TTL_MS;
        }
        let back = self.store_delay();
        self.queue.push(now + back, Event::Leased { server: s, life, sent, held, epoch });
    }

    pub fn leased(
        &mut self,
        s: usize,
        life: u64,
        sent: u64,
        held: Option<u64>,
        epoch: Option<u64>,
    ) {
        if !self.servers[s].up || self.lives[s] != life {
            return;
        }
        // An answer that nobody waits for any more says nothing of now.
        if self.servers[s].asked != Some(sent) {
            return;
        }
        self.servers[s].asked = None;
        let sure_until = sent + LEASE_TTL_MS;
        match (self.epoch_of(s), epoch) {
            (Some(ours), Some(epoch)) if ours == epoch => {
                if let Some(term) = &mut self.servers[s].term {
                    term.sure_until = term.sure_until.max(sure_until);
                }
            }
            (Some(_), _) => self.end_term(s),
            (None, Some(epoch))
                if held != Some(epoch) && self.now < sure_until && self.store_answers(s) =>
            {
                self.begin_term(s, epoch, sure_until);
            }
            (None, _) => {}
        }
        self.elects_later(s);
    }

    fn begin_term(&mut self, s: usize, epoch: u64, sure_until: u64) {
        let random = Arc::new(SeededRandom::new(self.chance.draw()));
        let settings = Settings::new(self.suffix.clone());
        let core = Core::new(settings, random, self.store.snapshot(), self.clocks(s));
        self.trace.tell(self.now, || format!("server {s} leads, epoch {epoch}"));
        self.counts.terms += 1;
        self.servers[s].term = Some(Term {
            epoch,
            core,
            sure_until,
            reading: false,
            open: 0,
            seen: None,
            wake_at: None,
            nodes: BTreeMap::new(),
            gateways: BTreeMap::new(),
            heard: BTreeMap::new(),
            table: None,
        });
        self.wake(s, 0);
    }

    /// Whether this server still may act; if its time is over, it ends its term.
    pub(super) fn leads(&mut self, s: usize, epoch: u64) -> bool {
        if !self.is_term(s, epoch) {
            return false;
        }
        let sure = self.servers[s].term.as_ref().is_some_and(|term| self.now < term.sure_until);
        if !sure {
            self.end_term(s);
        }
        sure
    }
}
