//! Does what `life` decides, for one instance, until it is gone.
//!
//! Everything that must outlive us is written down before it is begun: whoever finds the record and
//! the sandbox of an instance can go on where we stopped, or clean up.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use insula_kit::seal::SecretBytes;
use insula_model::deployment::{Cause, CauseCode};
use insula_model::observed::{ExitNote, InstancePhase, InstanceReport};
use insula_model::spec::{Failover, Isolation};
use insula_model::target::{InstanceIntent, InstanceTarget};
use insula_model::{Timestamp, VariableName};
use insula_sandbox::{Record, SandboxId};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::life::not_started;
use super::life::{Health, Life, Next, Rules, SETTLED_AFTER, Seen, Stage, Step, Wanted, decide};
use super::log::{TellKeeper, drained, log_spec, tail};
use super::record::InstanceRecord;
use super::spec::{Surroundings, sandbox_id, spec};
use crate::artifact::Lease;
use crate::contact::{Epoch, Leave};
use crate::error::chain;
use crate::keeper::LogSpec;
use crate::names::{Presence, ServiceName, Tenant};
use crate::places::Held;
use crate::probe::{Judge, Verdict, Watch};
use crate::sandbox::SandboxError;
use crate::shared::Shared;

/// What ends a process that did not end in its grace.
const SIGKILL: i32 = 9;
/// A clean-up that failed (a mount that is still busy, say) is tried again after this.
const CLEAN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What the node wants of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub target: InstanceTarget,
    pub wanted: Wanted,
    /// The epoch of contact for which this was said; nothing for what does not depend on contact.
    pub granted: Option<Epoch>,
    /// It stops with the platform and will be wanted again: a run that was started must not be
    /// started then.
    pub remember: bool,
}

impl Assignment {
    pub fn of(target: InstanceTarget, granted: Option<Epoch>) -> Self {
        let wanted = match target.intent {
            InstanceIntent::Run => Wanted::Run,
            InstanceIntent::Stop => Wanted::Stop,
        };
        let granted = granted.filter(|_| target.failover == Failover::Lease);
        Self { target, wanted, granted, remember: false }
    }
}

/// The process of an instance, and everything that ends with it.
#[derive(Debug)]
struct Running {
    record: Record,
    verdicts: mpsc::Receiver<Verdict>,
    watcher: Option<AbortHandle>,
    _lease: Option<Lease>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }
}

#[derive(Debug)]
pub struct InstanceTask {
    shared: Arc<Shared>,
    assignment: watch::Receiver<Assignment>,
    record: InstanceRecord,
    rules: Rules,
    place: Option<Held>,
    lease: Option<Lease>,
    running: Option<Running>,
    warnings: BTreeMap<Warning, String>,
    /// Told in our own log already.
    told: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Warning {
    Port,
    Secrets,
}

/// What is there of a process that an earlier agent started.
enum Found {
    Alive(Box<Record>),
    Over,
    /// Its launch was cut off, or there was none.
    Nothing,
}

/// What ended a wait.
enum Woken {
    Assigned,
    Ended,
    Verdict(Verdict),
    Due,
}

impl InstanceTask {
    /// Of an instance that was not here before. Visible in reports when this returns.
    pub fn new(shared: Arc<Shared>, assignment: watch::Receiver<Assignment>) -> Self {
        let target = assignment.borrow().target.clone();
        let record = InstanceRecord::new(target, Life::new(shared.now()));
        let mut task = Self::with(shared, assignment, record);
        task.report();
        task
    }

    /// Of an instance that an earlier agent held. As visible as it was then when this returns, so
    /// that nothing leaves the routes because an agent was replaced.
    pub async fn adopt(
        shared: Arc<Shared>,
        assignment: watch::Receiver<Assignment>,
        record: InstanceRecord,
    ) -> Self {
        let mut task = Self::with(shared, assignment, record);
        if let Some(place) = task.record.place.clone() {
            let environment = task.record.target.place.environment;
            task.place = Some(task.shared.places.adopt(environment, place));
        }
        match task.found().await {
            Ok(found) => task.take_up(found).await,
            Err(error) => {
                tracing::warn!(instance = %task.record.id(), error = %chain(&error), "adopt");
            }
        }
        task.report();
        task
    }

