//! A scenario in one line, told as it goes: `nodes a b c; app web x3; lose b`.
//!
//! `nodes` and `app` set the scene and are not told. Every other statement is, with what was
//! decided and what waits after it. `obey` lets everybody do what they were told until all is
//! quiet: nodes that answer start and end instances, gateways follow.

use std::fmt::Write as _;
use std::sync::Arc;

use insula_model::node::Duty;
use insula_model::observed::{Exit, ExitNote, InstancePhase, Observed};
use insula_model::spec::{AppSpec, ComponentKind, ComponentSpec, Failover, RolloutSpec};
use insula_model::{Bytes, InstanceId, Millis, NodeId};
use insula_plan::Presence;

use crate::scene::{Scene, component, spec};

/// Rounds of obeying after which a story that has not come to rest never will.
const ROUNDS_MAX: usize = 60;

pub struct Script {
    pub scene: Scene,
    said: String,
}

/// Plays a line from an empty stage, and says what happened.
pub fn play(line: &str) -> String {
    let mut script = Script::new(line);
    script.take()
}

impl Script {
    pub fn new(line: &str) -> Self {
        let mut script = Self { scene: Scene::bare(), said: String::new() };
        script.scene.dotted = true;
        script.go(line);
        script
    }

    /// What was said since it was asked last.
    pub fn take(&mut self) -> String {
        std::mem::take(&mut self.said)
    }

    pub fn then(&mut self, line: &str) -> String {
        self.go(line);
        self.take()
    }

    fn go(&mut self, line: &str) {
        for statement in line.split(';').map(str::trim).filter(|s| !s.is_empty()) {
            let words: Vec<&str> = statement.split_whitespace().collect();
            match words[0] {
                "nodes" => words[1..].iter().for_each(|word| self.node(word)),
                "app" => self.app(&words[1..]),
                _ => {
                    let told = self.tell(&words);
                    writeln!(self.said, "{statement}:").unwrap();
                    for line in told.lines() {
                        writeln!(self.said, "    {line}").unwrap();
                    }
                }
            }
        }
    }

    /// `a`, `a@zone`, `a=512MiB`.
    fn node(&mut self, word: &str) {
        let (word, memory) = word.split_once('=').unwrap_or((word, "8GiB"));
        let (name, zone) = word.split_once('@').map_or((word, None), |(n, z)| (n, Some(z)));
        let id = self.scene.node(name, memory.parse().unwrap());
        let row = self.scene.world.nodes.get_mut(&id).unwrap();
        Arc::make_mut(row).site.zone = zone.map(|zone| zone.parse().unwrap());
    }

    fn app(&mut self, words: &[&str]) {
        self.scene.deploy(app_spec(words));
        self.obey();
        assert!(self.scene.world.apps[&self.scene.app].live.is_some(), "{}", self.said);
        self.said.clear();
    }

    fn tell(&mut self, words: &[&str]) -> String {
        let s = &mut self.scene;
        let node = |s: &Scene| s.node_id(words[1]);
        match words[0] {
            "deploy" => drop(s.deploy(app_spec(&words[1..]))),
            "scale" => {
                let (name, n) = (words[1].parse().unwrap(), words[2].parse().unwrap());
                s.app_mut().scale.insert(name, n);
            }
            "stop" => s.app_mut().running = false,
            // All of them at once.
            "lose" => silence(s, &words[1..], 3),
            // `silent b 60`: for so many seconds.
            "silent" => silence(s, &words[1..2], words[2].parse().unwrap()),
            "back" => words[1..].iter().for_each(|name| welcome(s, name)),
            "remove" => {
                let id = node(s);
                s.world.apply(insula_model::feed::Change::NodeGone(id));
            }
            "drain" => duty(s, words[1], |since| Duty::Drain { since }),
            "cordon" => duty(s, words[1], |since| Duty::Cordon { since }),
            "uncordon" => duty(s, words[1], |_| Duty::Serve),
            "later" => s.later(Millis::secs(words[1].parse().unwrap())),
            // `ready web.2 web.3`, or all of them.
            "ready" if words.len() == 1 => s.all_ready(),
            "ready" => words[1..].iter().for_each(|name| s.ready(s.named(name))),
            "unready" => {
                let id = s.named(words[1]);
                s.report(id, |r| r.phase = InstancePhase::Unready { reason: "500".into() });
            }
            "crash" => {
                let id = s.named(words[1]);
                (0..2).for_each(|_| s.exit_early(id, 1));
            }
            // A deployment that has something to build, and the end of that.
            "build" => drop(s.deploy_built(app_spec(&words[1..]))),
            "built" => s.build_ends(Scene::built),
            "run" => drop(s.run_job(words[1])),
            "finished" => {
                let (id, at) = (s.named(words[1]), s.now);
                s.report(id, |r| {
                    r.phase = InstancePhase::Finished;
                    let exit = Exit::Code { code: 0 };
                    r.last_exit = Some(ExitNote { exit, at, tail: vec![] });
                });
            }
            "absent" => {
                let (id, seen) = (s.named(words[1]), s.now);
                s.world.instances.update(&id, |row| row.observed = Observed::Absent { seen });
            }
            "gone" => s.all_stopped_are_gone(),
            "follow" => s.gateway_follows(),
            "settle" => {}
            "obey" => return self.obey(),
            other => panic!("no such statement: {other}"),
        }
        self.scene.settle()
    }

