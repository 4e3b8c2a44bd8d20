//! Bodies that are too large, too slow, of the wrong kind, or say more than is known.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::scene::Scene;
use crate::stage::{Stage, With};

#[tokio::test]
async fn a_field_that_is_not_known_is_refused_in_every_body() {
    let stage = Stage::open().await;
    let scene = Scene::set(&stage, "acme", 1).await;
    let mut tried = 0;
    for route in insula_api::routes() {
        let example = scene.body(&route, With::default());
        let Ok(Value::Object(mut body)) = serde_json::from_slice(&example.body) else { continue };
        body.insert("not_known".into(), json!(1));
        let with = With::token(&stage.operator).json(&Value::Object(body));
        let answer = stage.send(route.method.as_str(), &scene.path(&route), with).await;
        if ["change_password"].contains(&route.name) {
            // For persons only, and this is a credential of none.
            answer.refused(403, "forbidden");
            continue;
        }
        let problem = answer.refused(422, "invalid_field");
        assert!(problem["detail"].as_str().unwrap().contains("not_known"), "{route:?}: {problem}");
        tried += 1;
    }
    assert!(tried > 25, "{tried}");
}

#[tokio::test]
async fn what_is_not_the_json_that_was_asked_for_is_refused() {
    let stage = Stage::open().await;
    let send = async |media_type: &'static str, body: &[u8]| {
        let with = With::token(&stage.operator).body(media_type, body.to_vec());
        stage.send("POST", "/v1/orgs", with).await
    };
    for broken in [&b""[..], b"{", b"{'name':'x'}", b"\xff\xfe", b"{\"name\":\"x\"}{}"] {
        send("application/json", broken).await.refused(400, "invalid_json");
    }
    for wrong in
        [&b"[]"[..], b"null", b"1", b"{}", b"{\"name\":1}", b"{\"name\":\"x\",\"name\":\"y\"}"]
    {
        send("application/json", wrong).await.refused(422, "invalid_field");
    }
    let deep = "[".repeat(100_000);
    send("application/json", deep.as_bytes()).await.refused(422, "invalid_field");
    send("text/plain", b"{\"name\":\"x\"}").await.refused(415, "unsupported_media_type");
    let charset = "application/json; charset=utf-8";
    assert_eq!(send(charset, b"{\"name\":\"x\"}").await.status, 201);
}

#[tokio::test]
async fn a_body_beyond_its_limit_is_refused_by_its_length_and_by_its_bytes() {
    let stage = Stage::open().await;
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(1 << 20)).into_bytes();
    let with = With::token(&stage.operator).body("application/json", large.clone());
    stage.send("POST", "/v1/orgs", with).await.refused(413, "body_too_large");

    // A stranger has less to say.
    let long = format!("{{\"email\":\"{}\",\"password\":\"x\"}}", "x".repeat(16 << 10));
    let with = With::token("").body("application/json", long.into_bytes());
    stage.send("POST", "/v1/sign-in", with).await.refused(413, "body_too_large");

    // Without a length, in chunks that go on.
    let mut raw = TcpStream::connect(stage.address).await.unwrap();
    let head = format!(
        "POST /v1/orgs HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        stage.operator
    );
    raw.write_all(head.as_bytes()).await.unwrap();
    let piece = format!("{:x}\r\n{}\r\n", 100_000, "x".repeat(100_000));
    let mut answer = Vec::new();
    for _ in 0..20 {
        if raw.write_all(piece.as_bytes()).await.is_err() {
            break;
        }
    }
    let _ = tokio::time::timeout(Duration::from_secs(20), raw.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn paths_and_methods_that_there_are_not_get_a_problem_too() {
    let stage = Stage::open().await;
    for path in ["/", "/v1", "/v2/orgs", "/v1/orgs/", "/v1/orgs/default/nothing", "/console"] {
        stage.get(&stage.operator, path).await.refused(404, "not_found");
    }
    let answer = stage.delete(&stage.operator, "/v1/orgs").await;
    answer.refused(405, "method_not_allowed");
    let allow = answer.header("allow").unwrap();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    let page = stage.get("", "/errors/not_found").await;
    assert!(page.text.starts_with("# not_found"), "{}", page.text);
    stage.get("", "/errors/cause-exited").await;
    stage.get("", "/errors/..%2f..%2fCargo.toml").await.refused(404, "not_found");
}

#[tokio::test]
async fn headers_without_end_close_the_connection() {
    let stage = Stage::open().await;
    let mut raw = TcpStream::connect(stage.address).await.unwrap();
    raw.write_all(b"GET /healthz HTTP/1.1\r\nhost: api\r\n").await.unwrap();
    let mut sent = 0_usize;
    while sent < 200_000 {
        match raw.write_all(b"x-filler: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n").await {
            Ok(()) => sent += 44,
            Err(_) => break,
        }
    }
    let mut answer = Vec::new();
    let _ = raw.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(stage.get("", "/healthz").await.status, 200);
}

#[tokio::test]
async fn one_address_that_holds_connections_open_locks_nobody_else_out() {
    let stage = Stage::open().await;
    let mut held = Vec::new();
    for _ in 0..300 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
        held.push(socket.connect(stage.address).await.unwrap());
    }
    // One beyond the limit of its address is closed without a word.
    let mut last = held.pop().unwrap();
    let mut nothing = [0; 1];
    assert!(matches!(last.read(&mut nothing).await, Ok(0) | Err(_)));
    assert_eq!(stage.get("", "/healthz").await.status, 200);
}

#[tokio::test]
async fn a_request_that_is_smuggled_behind_another_is_not_answered() {
    let stage = Stage::open().await;
    let mut raw = TcpStream::connect(stage.address).await.unwrap();
    let both = "POST /v1/sign-in HTTP/1.1\r\nhost: api\r\ncontent-length: 4\r\n\
                transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: api\r\n\r\n";
    raw.write_all(both.as_bytes()).await.unwrap();
    raw.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = raw.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    // Either refused whole, or framed by the chunks alone as the standard says; never by the
    // length, by which the second request would begin in the middle of the first.
    assert!(
        !answer.contains("\"status\":\"ok\"") || answer.matches("HTTP/1.1").count() == 2,
        "{answer}"
    );
}
