//! The client against servers that misbehave, on sockets.

use std::collections::VecDeque;
use std::sync::Mutex;

use expect_test::expect;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// What a server does with one connection.
enum Deed {
    /// Reads the request and hangs up.
    HangUp,
    /// Reads the request and writes this.
    Answer(String),
}

fn answer(status: &str, headers: &str, body: &str) -> Deed {
    let len = body.len();
    Deed::Answer(format!(
        "HTTP/1.1 {status}\r\ncontent-length: {len}\r\nconnection: close\r\n{headers}\r\n{body}"
    ))
}

/// A server that does one deed for each connection; gives its address and what it has read.
async fn serve(deeds: Vec<Deed>) -> (Server, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = requests.clone();
    tokio::spawn(async move {
        let mut deeds = VecDeque::from(deeds);
        while let Some(deed) = deeds.pop_front() {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = read_request(&mut stream).await;
            seen.lock().unwrap().push(request);
            if let Deed::Answer(text) = deed {
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        }
    });
    (server, requests)
}

/// Head and body, as far as its length says.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).await.unwrap();
        bytes.extend_from_slice(&piece[..n]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()
                })
                .unwrap_or(0_usize);
            if body.len() >= length {
                return text;
            }
        }
        if n == 0 {
            return text;
        }
    }
}

fn client(server: Server) -> Client {
    let token = Hidden("inst_x".into());
    Client::new(server, Some(&token), false, Box::new(|_| {})).unwrap()
}