    /// Everybody does what they were told until nothing changes any more.
    pub fn obey(&mut self) -> String {
        let mut said = self.scene.settle();
        let mut last = waits_of(&said);
        for _ in 0..ROUNDS_MAX {
            let s = &mut self.scene;
            s.all_ready();
            s.all_stopped_are_gone();
            s.gateway_follows();
            let told = s.settle();
            let (done, waits) = (actions_of(&told), waits_of(&told));
            if done.is_empty() {
                return actions_of(&said) + &waits;
            }
            said = actions_of(&said) + &done;
            last = waits;
        }
        panic!("it never comes to rest:\n{said}{last}");
    }

    pub fn routed(&self) -> Vec<InstanceId> {
        let table = insula_plan::routes::table(&self.scene.world);
        table.routes.iter().flat_map(|r| r.endpoints.iter().map(|e| e.instance)).collect()
    }
}

fn actions_of(said: &str) -> String {
    said.lines().filter(|l| !l.starts_with("wait ")).map(|l| format!("{l}\n")).collect()
}

fn waits_of(said: &str) -> String {
    said.lines().filter(|l| l.starts_with("wait ")).map(|l| format!("{l}\n")).collect()
}

/// Silence grows a heartbeat at a time; between the first and the last nothing follows from it.
fn silence(s: &mut Scene, names: &[&str], seconds: u64) {
    let ids: Vec<NodeId> = names.iter().map(|name| s.node_id(name)).collect();
    let say = |s: &mut Scene, seconds| {
        let span = Millis::secs(seconds);
        for id in &ids {
            s.world.heard.insert(*id, Presence::Silent { span });
        }
    };
    if ids.iter().any(|id| s.world.is_here(*id)) {
        say(s, 1);
        s.settle();
    }
    say(s, seconds);
    s.later(Millis::secs(seconds));
}

fn welcome(s: &mut Scene, name: &str) {
    s.later(Millis::secs(1));
    let (id, now) = (s.node_id(name), s.now);
    Arc::make_mut(s.world.nodes.get_mut(&id).unwrap()).hello = now;
    s.world.heard.insert(id, Presence::Here);
}

fn duty(s: &mut Scene, name: &str, duty: impl Fn(insula_model::Timestamp) -> Duty) {
    let (id, now) = (s.node_id(name), s.now);
    Arc::make_mut(s.world.nodes.get_mut(&id).unwrap()).duty = duty(now);
}

/// `web x3 rolling 1/0, clock single lease, api x2 6GiB, tidy job`.
fn app_spec(words: &[&str]) -> AppSpec {
    let line = words.join(" ");
    let parts: Vec<(String, ComponentSpec)> = line.split(',').map(one_component).collect();
    let named: Vec<(&str, ComponentSpec)> =
        parts.iter().map(|(name, spec)| (name.as_str(), spec.clone())).collect();
    spec(&named)
}

fn one_component(part: &str) -> (String, ComponentSpec) {
    let mut words = part.split_whitespace();
    let name = words.next().expect("a component has a name").to_owned();
    let mut spec = component(ComponentKind::Service, 1);
    while let Some(word) = words.next() {
        match word {
            "worker" => spec.kind = ComponentKind::Worker,
            "job" => spec.kind = ComponentKind::Job,
            "single" => spec.single = true,
            "lease" => spec.failover = Failover::Lease,
            "rolling" => {
                let (surge, unavailable) = words.next().unwrap().split_once('/').unwrap();
                let (surge, unavailable) = (surge.parse().unwrap(), unavailable.parse().unwrap());
                spec.rollout = RolloutSpec::Rolling { surge, unavailable };
            }
            size if size.ends_with("iB") => spec.memory = size.parse::<Bytes>().unwrap(),
            count => spec.instances = count.strip_prefix('x').unwrap().parse().unwrap(),
        }
    }
    (name, spec)
}
