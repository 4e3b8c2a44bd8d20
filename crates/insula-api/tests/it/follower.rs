//! A server that does not decide: what only the leader knows is asked of the leader, everything
//! else is answered from the store.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::response::Response;
use futures_util::future::BoxFuture;
use http::request::Parts;
use insula_api::{Deciding, Leader, LeaderAway, Server};
use insula_model::tenancy::Role;
use tokio::sync::Notify;

use crate::log::Agent;
use crate::scene::Scene;
use crate::stage::{Stage, With};
use crate::stream::Following;

/// The way to another server, as the binary makes one: its front door without the wire.
#[derive(Debug)]
struct Way {
    to: Server,
    asked: AtomicUsize,
    paths: Mutex<Vec<String>>,
}

impl Way {
    fn to(server: &Server) -> Arc<Self> {
        Arc::new(Self { to: server.clone(), asked: AtomicUsize::new(0), paths: Mutex::default() })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn is_asked(&self) {
        while self.asked() == 0 {
            tokio::task::yield_now().await;
        }
    }
}

impl Leader for Way {
    fn ask(&self, head: Parts) -> BoxFuture<'static, Result<Response, LeaderAway>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.paths.lock().unwrap().push(head.uri.path().to_owned());
        let to = self.to.clone();
        Box::pin(async move {
            let mut request = http::Request::builder().method(head.method).uri(head.uri);
            *request.headers_mut().unwrap() = head.headers;
            let request = request.body(Body::empty()).unwrap();
            Ok(to.answer(request, SocketAddr::from(([0, 0, 0, 0], 0))).await)
        })
    }
}

/// A leader that cannot be reached.
#[derive(Debug)]
struct Unreachable;

impl Leader for Unreachable {
    fn ask(&self, _: Parts) -> BoxFuture<'static, Result<Response, LeaderAway>> {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        Box::pin(async { Err(LeaderAway(refused.into())) })
    }
}

/// A leader that is stopped and not dead: it takes questions and answers none.
#[derive(Debug, Default)]
struct Frozen {
    asked: Notify,
}

impl Leader for Frozen {
    fn ask(&self, _: Parts) -> BoxFuture<'static, Result<Response, LeaderAway>> {
        self.asked.notify_one();
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn what_only_the_leader_knows_is_asked_of_it_and_nothing_else_is() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let leader = stage.another();
    let way = Way::to(&leader.server);
    stage.fleet.set_deciding(Deciding::Elsewhere(way.clone()));
    let app = &scene.ids["app"];
    let live = ["/v1/status".to_owned(), format!("/v1/orgs/acme/apps/{app}/routes")];
    for (n, path) in live.iter().enumerate() {
        stage.get(&stage.operator, path).await.ok();
        assert_eq!(way.asked(), n + 1, "{path}");
        assert_eq!(way.paths.lock().unwrap().last(), Some(path));
    }
    for path in ["/v1/orgs/acme/apps".to_owned(), format!("/v1/orgs/acme/apps/{app}")] {
        stage.get(&stage.operator, &path).await.ok();
        assert_eq!(way.asked(), live.len(), "{path} is in the store");
    }
}

#[tokio::test]
async fn who_may_not_ask_here_is_not_passed_on() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    stage.org("other").await;
    let stranger = stage.machine("other", Role::Owner).await;
    let leader = stage.another();
    let way = Way::to(&leader.server);
    stage.fleet.set_deciding(Deciding::Elsewhere(way.clone()));
    let path = format!("/v1/orgs/acme/apps/{}/logs", scene.ids["app"]);
    stage.get(&stranger, &path).await.refused(404, "not_found");
    assert_eq!(stage.send("GET", &path, With::default()).await.status, 401);
    assert_eq!(way.asked(), 0);
}

#[tokio::test]
async fn servers_that_take_each_other_for_the_leader_do_not_ask_for_ever() {
    let stage = Stage::open().await;
    let (one, other) = (stage.another(), stage.another());
    let (to_other, to_one) = (Way::to(&other.server), Way::to(&one.server));
    one.fleet.set_deciding(Deciding::Elsewhere(to_other.clone()));
    other.fleet.set_deciding(Deciding::Elsewhere(to_one.clone()));
    stage.fleet.set_deciding(Deciding::Elsewhere(to_one.clone()));
    let clearing_up = async {
        to_one.is_asked().await;
        one.fleet.set_deciding(Deciding::Here);
    };
    let (answer, ()) = tokio::join!(stage.get(&stage.operator, "/v1/status"), clearing_up);
    answer.ok();
    assert_eq!(to_other.asked(), 0, "a question is passed on once");
}