    fn with(
        shared: Arc<Shared>,
        assignment: watch::Receiver<Assignment>,
        record: InstanceRecord,
    ) -> Self {
        let rules = Rules::of(&record.target);
        Self {
            shared,
            assignment,
            record,
            rules,
            place: None,
            lease: None,
            running: None,
            warnings: BTreeMap::new(),
            told: None,
        }
    }

    async fn found(&self) -> Result<Found, SandboxError> {
        let Some(id) = self.record.sandbox.clone() else { return Ok(Found::Nothing) };
        let Some(sandbox) = self.shared.sandboxes.load(id).await? else {
            return Ok(Found::Nothing);
        };
        let alive = self.shared.sandboxes.is_alive(&sandbox)?;
        Ok(if alive { Found::Alive(Box::new(sandbox)) } else { Found::Over })
    }

    async fn take_up(&mut self, found: Found) {
        let launching = self.record.life.stage == Stage::Launching;
        if launching && !matches!(found, Found::Nothing) {
            // The launch was completed, and only the note of it is missing.
            self.see(Seen::Launched);
        }
        match found {
            Found::Alive(sandbox) => self.take_over(*sandbox),
            // Its end was not seen, or there is nothing to see: a reboot.
            Found::Over | Found::Nothing if self.record.life.is_running() => self.note_exit().await,
            Found::Over | Found::Nothing => {}
        }
    }

    fn take_over(&mut self, sandbox: Record) {
        let dir = self.shared.sandboxes.dir(&sandbox.id);
        if let Ok(None) = LogSpec::load(dir.path()) {
            // The agent before us died between the launch and this.
            let _ = log_spec(&self.record.target).store(dir.path());
        }
        let health = match &self.record.life.stage {
            Stage::Running { health, .. } => health.clone(),
            _ => Health::Starting,
        };
        self.watch(sandbox, health, true);
    }

    /// Until it is gone, or the agent ends.
    pub async fn run(mut self) {
        loop {
            let wanted = self.wanted();
            match decide(wanted, self.rules, &self.record.life, self.shared.now()) {
                Next::Gone => break,
                Next::Do(step) => self.step(step).await,
                Next::Wait { until } => match self.wait(until).await {
                    Woken::Assigned => self.take_assignment(),
                    Woken::Ended => self.note_exit().await,
                    Woken::Verdict(verdict) => self.hear(verdict).await,
                    Woken::Due => {}
                },
            }
            if !matches!(self.record.life.stage, Stage::Gone) {
                self.report();
            }
        }
        self.shared.names.set(Tenant::Instance(self.record.id()), None);
        self.shared.board.remove_instance(self.record.id());
    }

    fn wanted(&self) -> Wanted {
        self.assignment.borrow().wanted
    }

    fn take_assignment(&mut self) {
        let assigned = self.assignment.borrow_and_update().clone();
        self.record.target = assigned.target;
        self.rules = Rules::of(&self.record.target);
    }

