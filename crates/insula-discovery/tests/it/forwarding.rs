//! Names of the internet: asked of upstreams that are honest, dead, slow, or lying.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use crate::world::{
    A, BLUE, BUILD, NO_ERROR, NO_SUCH_NAME, RED, REFUSED, SERVER_FAILURE, World, answer, question,
    question_end, receive,
};

const TRUE: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);
const FALSE: Ipv4Addr = Ipv4Addr::new(6, 6, 6, 6);

/// An upstream that sends these datagrams for each question, and counts the questions.
async fn upstream(
    replies: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind((own_loopback(), 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 2_048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            counter.fetch_add(1, Ordering::SeqCst);
            for reply in replies(&buffer[..length]) {
                socket.send_to(&reply, from).await.unwrap();
            }
        }
    });
    (address, asked)
}

/// A loopback address that no other test uses, so that a port that is free by UDP is free by TCP.
fn own_loopback() -> Ipv4Addr {
    static COUNTED: AtomicUsize = AtomicUsize::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    let counted = COUNTED.fetch_add(1, Ordering::SeqCst);
    Ipv4Addr::new(127, 1 + u8::try_from(counted % 250).unwrap_or(0), high, low)
}

/// The same port by TCP, with one honest answer for each connection.
async fn also_by_tcp(address: SocketAddr, reply: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut question = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut question).await.unwrap();
            let reply = reply(&question);
            stream.write_u16(u16::try_from(reply.len()).unwrap()).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    });
}

async fn honest() -> (SocketAddr, Arc<AtomicUsize>) {
    upstream(|question| vec![answer(question, &[TRUE])]).await
}

