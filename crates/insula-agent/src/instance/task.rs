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
use crate::error::chain;
use crate::keeper::LogSpec;
use crate::names::{Presence, ServiceName, Tenant};
use crate::places::Held;
use crate::probe::{Judge, Verdict, Watch};
use crate::sandbox::SandboxError;
use crate::shared::Shared;

/// A clean-up that failed (a mount that is still busy, say) is tried again after this.
/// What ends a process that did not end in its grace.
const SIGKILL: i32 = 9;
const CLEAN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What the node wants of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub target: InstanceTarget,
    pub wanted: Wanted,
    /// It stops with the platform and will be wanted again: a run that was started must not be
    /// started then.
    pub remember: bool,
}

impl Assignment {
    pub fn of(target: InstanceTarget) -> Self {
        let wanted = match target.intent {
            InstanceIntent::Run => Wanted::Run,
            InstanceIntent::Stop => Wanted::Stop,
        };
        Self { target, wanted, remember: false }
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
            Step::Launch if self.is_out_of_contact() => self.wait_for_contact().await,
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
            Step::Kill => {
                self.see(Seen::Killed);
                if let Some(running) = &self.running
                    && let Err(error) = self.shared.sandboxes.kill(running.record.clone()).await
                {
                    tracing::warn!(error = %chain(&error), "kill a sandbox");
                }
            }
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

    /// An agent that was frozen finds instances ended before it finds out why.
    fn is_out_of_contact(&self) -> bool {
        self.record.target.failover == Failover::Lease && self.shared.contact.epoch().is_none()
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
            None => match self.shared.places.take(environment) {
                Ok(place) => place,
                Err(error) => return self.never_started(chain(&error)),
            },
        };
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
        match self.start(sandbox).await {
            Ok(record) => {
                self.see(Seen::Launched);
                self.watch(record, self.health(), false);
            }
            Err(error) => self.never_started(chain(&error)),
        }
    }

    fn never_started(&mut self, reason: String) {
        tracing::warn!(instance = %self.record.id(), reason, "launch");
        let note = not_started(reason, self.shared.now());
        self.see(Seen::Exited { note });
    }

    async fn start(&mut self, sandbox: SandboxId) -> Result<Record, SandboxError> {
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
        let (record, _) = self.shared.sandboxes.launch(spec, tell).await?;
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
        self.record.life.see(seen, self.rules, self.shared.now());
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