    async fn wait(&mut self, until: Option<Timestamp>) -> Woken {
        let now = self.shared.now();
        let due = async {
            match until {
                Some(until) => tokio::time::sleep(until.since(now).as_duration()).await,
                None => pending().await,
            }
        };
        let sandboxes = self.shared.sandboxes.clone();
        let running = self.running.as_mut();
        let process = async {
            let Some(running) = running else { return pending().await };
            tokio::select! {
                // What a process says of itself comes before its end.
                biased;
                Some(verdict) = running.verdicts.recv() => Woken::Verdict(verdict),
                ended = sandboxes.ended(&running.record) => {
                    if let Err(error) = ended {
                        tracing::warn!(error = %chain(&error), "watch a sandbox");
                        tokio::time::sleep(CLEAN_AGAIN_AFTER).await;
                    }
                    Woken::Ended
                }
            }
        };
        tokio::select! {
            changed = self.assignment.changed() => match changed {
                Ok(()) => Woken::Assigned,
                // The agent is ending; what runs goes on without us.
                Err(_) => pending().await,
            },
            woken = process => woken,
            () = due => Woken::Due,
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Prepare => self.prepare().await,
            Step::Launch if !self.leave().is_given() => self.wait_for_contact().await,
            Step::Launch => self.launch().await,
            Step::Signal => {
                if let Some(running) = &self.running {
                    let signal = self.record.target.stop.signal.number();
                    if let Err(error) = self.shared.sandboxes.signal(&running.record, signal) {
                        // The kill comes after the grace, and asks again until it is done.
                        tracing::warn!(error = %chain(&error), "signal a sandbox");
                    }
                }
                self.see(Seen::Signalled);
            }
            Step::Kill => self.kill().await,
            Step::Clean => self.clean().await,
            Step::Forget => {
                self.lease = None;
                let over = self.record.life.stage == Stage::Finished;
                let remember = over && self.assignment.borrow().remember;
                if !remember
                    && let Err(error) =
                        InstanceRecord::remove(&self.shared.layout, self.record.id())
                {
                    // The next agent finds a record of something that is not there, and forgets it.
                    tracing::warn!(%error, "remove the record of an instance");
                }
                self.record.life.see(Seen::Forgotten, self.rules, self.shared.now());
            }
        }
    }

    async fn kill(&mut self) {
        self.see(Seen::Killed);
        if let Some(running) = &self.running
            && let Err(error) = self.shared.sandboxes.kill(running.record.clone()).await
        {
            tracing::warn!(error = %chain(&error), "kill a sandbox");
        }
    }

    /// An agent that was frozen finds instances ended before it finds out why.
    fn leave(&self) -> Leave {
        let assigned = self.assignment.borrow();
        self.shared.contact.leave(assigned.target.failover, assigned.granted)
    }

    async fn wait_for_contact(&mut self) {
        tokio::select! {
            // The node says what follows from it.
            Ok(()) = self.assignment.changed() => self.take_assignment(),
            () = tokio::time::sleep(CLEAN_AGAIN_AFTER) => {}
        }
    }

    async fn prepare(&mut self) {
        if let Some(cause) = unfit(&self.record.target) {
            return self.see(Seen::Unprepared { cause });
        }
        let (org, artifact) = (self.record.target.place.org, self.record.target.artifact);
        let artifacts = Arc::clone(&self.shared.artifacts);
        let mut assignment = self.assignment.clone();
        let stopped = async {
            // A stop need not wait for a fetch.
            if assignment.wait_for(|it| it.wanted == Wanted::Stop).await.is_err() {
                pending::<()>().await;
            }
        };
        let prepared = tokio::select! {
            prepared = artifacts.lease(org, &artifact) => prepared,
            () = stopped => return self.take_assignment(),
        };
        match prepared {
            Ok(lease) => {
                self.lease = Some(lease);
                self.see(Seen::Prepared);
            }
            Err(error) => {
                tracing::warn!(instance = %self.record.id(), error = %chain(&error), "prepare");
                self.see(Seen::Unprepared { cause: error.cause() });
            }
        }
    }

    async fn launch(&mut self) {
        let environment = self.record.target.place.environment;
        // Where it was before, if it was: gateways find it there again, with or without a server.
        let place = match self.place.take() {
            Some(place) => place,
            None => match self.shared.places.take(environment).await {
                Ok(place) => place,
                Err(error) => return self.never_started(chain(&error)),
            },
        };
        let (before, leave) = (self.record.life.clone(), self.leave());
        self.record.attempt += 1;
        let sandbox = sandbox_id(self.record.id(), self.record.attempt);
        self.record.sandbox = Some(sandbox.clone());
        self.record.place = Some(place.place.clone());
        self.record.found_port = None;
        self.place = Some(place);
        self.record.life.see(Seen::Launching, self.rules, self.shared.now());
        if let Err(error) = self.record.store(&self.shared.layout, self.rules.once) {
            // Nothing may run that nobody would find again.
            return self.never_started(chain(&error));
        }
        match self.start(sandbox, leave.clone()).await {
            Ok(record) => {
                self.see(Seen::Launched);
                self.watch(record, self.health(), false);
                if !leave.is_given() {
                    // Its grace ended before it began: nobody has been told of it yet.
                    self.kill().await;
                }
            }
            Err(SandboxError::NoLeave) => {
                self.record.sandbox = None;
                self.note(before);
            }
            Err(error) => self.never_started(chain(&error)),
        }
    }