#[tokio::test]
async fn without_a_leader_the_store_answers_and_other_questions_wait_for_the_next_one() {
    let stage = Stage::open().await;
    let next = stage.another();
    for nobody in [Deciding::Nobody, Deciding::Elsewhere(Arc::new(Unreachable))] {
        stage.fleet.set_deciding(nobody);
        let held = stage.get(&stage.operator, "/v1/status");
        let way = Way::to(&next.server);
        let taking_over = async {
            stage.get(&stage.operator, "/v1/orgs/default/apps").await.ok();
            stage.fleet.set_deciding(Deciding::Elsewhere(way.clone()));
        };
        let (answer, ()) = tokio::join!(held, taking_over);
        answer.ok();
    }
    stage.fleet.set_deciding(Deciding::Nobody);
    let held = stage.get(&stage.operator, "/v1/status");
    let (answer, ()) = tokio::join!(held, async { stage.fleet.set_deciding(Deciding::Here) });
    answer.ok();
}

#[tokio::test]
async fn a_question_to_a_leader_that_froze_goes_to_the_next_one() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let next = stage.another();
    let mut agent = Agent::join_at(&next.hub, stage.folder(), 1).await;
    let path = format!("/v1/orgs/acme/apps/{}/logs", scene.ids["app"]);
    let frozen = Arc::new(Frozen::default());
    stage.fleet.set_deciding(Deciding::Elsewhere(frozen.clone()));
    let taking_over = async {
        frozen.asked.notified().await;
        stage.fleet.set_deciding(Deciding::Elsewhere(Way::to(&next.server)));
        let asked = agent.asked_for_logs().await;
        agent.say(asked.stream, &[(1, "still here")], true).await;
    };
    let (answer, ()) = tokio::join!(stage.get(&stage.operator, &path), taking_over);
    assert_eq!(answer.ok()["items"][0]["line"], "still here");
}

#[tokio::test]
async fn a_stream_through_a_follower_ends_when_another_server_decides() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let (before, after) = (stage.another(), stage.another());
    let mut agent = Agent::join_at(&before.hub, stage.folder(), 1).await;
    stage.fleet.set_deciding(Deciding::Elsewhere(Way::to(&before.server)));
    let path = format!("/v1/orgs/acme/apps/{}/logs?follow=true", scene.ids["app"]);
    let mut following = Following::open(&stage, &path).await;
    let asked = agent.asked_for_logs().await;
    agent.say(asked.stream, &[(1, "one")], false).await;
    assert_eq!(following.next().await.unwrap().2["line"], "one");
    stage.fleet.set_deciding(Deciding::Elsewhere(Way::to(&after.server)));
    // Without a word that the log is over: it is not, and its reader opens it again.
    assert_eq!(following.next().await, None);
}

#[tokio::test]
async fn a_log_asked_for_just_after_a_takeover_waits_for_the_nodes_that_are_on_their_way() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    stage.fleet.set_deciding(Deciding::Here);
    let path = format!("/v1/orgs/acme/apps/{}/logs", scene.ids["app"]);
    let coming = async {
        let mut agent = Agent::join_at(&stage.hub, stage.folder(), 1).await;
        let asked = agent.asked_for_logs().await;
        agent.say(asked.stream, &[(1, "back")], true).await;
        agent
    };
    let (answer, _agent) = tokio::join!(stage.get(&stage.operator, &path), coming);
    assert_eq!(answer.ok()["items"][0]["line"], "back");
}

#[tokio::test]
async fn a_log_of_several_nodes_comes_through_a_follower_until_its_reader_goes() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let leader = stage.another();
    stage.fleet.set_deciding(Deciding::Elsewhere(Way::to(&leader.server)));
    scene.places(&stage, 2).await;
    let mut one = Agent::join_at(&leader.hub, stage.folder(), 1).await;
    let mut two = Agent::join_at(&leader.hub, stage.folder(), 2).await;
    let path = format!("/v1/orgs/acme/apps/{}/logs?follow=true", scene.ids["app"]);
    let mut following = Following::open(&stage, &path).await;
    let (of_one, of_two) = (one.asked_for_logs().await, two.asked_for_logs().await);
    one.say(of_one.stream, &[(1, "of one")], false).await;
    two.say(of_two.stream, &[(1, "of two")], false).await;
    let mut lines = BTreeSet::new();
    for _ in 0..2 {
        lines.insert(following.next().await.unwrap().2["line"].as_str().unwrap().to_owned());
    }
    assert_eq!(lines, ["of one", "of two"].map(str::to_owned).into());
    drop(following);
    one.is_told_to_stop(of_one.stream).await;
    two.is_told_to_stop(of_two.stream).await;
}
