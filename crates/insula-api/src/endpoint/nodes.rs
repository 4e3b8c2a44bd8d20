//! Nodes, for the operator; runtimes, for everybody.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use insula_model::fleet::Member;
use insula_model::limits::NODE_LABELS_MAX;
use insula_model::node::{self, Duty, Site};
use insula_model::release::Release;
use insula_model::{InstanceId, MilliCpu, NodeId, ReleaseId};
use insula_plan::World;
use insula_plan::nodes as decided;
use insula_store::{Tx, apps, instances, nodes, orgs, releases};
use insula_wire::problem::Code;
use insula_wire::rest::node::{Capacity, DrainPreview, Ending, Moving, Node, Runtime, SetSite};
use insula_wire::rest::why::Why;

use crate::context::{Cx, page_of, shown};
use crate::endpoint::public::whole_list;
use crate::error::ApiError;
use crate::reply::{Reply, Whole};
use crate::route::{Param, Route, Rule, delete, flag, patch, post, read};
use crate::write::Happened;

/// Of a node among others that nobody else reaches: a part of its apps' visitors is lost.
const NO_RELAY: &str = "it has no relay: other nodes and gateways do not reach what runs here (`insula agent --relay ADDR`)";

const FORCE: Param =
    flag("force", "also while it is well and runs what must never run twice, and then would");

/// Of what stands in the way of a removal, so many are named.
const NAMED_MAX: usize = 5;

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/runtimes", "list_runtimes", Rule::SignedIn, runtimes)
            .about("What apps can be written in here")
            .answers_page::<Runtime>(),
        read("/v1/nodes", "list_nodes", Rule::Operator, list)
            .about("The nodes")
            .live()
            .paged()
            .answers_page::<Node>(),
        read("/v1/nodes/{node}", "show_node", Rule::Operator, show)
            .about("A node, and what is reserved on it")
            .live()
            .answers::<Node>(200),
        patch("/v1/nodes/{node}", "set_node_site", Rule::Operator, set_site)
            .about("Says in which pool and zone a node is, and what its labels are")
            .takes::<SetSite>()
            .answers::<Node>(200),
        delete("/v1/nodes/{node}", "remove_node", Rule::Operator, remove)
            .about("Takes a node out of the fleet for ever; its instances are replaced elsewhere")
            .query(&[FORCE])
            .answers_nothing(),
        post("/v1/nodes/{node}/cordon", "cordon_node", Rule::Operator, cordon)
            .about("Lets a node keep what it has, and gives it nothing new")
            .answers::<Node>(200),
        post("/v1/nodes/{node}/uncordon", "uncordon_node", Rule::Operator, uncordon)
            .about("Lets a node serve again")
            .answers::<Node>(200),
        post("/v1/nodes/{node}/drain", "drain_node", Rule::Operator, drain)
            .about("Moves everything off a node, new instances first")
            .answers::<Node>(200),
        read("/v1/nodes/{node}/drain", "preview_drain", Rule::Operator, preview)
            .about("What a drain would move, and what it could not")
            .live()
            .answers::<DrainPreview>(200),
        read("/v1/nodes/{node}/why", "why_node", Rule::Operator, why)
            .about("Explains a node")
            .live()
            .answers::<Why>(200),
    ]
}

async fn runtimes(cx: Cx) -> Result<Reply, ApiError> {
    let page = insula_store::Page::first(insula_model::limits::PAGE_MAX);
    let found = cx.read(move |tx| Ok(nodes::list(tx, &page)?)).await?;
    let all: BTreeSet<Runtime> =
        found.items.iter().flat_map(|node| &node.offer.runtimes).map(Runtime::from).collect();
    whole_list(all.into_iter().collect())
}

/// A node of the store, with what the control plane knows of it.
fn view(world: &World, node: &node::Node) -> Node {
    let reserved = world.instances.of_node(node.id).fold(Capacity::default(), |sum, instance| {
        let MilliCpu(cpu) = instance.cpu;
        Capacity {
            cpu_millis: sum.cpu_millis.saturating_add(cpu),
            memory_bytes: sum.memory_bytes.saturating_add(instance.memory.0),
            instances: sum.instances + 1,
        }
    });
    let state = decided::state(world, node);
    let mut shown = Node::new(node, state, world.is_here(node.id), reserved);
    if node.relay.is_none() && world.nodes.len() > 1 {
        shown.notes.push(NO_RELAY.to_owned());
    }
    shown
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let page = cx.page()?;
    let paged = cx.read(move |tx| Ok(nodes::list(tx, &page)?)).await?;
    let seen = cx.api.state.view.borrow().clone();
    shown(&page_of(paged, |node| view(&seen.0, &node)))
}

