//! What one node may do to a log that is read: nothing but be missing from it.

use std::collections::BTreeSet;

use futures_util::{Stream, StreamExt};
use insula_link::{LogEntry, LogQuery, LogSubject};
use insula_model::{AppId, NodeId, Timestamp};
use insula_wire::node as wire;
use insula_wire::node::agent_message::Message as FromAgent;
use insula_wire::node::server_message::Message as ToAgent;

use crate::rig::{hello_of, node};
use crate::{Agent, PATIENCE, Server};

fn follow(nodes: Option<BTreeSet<NodeId>>) -> LogQuery {
    LogQuery {
        subject: LogSubject::App(AppId::from_parts(Timestamp::from_millis(1), [2; 10])),
        component: None,
        instance: None,
        since: None,
        tail: None,
        grep: None,
        follow: true,
        nodes,
    }
}

async fn agent(server: &mut Server, n: u8) -> Agent {
    let mut agent = server.agent(hello_of(n)).await.unwrap();
    agent.hear().await;
    server.next().await;
    agent
}

fn line(stream: u64, text: &str) -> FromAgent {
    let entry = wire::LogEntry { line: text.as_bytes().to_vec(), ..Default::default() };
    FromAgent::Log(wire::LogChunk { stream, entries: vec![entry], ..Default::default() })
}

async fn asked(agent: &mut Agent) -> u64 {
    let ToAgent::LogRequest(asked) = agent.hear().await else { panic!("not asked") };
    asked.stream
}

async fn next(lines: &mut (impl Stream<Item = Vec<LogEntry>> + Unpin)) -> LogEntry {
    let batch = tokio::time::timeout(PATIENCE, lines.next()).await.unwrap().unwrap();
    batch.into_iter().next().unwrap()
}

#[tokio::test]
async fn a_node_that_floods_a_reader_is_cut_off_and_the_others_are_not() {
    let mut server = Server::start();
    let mut loud = agent(&mut server, 1).await;
    let mut quiet = agent(&mut server, 2).await;
    let mut lines = Box::pin(server.hub.logs(follow(None)));
    let stream = asked(&mut loud).await;
    asked(&mut quiet).await;

    // Nobody reads, and it does not stop until it is told to.
    let piece = "x".repeat(4 * 1024 * 1024);
    for _ in 0..8 {
        loud.say(line(stream, &piece)).await;
    }
    let ToAgent::LogCancel(cancel) = loud.hear().await else { panic!("not cut off") };
    assert_eq!(cancel.stream, stream);
    quiet.say(line(stream, "still here")).await;

    let (mut taken, mut said) = (0, vec![]);
    loop {
        let entry = next(&mut lines).await;
        if entry.line == "still here" {
            break;
        }
        match entry.channel {
            "platform" => said.push(entry.line),
            _ => taken += entry.line.len(),
        }
    }
    assert!(taken < 16 * 1024 * 1024, "{taken} bytes waited, of its half of 32 MiB");
    assert_eq!(said.len(), 1);
    assert!(said[0].contains(&node(1).to_string()), "{said:?}");
    // What was read makes room: a node that is read goes on for ever.
    for _ in 0..8 {
        quiet.say(line(stream, &piece)).await;
        assert_eq!(next(&mut lines).await.line.len(), piece.len());
    }
}

#[tokio::test]
async fn a_node_that_was_not_asked_is_not_believed() {
    let mut server = Server::start();
    let mut here = agent(&mut server, 1).await;
    let mut elsewhere = agent(&mut server, 2).await;
    let mut lines = Box::pin(server.hub.logs(follow(Some([node(1)].into()))));
    let stream = asked(&mut here).await;
    elsewhere.say(line(stream, "a forged line")).await;
    let ToAgent::LogCancel(_) = elsewhere.hear().await else { panic!("it was believed") };
    here.say(line(stream, "a line")).await;
    assert_eq!(next(&mut lines).await.line, "a line");
}

#[tokio::test]
async fn who_follows_waits_for_the_first_node_and_ends_with_the_last() {
    let mut server = Server::start();
    let mut first = agent(&mut server, 1).await;
    let mut second = agent(&mut server, 2).await;
    let mut lines = server.hub.logs(follow(Some(BTreeSet::new())));
    let begun = Timestamp::from_millis(77);
    // Twice is once; one that is not connected is not waited for.
    [1, 1, 2, 3].into_iter().for_each(|n| lines.also(node(n), begun));
    for (agent, text) in [(&mut first, "of one"), (&mut second, "of two")] {
        let ToAgent::LogRequest(asked) = agent.hear().await else { panic!("not asked") };
        assert_eq!((asked.since_ms, asked.tail, asked.follow), (77, 0, true));
        agent.say(line(asked.stream, text)).await;
        assert_eq!(next(&mut lines).await.line, text);
    }
    drop((first, second));
    let end = tokio::time::timeout(PATIENCE, lines.next()).await.unwrap();
    assert!(end.is_none(), "for the reader to ask again");
}

#[tokio::test]
async fn where_nobody_can_have_a_line_there_is_nothing_to_wait_for() {
    let mut server = Server::start();
    let _agent = agent(&mut server, 1).await;
    let query = LogQuery { follow: false, ..follow(Some(BTreeSet::new())) };
    assert!(server.hub.logs(query).next().await.is_none());
}