/// An address on which nobody listens.
async fn dead() -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn the_answer_comes_in_the_clients_words_and_then_from_the_cache() {
    let (address, asked) = honest().await;
    let world = World::new(vec![address]).await;
    for (source, name) in
        [(RED, "Www.Example.COM"), (BLUE, "www.example.com"), (BUILD, "WWW.example.com")]
    {
        let reply = world.ask(source, name, A).await;
        let sent = question(7, name, A);
        assert_eq!((reply.id(), reply.code()), (7, NO_ERROR));
        assert_eq!(reply.bytes[12..question_end(&sent)], sent[12..], "its own letter case");
        assert_eq!(reply.addresses(), [TRUE]);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(world.ask_by_tcp(RED, "other.example.com", A).await.addresses(), [TRUE]);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    world.end().await;
}

#[tokio::test]
async fn upstreams_see_neither_the_clients_id_nor_a_letter_case_they_could_guess() {
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let (address, _) = upstream(move |question| {
        sender.send(question.to_vec()).unwrap();
        vec![answer(question, &[TRUE])]
    })
    .await;
    let world = World::new(vec![address]).await;
    let mut cases = std::collections::BTreeSet::new();
    let mut ids = std::collections::BTreeSet::new();
    for number in 0..8 {
        let name = format!("abcdefghijklmnopqrstuvwxyz.{number}.example.com");
        assert_eq!(world.ask(RED, &name, A).await.addresses(), [TRUE]);
        let question = seen.recv().await.unwrap();
        ids.insert([question[0], question[1]]);
        cases.insert(question[13..39].to_vec());
    }
    // Eight of 65,536 ids and of 2^26 cases: repeated once in two thousand runs, three times never.
    assert!(ids.len() >= 6 && cases.len() >= 6, "{ids:?}");
    world.end().await;
}

#[tokio::test]
async fn the_next_upstream_is_asked_when_one_is_dead_or_fails() {
    let (failing, _) = upstream(|question| {
        let mut reply = answer(question, &[]);
        reply[3] |= SERVER_FAILURE;
        vec![reply]
    })
    .await;
    let (good, _) = honest().await;
    let world = World::new(vec![dead().await, failing, good]).await;
    assert_eq!(world.ask(RED, "example.com", A).await.addresses(), [TRUE]);
    world.end().await;
}

#[tokio::test]
async fn a_silent_upstream_costs_one_question_only() {
    let (silent, asked) = upstream(|_| Vec::new()).await;
    let (good, _) = honest().await;
    let world = World::new(vec![silent, good]).await;
    for number in 0..5 {
        let name = format!("{number}.example.com");
        assert_eq!(world.ask(RED, &name, A).await.addresses(), [TRUE]);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    world.end().await;
}

#[tokio::test]
async fn without_an_upstream_the_failure_is_said_and_own_names_still_work() {
    for upstreams in [Vec::new(), vec![dead().await, dead().await]] {
        let world = World::new(upstreams).await;
        assert_eq!(world.ask(RED, "example.com", A).await.code(), SERVER_FAILURE);
        assert_eq!(world.ask(RED, "db", A).await.code(), NO_ERROR);
        world.end().await;
    }
}

#[tokio::test]
async fn a_failure_is_not_remembered() {
    let count = Arc::new(AtomicUsize::new(0));
    let (address, _) = upstream(move |question| {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        let mut reply = answer(question, if first { &[] } else { &[TRUE] });
        reply[3] |= if first { SERVER_FAILURE } else { 0 };
        vec![reply]
    })
    .await;
    let world = World::new(vec![address]).await;
    assert_eq!(world.ask(RED, "example.com", A).await.code(), SERVER_FAILURE);
    assert_eq!(world.ask(RED, "example.com", A).await.addresses(), [TRUE]);
    world.end().await;
}

#[tokio::test]
async fn forged_answers_are_passed_over() {
    let (address, _) = upstream(|question| {
        let forged = answer(question, &[FALSE]);
        let mut other_id = forged.clone();
        other_id[1] ^= 1;
        let mut other_name = forged.clone();
        other_name[13] = b'z';
        let mut a_question = forged;
        a_question[2] &= 0x7f;
        vec![other_id, other_name, a_question, answer(question, &[TRUE])]
    })
    .await;
    let world = World::new(vec![address]).await;
    assert_eq!(world.ask(RED, "example.com", A).await.addresses(), [TRUE]);
    world.end().await;
}

#[tokio::test]
async fn an_answer_in_another_case_is_asked_for_again_by_tcp() {
    let lowercase = |message: &[u8]| {
        let mut lower = message.to_vec();
        let end = question_end(message) - 4;
        lower[12..end].make_ascii_lowercase();
        lower
    };
    // Sixty letters: one run in 2^60 chooses lower case by chance.
    let name = format!("{}.{}", "a".repeat(57), "com");
    let (address, _) = upstream(move |question| vec![lowercase(&answer(question, &[FALSE]))]).await;
    also_by_tcp(address, move |question| lowercase(&answer(question, &[TRUE]))).await;
    let world = World::new(vec![address]).await;
    assert_eq!(world.ask(RED, &name, A).await.addresses(), [TRUE]);
    world.end().await;
}

#[tokio::test]
async fn a_malformed_answer_is_asked_for_again_by_tcp_and_never_passed_on() {
    let (address, _) = upstream(|question| {
        let mut reply = answer(question, &[FALSE]);
        let record = question_end(question);
        // The record's name points at itself.
        let target = u16::try_from(record).unwrap() | 0xc000;
        reply[record..record + 2].copy_from_slice(&target.to_be_bytes());
        vec![reply]
    })
    .await;
    also_by_tcp(address, |question| answer(question, &[TRUE])).await;
    let world = World::new(vec![address]).await;
    assert_eq!(world.ask(RED, "example.com", A).await.addresses(), [TRUE]);
    world.end().await;
}

#[tokio::test]
async fn a_long_answer_is_fetched_by_tcp_and_cut_for_clients_by_udp() {
    let many: Vec<_> = (1..=100).map(|last| Ipv4Addr::new(9, 9, 8, last)).collect();
    let (address, _) = upstream(|question| {
        let mut reply = answer(question, &[]);
        reply[2] |= 2;
        vec![reply]
    })
    .await;
    let expected = many.clone();
    also_by_tcp(address, move |question| answer(question, &many)).await;
    let world = World::new(vec![address]).await;
    for _ in 0..2 {
        let reply = world.ask(RED, "example.com", A).await;
        assert!(reply.truncated() && reply.addresses().is_empty() && reply.bytes.len() <= 512);
        assert_eq!(world.ask_by_tcp(RED, "example.com", A).await.addresses(), expected);
    }
    world.end().await;
}

#[tokio::test]
async fn a_name_that_is_not_there_is_not_there() {
    let (address, asked) = upstream(|question| {
        let mut reply = answer(question, &[]);
        reply[3] |= NO_SUCH_NAME;
        vec![reply]
    })
    .await;
    let world = World::new(vec![address]).await;
    assert_eq!(world.ask(RED, "nope.example.com", A).await.code(), NO_SUCH_NAME);
    assert_eq!(asked.load(Ordering::SeqCst), 1, "the first word is believed");
    world.end().await;
}

#[tokio::test]
async fn a_flood_is_refused_to_the_one_who_makes_it() {
    const WAITING_PER_SOURCE_MAX: u16 = 64;
    // Answers only the neighbour's question; the flood's hang.
    let (address, _) = upstream(|question| {
        let neighbour = question[12] == 1;
        if neighbour { vec![answer(question, &[TRUE])] } else { Vec::new() }
    })
    .await;
    let world = World::new(vec![address]).await;
    let flooder = world.client(RED).await;
    for id in 0..WAITING_PER_SOURCE_MAX {
        flooder.send(&question(id, &format!("flood{id}.example.com"), A)).await.unwrap();
    }
    flooder.send(&question(999, "surplus.example.com", A)).await.unwrap();
    let reply = receive(&flooder).await;
    assert_eq!((reply.id(), reply.code()), (999, REFUSED), "at once, and before any other");
    assert_eq!(world.ask(BLUE, "n.example.com", A).await.addresses(), [TRUE]);
    let db = world.ask(RED, "db", A).await;
    assert_eq!(db.code(), NO_ERROR, "own names need no upstream");
    world.end().await;
}