async fn found(cx: &Cx) -> Result<node::Node, ApiError> {
    let id: NodeId = cx.param("node", "node")?;
    let found = cx.read(move |tx| Ok(nodes::get(tx, id)?)).await?;
    found.ok_or_else(|| ApiError::not_found("node"))
}

async fn show(cx: Cx) -> Result<Reply, ApiError> {
    let node = found(&cx).await?;
    let seen = cx.api.state.view.borrow().clone();
    shown(&view(&seen.0, &node))
}

async fn cordon(cx: Cx) -> Result<Reply, ApiError> {
    let since = cx.now();
    set_duty(cx, Duty::Cordon { since }, "node.cordoned", "gets nothing new").await
}

async fn uncordon(cx: Cx) -> Result<Reply, ApiError> {
    set_duty(cx, Duty::Serve, "node.uncordoned", "serves again").await
}

async fn drain(cx: Cx) -> Result<Reply, ApiError> {
    let since = cx.now();
    set_duty(cx, Duty::Drain { since }, "node.draining", "is being drained").await
}

async fn set_duty(
    cx: Cx,
    duty: Duty,
    kind: &'static str,
    what: &'static str,
) -> Result<Reply, ApiError> {
    let id: NodeId = cx.param("node", "node")?;
    let seen = cx.api.state.view.borrow().clone();
    cx.write(move |tx, deed| {
        let before = nodes::get(tx, id)?.ok_or_else(|| ApiError::not_found("node"))?;
        // A duty that it has already keeps the moment in which it began.
        if std::mem::discriminant(&before.duty) != std::mem::discriminant(&duty) {
            nodes::set_duty(tx, id, duty)?;
            let message = format!("{} {what}", before.name);
            deed.tell(
                tx,
                Happened { kind, subject: id.to_string(), message, ..Happened::default() },
            )?;
        }
        let after = nodes::get(tx, id)?.ok_or_else(|| ApiError::not_found("node"))?;
        Whole::ok(&view(&seen.0, &after))
    })
    .await
}

async fn set_site(cx: Cx) -> Result<Reply, ApiError> {
    let asked: SetSite = cx.json()?;
    let id: NodeId = cx.param("node", "node")?;
    let pool = named("pool", asked.pool.as_deref())?;
    let zone = named("zone", asked.zone.as_deref())?;
    if asked.labels.as_ref().is_some_and(|labels| labels.len() > NODE_LABELS_MAX) {
        let text = format!("a node has {NODE_LABELS_MAX} labels at most");
        return Err(ApiError::field("labels", text));
    }
    let seen = cx.api.state.view.borrow().clone();
    cx.write(move |tx, deed| {
        let before = nodes::get(tx, id)?.ok_or_else(|| ApiError::not_found("node"))?;
        let site = Site {
            pool: pool.clone().unwrap_or_else(|| before.site.pool.clone()),
            zone: zone.clone().unwrap_or_else(|| before.site.zone.clone()),
            labels: asked.labels.clone().unwrap_or_else(|| before.site.labels.clone()),
        };
        if site != before.site {
            nodes::set_site(tx, id, &site)?;
            deed.tell(
                tx,
                Happened {
                    kind: "node.site_set",
                    subject: id.to_string(),
                    message: format!("the site of {} was set", before.name),
                    before: serde_json::to_value(&before.site).ok(),
                    after: serde_json::to_value(&site).ok(),
                    ..Happened::default()
                },
            )?;
        }
        Whole::ok(&view(&seen.0, &node::Node { site, ..before }))
    })
    .await
}

/// Nothing: it stays. An empty text: none.
fn named<T>(field: &'static str, text: Option<&str>) -> Result<Option<Option<T>>, ApiError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    match text {
        None => Ok(None),
        Some("") => Ok(Some(None)),
        Some(text) => match text.parse() {
            Ok(name) => Ok(Some(Some(name))),
            Err(error) => Err(ApiError::field(field, T::Err::to_string(&error))),
        },
    }
}