    fn never_started(&mut self, reason: String) {
        tracing::warn!(instance = %self.record.id(), reason, "launch");
        let note = not_started(reason, self.shared.now());
        self.see(Seen::Exited { note });
    }

    async fn start(&mut self, sandbox: SandboxId, leave: Leave) -> Result<Record, SandboxError> {
        let target = &self.record.target;
        let secrets: BTreeMap<VariableName, SecretBytes> = self.shared.secrets().of(target.id);
        let Some(place) = &self.place else { return Err(SandboxError::Thread) };
        let layers = self.lease.as_ref().map(|lease| lease.layers.clone()).unwrap_or_default();
        let (spec, missing) = spec(
            target,
            Surroundings {
                sandbox,
                layers,
                place: &place.place,
                port: self.record.port(),
                secrets: &secrets,
                program: &self.shared.program,
                open_usr_local: self.shared.open_usr_local,
            },
        );
        let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
        let text = format!("the release names secrets that have no value: {}", names.join(", "));
        self.warn(Warning::Secrets, (!names.is_empty()).then_some(text));
        let tell = TellKeeper(log_spec(&self.record.target));
        let (record, _) = self.shared.sandboxes.launch(spec, leave, tell).await?;
        Ok(record)
    }

    fn health(&self) -> Health {
        match &self.record.life.stage {
            Stage::Running { health, .. } => health.clone(),
            _ => Health::Starting,
        }
    }

    /// Follows a process that runs, from its start or from where an earlier agent stopped.
    fn watch(&mut self, sandbox: Record, health: Health, adopted: bool) {
        let (sender, verdicts) = mpsc::channel(1);
        let since = match &self.record.life.stage {
            Stage::Running { since, .. } => *since,
            _ => self.shared.now(),
        };
        let watcher = match (self.rules.probed, self.record.port(), &self.place) {
            (true, Some(port), Some(place)) => {
                let spec = self.record.target.health.clone();
                let now = self.shared.now();
                let judge = if adopted {
                    let at = self.record.found_port.unwrap_or(port);
                    Judge::adopted(spec.clone(), (port, at), since, health, now)
                } else {
                    Judge::new(spec.clone(), port, now)
                };
                let (sandboxes, record) = (self.shared.sandboxes.clone(), sandbox.clone());
                let watch = Watch {
                    judge,
                    health: spec,
                    liveness: self.record.target.liveness.clone(),
                    address: place.place.address(),
                    look: move || sandboxes.listening(&record),
                    clock: Arc::clone(&self.shared.clock),
                    verdicts: sender,
                };
                Some(tokio::spawn(watch.run()).abort_handle())
            }
            (_, _, _) if health == Health::Starting => Some(self.settle(since, sender)),
            (_, _, _) => None,
        };
        self.shared.measured.begin(self.record.id(), sandbox.clone());
        self.running =
            Some(Running { record: sandbox, verdicts, watcher, _lease: self.lease.take() });
    }

    /// What answers no probes has proved itself by living for a while.
    fn settle(&self, since: Timestamp, sender: mpsc::Sender<Verdict>) -> AbortHandle {
        let left = since.plus(SETTLED_AFTER).since(self.shared.now());
        let settling = async move {
            tokio::time::sleep(left.as_duration()).await;
            let health = Verdict::Health { health: Health::Ready, port: 0, warning: None };
            // If nobody listens, the process has ended.
            let _ = sender.send(health).await;
            // The sender stays, so that its end is not taken for news.
            sender.closed().await;
        };
        tokio::spawn(settling).abort_handle()
    }

