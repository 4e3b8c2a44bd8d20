//! Where instances come to be: the order of preference, the words of a refusal, and what holds for
//! every fleet that a seeded generator can think of.

use std::collections::BTreeMap;

use expect_test::expect;
use insula_model::feed::Change;
use insula_model::instance::{Instance, Intent};
use insula_model::node::{
    Ailment, AilmentKind, Architecture, Capacity, Duty, Node, NodeMode, Offer, RuntimeFound, Site,
};
use insula_model::observed::Observed;
use insula_model::spec::{ComponentKind, ComponentSpec, Isolation, PlacementSpec, Runtime};
use insula_model::*;
use insula_plan::placement::{Ask, Kin, Room};
use insula_plan::world::Load;
use insula_plan::{Measured, Presence, Rules, World};

/// Fleets that each property is tried on.
const SEEDS: u64 = 150;

/// SplitMix64: a seed tells the whole story.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn of<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
}

fn id(n: u64) -> u128 {
    (1 << 80) | u128::from(n)
}

fn org(n: u64) -> OrgId {
    OrgId::from_u128(id(n))
}

fn app(n: u64) -> AppId {
    AppId::from_u128(id(n))
}

fn kin(n: u64, component: &str) -> Kin {
    Kin::new(app(n), &component.parse().unwrap())
}

fn node(n: u64, name: &str) -> Node {
    let found = |runtime| RuntimeFound { runtime, version: "1".into(), path: "/usr/bin".into() };
    Node {
        id: NodeId::from_u128(id(n)),
        name: name.parse().unwrap(),
        offer: Offer {
            capacity: Capacity {
                cpu: MilliCpu(4_000),
                memory: Bytes::gib(4),
                instances: 200,
                ..Capacity::default()
            },
            mode: NodeMode::Full,
            runtimes: vec![found(Runtime::Python), found(Runtime::Node)],
            architecture: Architecture::X86,
            isolation: [Isolation::Standard].into(),
        },
        site: Site::default(),
        agent_version: "0".into(),
        joined: Timestamp::from_millis(0),
        hello: Timestamp::from_millis(0),
        duty: Duty::Serve,
        lost: None,
        ailments: vec![],
        relay: None,
    }
}

fn instance(n: u64, of: &Kin, on: NodeId, memory: Bytes) -> Instance {
    Instance {
        id: InstanceId::from_u128(id(n)),
        org: org(1),
        project: ProjectId::from_u128(id(1)),
        environment: EnvironmentId::from_u128(id(1)),
        app: of.app,
        component: of.component.clone(),
        kind: ComponentKind::Service,
        release: ReleaseId::from_u128(id(1)),
        deployment: DeploymentId::from_u128(id(1)),
        run: None,
        node: on,
        cpu: MilliCpu(100),
        memory,
        pids: 10,
        disk: Bytes::mib(10),
        intent: Intent::Run,
        created: Timestamp::from_millis(0),
        observed: Observed::Unknown,
    }
}

fn world(nodes: &[Node]) -> World {
    let mut world = World::new("localhost".parse().unwrap());
    for node in nodes {
        world.apply(Change::Node(Box::new(node.clone())));
        world.heard.insert(node.id, Presence::Here);
    }
    world
}

fn ask(memory: Bytes) -> Ask {
    let spec = ComponentSpec { memory, ..ComponentSpec::of_kind(ComponentKind::Service) };
    Ask::of(&spec, org(1))
}

fn names(world: &World, nodes: &[NodeId]) -> String {
    let names: Vec<&str> = nodes.iter().map(|id| world.nodes[id].name.as_str()).collect();
    names.join(" ")
}

fn zoned(n: u64, name: &str, zone: &str) -> Node {
    let site = Site { zone: Some(zone.parse().unwrap()), ..Site::default() };
    Node { site, ..node(n, name) }
}