async fn remove(cx: Cx) -> Result<Reply, ApiError> {
    let id: NodeId = cx.param("node", "node")?;
    let force = cx.flag("force")?.unwrap_or(false);
    let reply = cx
        .write(move |tx, deed| {
            let node = nodes::get(tx, id)?.ok_or_else(|| ApiError::not_found("node"))?;
            let singles = singles(tx, id)?;
            if node.lost.is_none() && !force && !singles.is_empty() {
                return Err(would_run_twice(&node, &singles));
            }
            nodes::remove_with_instances(tx, id, deed.now)?;
            deed.tell(
                tx,
                Happened {
                    kind: "node.removed",
                    subject: id.to_string(),
                    message: format!("{} was taken out of the fleet for ever", node.name),
                    ..Happened::default()
                },
            )?;
            Ok(Whole::nothing())
        })
        .await?;
    // Other servers end its sessions when they read of it; ours need not wait for that.
    cx.api.state.hub.expel(Member::Node(id));
    Ok(reply)
}

/// What a node has of components that must never run twice, told to end or not, by org, app and
/// component.
fn singles(tx: &Tx, node: NodeId) -> Result<BTreeSet<String>, ApiError> {
    let mut releases: BTreeMap<ReleaseId, Option<Release>> = BTreeMap::new();
    let mut singles = BTreeSet::new();
    for one in instances::of_node_any_org(tx, node)? {
        let release = match releases.entry(one.release) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(releases::get_any_org(tx, one.release)?),
        };
        let spec = release.as_ref().and_then(|kept| kept.spec.components.get(&one.component));
        if one.run.is_none() && spec.is_some_and(|spec| spec.single) {
            let org =
                orgs::get(tx, one.org)?.map_or_else(|| "?".to_owned(), |it| it.name.to_string());
            let app = apps::get(tx, one.org, one.app)?
                .map_or_else(|| "?".to_owned(), |it| it.name.to_string());
            singles.insert(format!("{org}/{app} {}", one.component));
        }
    }
    Ok(singles)
}

/// A node that is well does not stop anything because it is refused from now on, and what it had
/// starts elsewhere at once.
fn would_run_twice(node: &node::Node, singles: &BTreeSet<String>) -> ApiError {
    let mut named = singles.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    if let Some(more @ 1..) = singles.len().checked_sub(NAMED_MAX) {
        named = format!("{named} and {more} more");
    }
    let name = &node.name;
    ApiError::new(
        Code::NotEmpty,
        format!("{name} is well and runs what must never run twice, and then would: {named}"),
    )
    .hint(format!(
        "`insula nodes drain {name}` moves it; with --force it starts elsewhere at once, and goes on \
         here until `insula down`"
    ))
}

async fn preview(cx: Cx) -> Result<Reply, ApiError> {
    let node = found(&cx).await?;
    let seen = cx.api.state.view.borrow().clone();
    let world = &seen.0;
    let decided = decided::drain_preview(world, node.id);
    let org_and_app = |org, app| {
        let org = world.orgs.get(&org).map_or("?", |org| org.name.as_str());
        let app = world.apps.get(&app).map_or("?", |app| app.name.as_str());
        format!("{org}/{app}")
    };
    let instance = |id: &InstanceId| {
        let row = world.instances.get(id);
        row.map_or_else(String::new, |i| format!("{} {}", org_and_app(i.org, i.app), i.component))
    };
    let moving = |id: InstanceId, why| Moving { instance: id, what: instance(&id), why };
    let because = |(id, why): (InstanceId, String)| moving(id, Some(why));
    let ending = |(what, how): (decided::Ending, &str)| {
        let (subject, what) = match what {
            decided::Ending::Instance(id) => (id.to_string(), instance(&id)),
            decided::Ending::Build(id) => {
                let row = world.builds.get(&id);
                let what = row.map_or_else(String::new, |build| org_and_app(build.org, build.app));
                (id.to_string(), what)
            }
        };
        Ending { subject, what, how: how.to_owned() }
    };
    shown(&DrainPreview {
        moves: decided.moves.into_iter().map(|id| moving(id, None)).collect(),
        singles: decided.leave_first.into_iter().map(because).collect(),
        stays: decided.cannot.into_iter().map(because).collect(),
        goes_on: decided.goes_on.into_iter().map(ending).collect(),
    })
}

async fn why(cx: Cx) -> Result<Reply, ApiError> {
    let node = found(&cx).await?;
    let seen = cx.api.state.view.borrow().clone();
    let reasons = insula_plan::why::node(&seen.0, &seen.1, node.id);
    let state = decided::state(&seen.0, &node);
    let summary = format!("{} is {state}", node.name);
    shown(&Why { subject: node.id.to_string(), summary, reasons, hint: None })
}