    async fn hear(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Health { mut health, port, warning } => {
                if let Health::Stuck { cause } = &mut health
                    && cause.tail.is_empty()
                {
                    cause.tail = tail(&self.shared.logs, &self.record.target).await;
                }
                let given = self.record.port();
                self.record.found_port = (port != 0 && given != Some(port)).then_some(port);
                self.warn(Warning::Port, warning);
                self.see(Seen::Health { health });
            }
            Verdict::Dead { reason } => {
                tracing::info!(instance = %self.record.id(), reason, "restart");
                self.see(Seen::Health { health: Health::Unready { reason } });
                if let Some(running) = &self.running {
                    let signal = self.record.target.stop.signal.number();
                    if let Err(error) = self.shared.sandboxes.signal(&running.record, signal) {
                        tracing::warn!(error = %chain(&error), "signal a sandbox");
                    }
                    self.see(Seen::Signalled);
                }
            }
        }
    }

    /// The process is gone: how, and with what last words.
    async fn note_exit(&mut self) {
        self.shared.measured.end(self.record.id());
        let sandbox = match (self.running.take(), self.record.sandbox.clone()) {
            (Some(running), _) => Some(running.record.clone()),
            (None, Some(id)) => self.shared.sandboxes.load(id).await.ok().flatten(),
            (None, None) => None,
        };
        let (exit, at) = match &sandbox {
            Some(sandbox) => {
                let dir = self.shared.sandboxes.dir(&sandbox.id);
                drained(dir.path()).await;
                self.shared.sandboxes.exit(sandbox)
            }
            None => (insula_model::observed::Exit::Lost, None),
        };
        let exit = match exit {
            // Its record went with it: we know how it ended, because we ended it.
            insula_model::observed::Exit::Lost if self.record.life.was_killed() => {
                insula_model::observed::Exit::Signal { signal: SIGKILL }
            }
            exit => exit,
        };
        let tail = tail(&self.shared.logs, &self.record.target).await;
        let at = at.unwrap_or_else(|| self.shared.now());
        tracing::info!(instance = %self.record.id(), %exit, "ended");
        self.see(Seen::Exited { note: ExitNote { exit, at, tail } });
    }

    async fn clean(&mut self) {
        self.running = None;
        if let Some(id) = self.record.sandbox.clone() {
            let sandboxes = self.shared.sandboxes.clone();
            let cleaned = async {
                if let Some(record) = sandboxes.load(id.clone()).await? {
                    sandboxes.destroy(record).await?;
                } else if sandboxes.dir(&id).path().exists() {
                    // Cut off before it was recorded: what there is of it goes by its plan.
                    sandboxes.sweep().await?;
                }
                Ok::<(), SandboxError>(())
            };
            if let Err(error) = cleaned.await {
                tracing::warn!(sandbox = %id, error = %chain(&error), "remove a sandbox");
                tokio::time::sleep(CLEAN_AGAIN_AFTER).await;
                return;
            }
        }
        self.record.sandbox = None;
        self.record.found_port = None;
        self.warnings.clear();
        self.see(Seen::Cleaned);
    }

    /// Takes in what happened, and writes it down for the next agent.
    fn see(&mut self, seen: Seen) {
        let mut life = self.record.life.clone();
        life.see(seen, self.rules, self.shared.now());
        self.note(life);
    }

    fn note(&mut self, life: Life) {
        self.record.life = life;
        let durable = self.rules.once && matches!(self.record.life.stage, Stage::Finished);
        if let Err(error) = self.record.store(&self.shared.layout, durable) {
            tracing::warn!(instance = %self.record.id(), error = %chain(&error), "record");
        }
    }

    fn warn(&mut self, about: Warning, text: Option<String>) {
        match text {
            Some(text) => self.warnings.insert(about, text),
            None => self.warnings.remove(&about),
        };
    }

    fn endpoint(&self) -> Option<SocketAddr> {
        let port = self.record.found_port.or(self.record.port())?;
        let place = self.place.as_ref()?;
        let answers = self.rules.probed && self.record.life.ready_since.is_some();
        (answers && self.running.is_some()).then(|| (place.place.address(), port).into())
    }