fn no_room(world: &World, ask: &Ask) -> String {
    Room::of(world).place(ask, None).unwrap_err().to_string()
}

#[test]
fn a_refusal_says_what_no_node_has_and_what_each_has_instead() {
    let (mut a, mut b, mut c) = (node(1, "a"), node(2, "b"), node(3, "c"));
    a.offer.capacity.memory = Bytes::mib(300);
    b.offer.capacity.memory = Bytes::mib(120);
    c.duty = Duty::Cordon { since: Timestamp::from_millis(0) };
    let world = world(&[a, b, c]);
    expect!["no node has 512MiB free: a 300MiB, b 120MiB, c cordoned"]
        .assert_eq(&no_room(&world, &ask(Bytes::mib(512))));
    expect!["no node has 5GiB free: a 300MiB, b 120MiB, c 4GiB"]
        .assert_eq(&no_room(&world, &ask(Bytes::gib(5))));
}

#[test]
fn each_kind_of_refusal_reads_well() {
    let standard = || ask(Bytes::mib(64));
    let with = |placement| Ask { placement, ..standard() };
    let plain = world(&[node(1, "a"), node(2, "b")]);
    let pool = PlacementSpec { pool: Some("gpu".parse().unwrap()), ..PlacementSpec::default() };
    let zones = PlacementSpec {
        zones: ["east".parse().unwrap(), "west".parse().unwrap()].into(),
        ..PlacementSpec::default()
    };
    let labels = PlacementSpec {
        labels: [("disk".parse().unwrap(), "ssd".parse().unwrap())].into(),
        ..PlacementSpec::default()
    };
    let arm = PlacementSpec { architecture: Some(Architecture::Arm), ..PlacementSpec::default() };
    let mut said = String::new();
    for refused in [
        no_room(&plain, &with(pool)),
        no_room(&plain, &with(zones)),
        no_room(&plain, &with(labels)),
        no_room(&plain, &with(arm)),
        no_room(&plain, &Ask { isolation: Isolation::Gvisor, ..standard() }),
        no_room(&plain, &Ask { cpu: MilliCpu(64_500), ..standard() }),
        no_room(&plain, &Ask { pids: u32::MAX, ..standard() }),
        no_room(&plain, &Ask { disk: Bytes::gib(1 << 30), ..standard() }),
    ] {
        said += &format!("{refused}\n");
    }
    let mut pythonless = world(&[]);
    for n in 1..=2 {
        let mut node = node(n, if n == 1 { "a" } else { "b" });
        node.offer.runtimes.clear();
        node.offer.capacity.instances = n as u32 - 1;
        pythonless.heard.insert(node.id, Presence::Here);
        pythonless.apply(Change::Node(Box::new(node)));
    }
    said += &format!("{}\n", no_room(&pythonless, &Ask { runtime: Runtime::Python, ..standard() }));
    let mut states = world(&[]);
    let since = Timestamp::from_millis(0);
    for (n, name) in (1..).zip(["away", "lost", "cordoned", "draining", "ill", "pooled"]) {
        let mut node = node(n, name);
        match name {
            "lost" => node.lost = Some(since),
            "cordoned" => node.duty = Duty::Cordon { since },
            "draining" => node.duty = Duty::Drain { since },
            "ill" => {
                let message = "94 % of /var is used".to_owned();
                node.ailments = vec![Ailment { kind: AilmentKind::Disk, message }];
            }
            "pooled" => node.site.pool = Some("gpu".parse().unwrap()),
            _ => {}
        }
        if name != "away" {
            states.heard.insert(node.id, Presence::Here);
        }
        states.apply(Change::Node(Box::new(node)));
    }
    said += &format!("{}\n", no_room(&states, &standard()));
    states.apply(Change::NodeGone(NodeId::from_u128(id(6))));
    said += &format!("{}\n", no_room(&states, &standard()));
    (2..=5).for_each(|n| states.apply(Change::NodeGone(NodeId::from_u128(id(n)))));
    said += &format!("{}\n", no_room(&states, &standard()));
    said += &no_room(&world(&[]), &standard());
    expect![[r#"
        no node of pool `gpu` can take it: a, b
        no node of zone `east` or `west` can take it: a, b
        no node labelled `disk=ssd` can take it: a, b
        no aarch64 node can take it: a x86_64, b x86_64
        no node with gvisor isolation can take it: a, b
        no node has 64.5 cores free: a 64, b 64
        no node has 4294967295 pids free: a 4194304, b 4194304
        no node has 1073741824GiB of disk free: a 1048576GiB, b 1048576GiB
        no node with python can take it: a, b
        no node outside of pools can take it: pooled, away away, lost lost, cordoned cordoned, draining draining, ill degraded (disk)
        no node takes anything new: ill degraded (disk), away away, lost lost, cordoned cordoned, draining draining
        no node answers: away
        there is no node"#]]
    .assert_eq(&said);
}

#[test]
fn a_large_fleet_is_counted_and_not_read_out() {
    let mut nodes: Vec<Node> = (0..6_090).map(|n| node(n, &format!("n{n}"))).collect();
    for (n, node) in nodes.iter_mut().enumerate() {
        match n {
            10..4_010 => node.duty = Duty::Cordon { since: Timestamp::from_millis(0) },
            _ => node.offer.capacity.memory = Bytes::mib(100 + n as u64 % 20),
        }
    }
    let said =
        no_room(&world(&nodes), &ask(Bytes::mib(512))).replace(", ", ",\n").replace(" …", "\n…");
    expect![[r#"
        no node has 512MiB free: n0 100MiB,
        n1 101MiB,
        n2 102MiB,
        n3 103MiB,
        n4 104MiB,
        n5 105MiB,
        n6 106MiB,
        n7 107MiB,
        n8 108MiB,
        n9 109MiB
        … and 6,080 more: 4,000 cordoned,
        2,080 memory"#]]
    .assert_eq(&said);
}

#[test]
fn the_instances_of_a_component_are_spread_over_zones_then_over_nodes() {
    let nodes = [
        zoned(1, "e1", "east"),
        zoned(2, "e2", "east"),
        zoned(3, "e3", "east"),
        zoned(4, "w1", "west"),
    ];
    let world = world(&nodes);
    let mut room = Room::of(&world);
    let (placed, no) = room.place_many(&ask(Bytes::mib(64)), Some(&kin(1, "web")), 6);
    assert_eq!(no, None);
    expect!["e1 w1 e2 w1 e3 w1"].assert_eq(&names(&world, &placed));
}

#[test]
fn a_node_without_a_zone_is_a_zone_of_its_own() {
    let world =
        world(&[node(1, "a"), node(2, "b"), zoned(3, "e1", "east"), zoned(4, "e2", "east")]);
    let mut room = Room::of(&world);
    let (placed, _) = room.place_many(&ask(Bytes::mib(64)), Some(&kin(1, "web")), 8);
    expect!["a b e1 e2 a b e1 a"].assert_eq(&names(&world, &placed));
}

#[test]
fn what_is_there_already_counts_unless_it_leaves_or_its_node_is_lost() {
    let mut gone = zoned(3, "gone", "north");
    gone.lost = Some(Timestamp::from_millis(0));
    let mut world =
        world(&[zoned(1, "a", "east"), zoned(2, "b", "west"), gone, zoned(4, "c", "north")]);
    let web = kin(1, "web");
    let on = |n| NodeId::from_u128(id(n));
    world.instances.insert(instance(1, &web, on(1), Bytes::mib(64)));
    world.instances.insert(instance(2, &web, on(3), Bytes::mib(64)));
    let since = Timestamp::from_millis(0);
    let leaving =
        Instance { intent: Intent::Drain { since }, ..instance(3, &web, on(2), Bytes::mib(64)) };
    world.instances.insert(leaving);
    let mut room = Room::of(&world);
    let (placed, _) = room.place_many(&ask(Bytes::mib(64)), Some(&web), 3);
    expect!["c b a"].assert_eq(&names(&world, &placed));
}

#[test]
fn the_least_burdened_comes_first_among_equals_and_what_is_measured_counts() {
    let mut world = world(&[node(1, "a"), node(2, "b"), node(3, "c")]);
    let on = |n| NodeId::from_u128(id(n));
    world.instances.insert(instance(1, &kin(9, "old"), on(1), Bytes::mib(64)));
    let busy = Measured { cpu: MilliCpu(3_000), memory: Bytes::mib(10) };
    world.measured.insert(on(2), busy);
    let mut room = Room::of(&world);
    let (placed, _) = room.place_many(&ask(Bytes::mib(64)), None, 2);
    expect!["c a"].assert_eq(&names(&world, &placed));
}

#[test]
fn a_node_that_is_nearly_full_comes_last_even_if_it_would_spread_better() {
    let mut small = zoned(1, "small", "east");
    small.offer.capacity.memory = Bytes::mib(100);
    let world = world(&[small, zoned(2, "large", "west")]);
    let mut room = Room::of(&world);
    let (placed, _) = room.place_many(&ask(Bytes::mib(95)), Some(&kin(1, "web")), 2);
    expect!["large large"].assert_eq(&names(&world, &placed));
}

#[test]
fn overcommit_is_the_operators_number() {
    let mut world = world(&[node(1, "a")]);
    let ask = Ask { cpu: MilliCpu(3_000), ..ask(Bytes::mib(1_500)) };
    let fit = |world: &World| Room::of(world).place_many(&ask, None, 10).0.len();
    assert_eq!(fit(&world), 2, "memory is promised once");
    world.rules = Rules { memory_overcommit: 200, ..world.rules };
    assert_eq!(fit(&world), 5);
    world.rules = Rules { cpu_overcommit: 100, ..world.rules };
    assert_eq!(fit(&world), 1);
}

#[test]
fn a_node_that_cannot_keep_orgs_apart_takes_one() {
    let mut alone = node(1, "a");
    alone.offer.mode = NodeMode::Development;
    let mut world = world(&[alone]);
    let mut room = Room::of(&world);
    let of = |n| Ask { org: org(n), ..ask(Bytes::mib(64)) };
    assert!(room.place(&of(1), None).is_ok());
    assert!(room.place(&of(1), None).is_ok());
    let no = room.place(&of(2), None).unwrap_err();
    expect!["no node that keeps orgs apart can take it: a"].assert_eq(&no.to_string());
    world.instances.insert(instance(1, &kin(1, "web"), NodeId::from_u128(id(1)), Bytes::mib(1)));
    assert!(Room::of(&world).place(&of(2), None).is_err());
}

/// A fleet of any kind, with instances on it.
fn any_world(dice: &mut Dice) -> (Vec<Node>, Vec<Instance>, World) {
    let since = Timestamp::from_millis(0);
    let mut nodes = Vec::new();
    for n in 0..1 + dice.below(24) {
        let mut node = node(n + 1, &format!("n{n}"));
        node.offer.capacity = Capacity {
            cpu: MilliCpu(dice.of(&[500, 2_000, 8_000])),
            memory: dice.of(&[Bytes::mib(256), Bytes::gib(1), Bytes::gib(4), Bytes(1_000_000_007)]),
            instances: dice.of(&[3, 20, 200]),
            pids: dice.of(&[300, 10_000]),
            disk: dice.of(&[Bytes::mib(600), Bytes::gib(100)]),
        };
        node.offer.architecture =
            dice.of(&[Architecture::X86, Architecture::X86, Architecture::Arm]);
        if dice.one_in(3) {
            node.offer.isolation.insert(Isolation::Gvisor);
        }
        if dice.one_in(4) {
            node.offer.runtimes.clear();
        }
        if dice.one_in(6) {
            node.offer.mode = NodeMode::Development;
        }
        node.site.pool = dice.of(&[None, None, Some("gpu".parse().unwrap())]);
        node.site.zone =
            dice.of(&[None, Some("east".parse().unwrap()), Some("west".parse().unwrap())]);
        if dice.one_in(2) {
            node.site
                .labels
                .insert("disk".parse().unwrap(), dice.of(&["ssd", "hdd"]).parse().unwrap());
        }
        match dice.below(12) {
            0 => node.duty = Duty::Cordon { since },
            1 => node.duty = Duty::Drain { since },
            2 => node.lost = Some(since),
            3 => {
                let message = "hot".to_owned();
                node.ailments = vec![Ailment { kind: AilmentKind::Host, message }];
            }
            _ => {}
        }
        nodes.push(node);
    }
    let mut instances = Vec::new();
    for n in 0..dice.below(60) {
        let on = dice.of(&nodes).id;
        let of = kin(dice.below(3), dice.of(&["web", "work"]));
        let memory = Bytes::mib(8 << dice.below(5));
        let intent = if dice.one_in(5) { Intent::Stop { since } } else { Intent::Run };
        instances.push(Instance {
            intent,
            org: org(dice.below(2)),
            ..instance(n + 1, &of, on, memory)
        });
    }
    let mut world = world(&nodes);
    for node in &nodes {
        if dice.one_in(8) {
            world.heard.insert(node.id, Presence::Silent { span: Millis(1_000) });
        }
        if dice.one_in(3) {
            let cpu = MilliCpu(dice.below(9_000) as u32);
            world.measured.insert(node.id, Measured { cpu, memory: Bytes::mib(dice.below(4_096)) });
        }
    }
    world.rules.cpu_overcommit = dice.of(&[50, 100, 1_600]);
    world.rules.memory_overcommit = dice.of(&[100, 150]);
    instances.iter().for_each(|row| world.instances.insert(row.clone()));
    (nodes, instances, world)
}

fn any_ask(dice: &mut Dice) -> Ask {
    let mut placement = PlacementSpec::default();
    match dice.below(6) {
        0 => placement.pool = Some("gpu".parse().unwrap()),
        1 => drop(placement.zones.insert("east".parse().unwrap())),
        2 => drop(placement.labels.insert("disk".parse().unwrap(), "ssd".parse().unwrap())),
        3 => placement.architecture = Some(Architecture::Arm),
        _ => {}
    }
    Ask {
        cpu: MilliCpu(dice.of(&[10, 250, 1_000])),
        memory: Bytes(1 + dice.below(300 << 20)),
        pids: dice.of(&[10, 100]),
        disk: dice.of(&[Bytes::mib(1), Bytes::mib(128)]),
        runtime: dice.of(&Runtime::ALL),
        isolation: dice.of(&[Isolation::Standard, Isolation::Standard, Isolation::Gvisor]),
        placement,
        org: org(dice.below(2)),
    }
}

fn any_kin(dice: &mut Dice) -> Option<Kin> {
    (!dice.one_in(4)).then(|| kin(dice.below(3), dice.of(&["web", "work"])))
}

/// What is true of a node before anything is reserved, said again in other words than the code's.
fn may_take(world: &World, node: &Node, ask: &Ask) -> bool {
    let wanted = &ask.placement;
    world.is_here(node.id)
        && node.lost.is_none()
        && node.duty == Duty::Serve
        && node.ailments.is_empty()
        && node.site.pool == wanted.pool
        && (wanted.zones.is_empty()
            || node.site.zone.iter().any(|zone| wanted.zones.contains(zone)))
        && wanted.labels.iter().all(|(k, v)| node.site.labels.get(k) == Some(v))
        && wanted.architecture.is_none_or(|it| it == node.offer.architecture)
        && node.offer.isolation.contains(&ask.isolation)
        && (matches!(ask.runtime, Runtime::Files | Runtime::Host)
            || node.offer.runtimes.iter().any(|found| found.runtime == ask.runtime))
}

/// What is reserved on each node, added up from the beginning.
#[derive(Clone, Default)]
struct Book {
    loads: BTreeMap<NodeId, Load>,
    orgs: BTreeMap<NodeId, OrgId>,
}

impl Book {
    fn of(instances: &[Instance]) -> Self {
        let mut book = Self::default();
        for i in instances {
            // The first by id decides whose a node is that takes one org.
            book.orgs.entry(i.node).or_insert(i.org);
            book.add(i.node, i.cpu, i.memory, i.pids, i.disk);
        }
        book
    }

    fn add(&mut self, node: NodeId, cpu: MilliCpu, memory: Bytes, pids: u32, disk: Bytes) {
        let load = self.loads.entry(node).or_default();
        load.cpu_milli += u64::from(cpu.0);
        load.memory.0 += memory.0;
        load.pids += u64::from(pids);
        load.disk.0 += disk.0;
        load.instances += 1;
    }

    fn fits(&self, world: &World, node: &Node, ask: &Ask) -> bool {
        let mut after = self.clone();
        after.add(node.id, ask.cpu, ask.memory, ask.pids, ask.disk);
        let load = after.loads[&node.id];
        let has = node.offer.capacity;
        let hundredths = |all: u64, rule: u32| all * u64::from(rule) / 100;
        let one_org = node.offer.mode == NodeMode::Development;
        // Memory is weighed in KiB, rounded against the one that asks.
        let kib = |bytes: u64| bytes.div_ceil(1_024);
        let reserved = self.loads.get(&node.id).map_or(0, |load| load.memory.0);
        load.cpu_milli <= hundredths(has.cpu.0.into(), world.rules.cpu_overcommit)
            && kib(reserved) + kib(ask.memory.0)
                <= hundredths(has.memory.0 >> 10, world.rules.memory_overcommit)
            && load.pids <= u64::from(has.pids)
            && load.disk <= has.disk
            && load.instances <= has.instances
            && (!one_org || self.orgs.get(&node.id).is_none_or(|org| *org == ask.org))
    }
}

#[test]
fn what_is_placed_was_allowed_and_fits_and_what_is_refused_fits_nowhere() {
    let (mut taken, mut refused) = (0, 0);
    for seed in 0..SEEDS {
        let mut dice = Dice(seed);
        let (nodes, instances, world) = any_world(&mut dice);
        let mut room = Room::of(&world);
        let mut book = Book::of(&instances);
        for turn in 0..40 {
            let (ask, kin) = (any_ask(&mut dice), any_kin(&mut dice));
            let fits =
                |book: &Book, n: &Node| may_take(&world, n, &ask) && book.fits(&world, n, &ask);
            match room.place(&ask, kin.as_ref()) {
                Ok(on) => {
                    assert!(fits(&book, &world.nodes[&on]), "seed {seed}, turn {turn}: {ask:?}");
                    book.orgs.entry(on).or_insert(ask.org);
                    let before = book.loads.get(&on).map_or(0, |load| load.memory.0);
                    book.add(on, ask.cpu, ask.memory, ask.pids, ask.disk);
                    // The book keeps the same rounding as the room.
                    let kib = before.div_ceil(1_024) + ask.memory.0.div_ceil(1_024);
                    book.loads.get_mut(&on).unwrap().memory = Bytes::kib(kib);
                    taken += 1;
                }
                Err(no) => {
                    let room = nodes.iter().find(|n| fits(&book, n));
                    assert_eq!(room.map(|n| &n.name), None, "seed {seed}, turn {turn}: {no}");
                    let reasons: usize = no.counts().values().sum();
                    assert_eq!(reasons, nodes.len(), "seed {seed}: every node has a reason");
                    refused += 1;
                }
            }
        }
    }
    assert!(
        taken > 1_000 && refused > 500,
        "the dice are loaded: {taken} taken, {refused} refused"
    );
}

#[test]
fn placing_many_at_once_is_placing_one_after_another() {
    for seed in 0..SEEDS {
        let mut dice = Dice(seed);
        let (_, _, world) = any_world(&mut dice);
        let (mut at_once, mut singly) = (Room::of(&world), Room::of(&world));
        for turn in 0..8 {
            let (ask, kin) = (any_ask(&mut dice), any_kin(&mut dice));
            let n = 1 + dice.below(30) as usize;
            let (many, no) = at_once.place_many(&ask, kin.as_ref(), n);
            let mut one_by_one = Vec::new();
            let mut last = None;
            while one_by_one.len() < n && last.is_none() {
                match singly.place(&ask, kin.as_ref()) {
                    Ok(node) => one_by_one.push(node),
                    Err(no) => last = Some(no),
                }
            }
            assert_eq!((many, no), (one_by_one, last), "seed {seed}, turn {turn}");
        }
    }
}

#[test]
fn the_order_in_which_rows_came_changes_nothing() {
    for seed in 0..SEEDS {
        let mut dice = Dice(seed);
        let (mut nodes, mut instances, world) = any_world(&mut dice);
        let mut other = World::new(world.suffix.clone());
        (other.rules, other.measured, other.heard) =
            (world.rules, world.measured.clone(), world.heard.clone());
        for n in 0..instances.len() {
            instances.swap(n, dice.below(n as u64 + 1) as usize);
        }
        for n in 0..nodes.len() {
            nodes.swap(n, dice.below(n as u64 + 1) as usize);
        }
        instances.iter().for_each(|row| other.apply(Change::Instance(Box::new(row.clone()))));
        nodes.iter().for_each(|row| other.apply(Change::Node(Box::new(row.clone()))));
        let (mut here, mut there) = (Room::of(&world), Room::of(&other));
        for _ in 0..8 {
            let (ask, kin) = (any_ask(&mut dice), any_kin(&mut dice));
            let n = 1 + dice.below(20) as usize;
            let placed = here.place_many(&ask, kin.as_ref(), n);
            assert_eq!(placed, there.place_many(&ask, kin.as_ref(), n), "seed {seed}");
        }
    }
}

#[test]
fn what_is_reserved_is_kept_as_rows_come_and_go() {
    for seed in 0..SEEDS {
        let mut dice = Dice(seed);
        let (nodes, instances, mut world) = any_world(&mut dice);
        for row in instances {
            match dice.below(5) {
                0 => world.apply(Change::InstanceGone(row.id)),
                1 => world.instances.update(&row.id, |row| row.memory = Bytes::mib(1_000)),
                2 => {
                    let since = Timestamp::from_millis(1);
                    world.instances.update(&row.id, |row| row.intent = Intent::Stop { since });
                }
                3 => {
                    let node = dice.of(&nodes).id;
                    world.apply(Change::Instance(Box::new(Instance { node, ..row })));
                }
                _ => world.apply(Change::Instance(Box::new(row))),
            }
        }
        let rows: Vec<Instance> = world.instances.values().cloned().collect();
        let book = Book::of(&rows);
        for node in &nodes {
            let added = book.loads.get(&node.id).copied().unwrap_or_default();
            assert_eq!(world.instances.load(node.id), added, "seed {seed}, {}", node.name);
            let on = rows.iter().filter(|row| row.node == node.id).count();
            assert_eq!(world.instances.of_node(node.id).count(), on);
        }
        let leaving = rows.iter().filter(|row| row.intent != Intent::Run).map(|row| row.id);
        assert!(world.instances.leaving().map(|row| row.id).eq(leaving), "seed {seed}");
    }
}