fn header(request: &str, name: &str) -> Option<String> {
    let line = request.lines().find(|line| line.to_ascii_lowercase().starts_with(name))?;
    Some(line.split_once(": ")?.1.to_owned())
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_is_sent_again_as_the_same_change() {
    let (server, requests) = serve(vec![
        Deed::HangUp,
        answer("503 Service Unavailable", "", "{}"),
        answer("201 Created", "", "\"made\""),
    ])
    .await;
    let client = client(server);
    let made: String = client.post(&Target::v1(&["apps"]), &[1, 2]).await.unwrap();
    assert_eq!(made, "made");
    let requests = requests.lock().unwrap();
    assert_eq!(requests.len(), 3);
    let keys: Vec<_> = requests.iter().map(|text| header(text, "idempotency-key")).collect();
    assert!(keys[0].is_some() && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert!(requests.iter().all(|text| text.ends_with("\r\n\r\n[1,2]")));
    assert_eq!(header(&requests[0], "authorization").as_deref(), Some("Bearer inst_x"));
}

#[tokio::test]
async fn two_changes_are_two() {
    let (server, requests) =
        serve(vec![answer("200 OK", "", "1"), answer("200 OK", "", "2")]).await;
    let client = client(server);
    let _: u8 = client.act(&Target::v1(&["a"])).await.unwrap();
    let _: u8 = client.act(&Target::v1(&["a"])).await.unwrap();
    let requests = requests.lock().unwrap();
    assert_ne!(header(&requests[0], "idempotency-key"), header(&requests[1], "idempotency-key"));
}

#[tokio::test]
async fn a_refusal_is_final() {
    let problem =
        r#"{"type":"/errors/x","title":"t","status":409,"code":"conflict","detail":"no"}"#;
    let (server, requests) = serve(vec![answer("409 Conflict", "", problem)]).await;
    let error = client(server).get::<u8>(&Target::v1(&["a"])).await.unwrap_err();
    assert_eq!((error.code(), error.to_string().as_str()), (Some("conflict"), "no"));
    assert_eq!(requests.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn too_many_is_waited_for_only_if_it_is_said_for_how_long() {
    let problem =
        r#"{"type":"/x","title":"t","status":429,"code":"too_many_streams","detail":"no"}"#;
    let (server, _) = serve(vec![
        answer("429 Too Many Requests", "retry-after: 0\r\n", problem),
        answer("429 Too Many Requests", "", problem),
    ])
    .await;
    let error = client(server).get::<u8>(&Target::v1(&["a"])).await.unwrap_err();
    assert_eq!(error.code(), Some("too_many_streams"));
}

#[tokio::test]
async fn a_redirect_is_not_followed_with_the_token() {
    let (server, requests) =
        serve(vec![answer("302 Found", "location: http://127.0.0.1:1/\r\n", "")]).await;
    let error = client(server).get::<u8>(&Target::v1(&["a"])).await.unwrap_err();
    assert!(matches!(error, ClientError::Strange { status: 302, .. }), "{error:?}");
    assert_eq!(requests.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn something_else_behind_the_address_is_told_as_such() {
    let (server, _) = serve(vec![answer("404 Not Found", "", "<html>nginx</html>")]).await;
    let error = client(server).get::<u8>(&Target::v1(&["a"])).await.unwrap_err();
    let failure = crate::failure::Failure::from(error);
    expect!["is --server the address of the API, and not of an app?"]
        .assert_eq(failure.hint.as_deref().unwrap_or_default());
}

#[tokio::test]
async fn a_list_is_read_page_by_page_and_ends_where_it_repeats_itself() {
    let (server, requests) = serve(vec![
        answer("200 OK", "", r#"{"items":[1,2],"next":"a b"}"#),
        answer("200 OK", "", r#"{"items":[3],"next":"a b"}"#),
    ])
    .await;
    let all: Vec<u8> = client(server).all(&Target::v1(&["x"])).await.unwrap();
    assert_eq!(all, [1, 2, 3]);
    let requests = requests.lock().unwrap();
    assert!(requests[0].starts_with("GET /v1/x?limit=200 HTTP/1.1\r\n"));
    assert!(requests[1].starts_with("GET /v1/x?limit=200&cursor=a%20b HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_stream_is_read_event_by_event() {
    let body = ": open\n\nevent: log\ndata: 1\n\nevent: end\ndata: {}\n\n";
    let (server, requests) =
        serve(vec![answer("200 OK", "content-type: text/event-stream\r\n", body)]).await;
    let client = client(server);
    let mut events = client.stream(&Target::v1(&["logs"])).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().data, "1");
    assert_eq!(events.next().await.unwrap().unwrap().name, "end");
    assert_eq!(events.next().await.unwrap(), None);
    let accept = header(&requests.lock().unwrap()[0], "accept");
    assert_eq!(accept.as_deref(), Some("text/event-stream"));
}

#[tokio::test]
async fn an_upload_is_opened_anew_for_each_attempt() {
    let (server, requests) = serve(vec![Deed::HangUp, answer("200 OK", "", "0")]).await;
    let open =
        || Full::new(Bytes::from_static(b"abc")).map_err(|never| match never {}).boxed_unsync();
    let body = Body::Stream {
        media_type: "application/x",
        len: 3,
        open: Arc::new(open),
        gave_up: Arc::new(|| false),
    };
    let _: u8 = client(server).upload(&Target::v1(&["c"]), body).await.unwrap();
    let requests = requests.lock().unwrap();
    assert!(requests.iter().all(|text| text.ends_with("\r\n\r\nabc")), "{requests:?}");
    assert_eq!(header(&requests[1], "content-length").as_deref(), Some("3"));
}

#[test]
fn plain_http_to_elsewhere_is_refused_unless_it_is_wanted() {
    let far: Server = "http://cloud.example.com".parse().unwrap();
    let made = |insecure| Client::new(far.clone(), None, insecure, Box::new(|_| {}));
    assert!(matches!(made(false), Err(ClientError::Insecure { .. })));
    assert!(made(true).is_ok());
}

#[test]
fn a_token_cannot_bring_headers_along() {
    let near: Server = "http://127.0.0.1:1".parse().unwrap();
    let token = Hidden("a\r\nx: y".into());
    let made = Client::new(near, Some(&token), false, Box::new(|_| {}));
    assert!(matches!(made, Err(ClientError::Token { .. })));
}