    fn report(&mut self) {
        let (life, target) = (&self.record.life, &self.record.target);
        let phase = life.phase(self.wanted());
        let endpoint = self.endpoint();
        if self.told.replace(phase.as_str()) != Some(phase.as_str()) {
            let (instance, phase, trace) = (target.id, phase.as_str(), &target.trace);
            tracing::info!(%instance, phase, trace, restarts = life.restarts, "instance");
        }
        let presence = self.place.as_ref().map(|place| Presence {
            environment: target.place.environment,
            app: Some(target.place.app_name.clone()),
            address: place.place.address(),
            serves: endpoint.filter(|_| phase == InstancePhase::Ready).map(|endpoint| {
                let app = target.place.app_name.clone();
                (ServiceName { app, component: target.component.clone() }, endpoint)
            }),
            routed: target.routed,
        });
        self.shared.names.set(Tenant::Instance(self.record.id()), presence);
        self.shared.board.put_instance(InstanceReport {
            id: self.record.id(),
            phase,
            endpoint,
            restarts: life.restarts,
            exits_before_ready: life.exits_before_ready,
            last_exit: life.last_exit.clone(),
            started: life.started,
            ready_since: life.ready_since,
            warnings: self.warnings.values().cloned().collect(),
        });
    }
}

/// What this node cannot give. Less isolation than was asked for is never an answer.
fn unfit(target: &InstanceTarget) -> Option<Cause> {
    match target.isolation {
        Isolation::Standard => None,
        Isolation::Gvisor | Isolation::Microvm => {
            let message = "this node has no driver for the isolation that was asked for";
            let mut cause = Cause::new(CauseCode::StartFailed, message);
            cause.hint = Some("set `isolation = \"standard\"`, or add a node that has one".into());
            Some(cause)
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::contact::Contact;
    use crate::contact::tests::{LEASE, TokioTicks};
    use crate::instance::sample;

    use super::*;

    /// An instance under a lease that is prepared, and nobody has started yet.
    fn prepared(contact: &Contact) -> (tempfile::TempDir, watch::Sender<Assignment>, InstanceTask) {
        let folder = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::in_folder(folder.path(), contact.clone()));
        let target = InstanceTarget { failover: Failover::Lease, ..sample() };
        let assignment = Assignment::of(target, contact.epoch());
        let (sender, receiver) = watch::channel(assignment);
        let mut task = InstanceTask::new(shared, receiver);
        task.see(Seen::Prepared);
        (folder, sender, task)
    }

    fn begun(folder: &tempfile::TempDir) -> usize {
        let run = crate::layout::Layout::new(folder.path()).run();
        std::fs::read_dir(run).unwrap().filter(|it| it.as_ref().unwrap().path().is_dir()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_was_frozen_starts_nothing_whose_lease_is_over() {
        let contact = Contact::open(std::path::Path::new("/none"), LEASE, TokioTicks::new());
        contact.answered(contact.now());
        let (folder, assignment, mut task) = prepared(&contact);
        // Everything but the launch itself is done, and then the machine stands still.
        tokio::time::advance(LEASE).await;
        let before = task.record.life.clone();
        task.launch().await;
        assert_eq!(task.record.life, before, "it was not started, and so it did not end");
        assert_eq!((begun(&folder), &task.record.sandbox), (0, &None));

        // A server answers again before anybody here has noticed the gap. That does not say that the
        // instance is still ours.
        contact.answered(contact.now());
        task.launch().await;
        assert_eq!((&task.record.life, begun(&folder)), (&before, 0));
        let running = tokio::spawn(task.run());
        tokio::time::sleep(LEASE * 3).await;
        assert_eq!(begun(&folder), 0);

        // The node finds the gap.
        assignment.send_modify(|it| it.wanted = Wanted::Stop);
        running.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_of_the_new_epoch_lets_it_start() {
        let contact = Contact::open(std::path::Path::new("/none"), LEASE, TokioTicks::new());
        contact.answered(contact.now());
        let (_folder, assignment, mut task) = prepared(&contact);
        tokio::time::advance(LEASE).await;
        contact.answered(contact.now());
        assert!(!task.leave().is_given());
        assignment.send_modify(|it| it.granted = contact.epoch());
        task.launch().await;
        // The launcher of this test is the test itself, which launches nothing.
        let exit = task.record.life.last_exit.as_ref().map(|note| &note.exit);
        let tried = matches!(exit, Some(insula_model::observed::Exit::NotStarted { .. }));
        assert!(tried, "{exit:?}");
    }
}
