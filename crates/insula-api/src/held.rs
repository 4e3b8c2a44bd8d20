//! Questions that only the server that decides can answer: passed on to it, and held while it is
//! not clear which one that is.
//!
//! A leader that froze or died has a successor once its lease is over. Whoever asks meanwhile is not
//! refused: the question waits here, for a time, and goes to the next one as soon as there is one. All
//! these questions only read, so one that was perhaps answered is asked again.

use axum::body::Body;
use axum::response::Response;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{HeaderName, HeaderValue, header};
use insula_kit::shutdown::Shutdown;
use insula_kit::trace::RequestId;
use insula_wire::problem::Code;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::error::ApiError;
use crate::fleet::{Deciding, Fleet};
use crate::limits::{LEADER_AGAIN, LEADER_ANSWER_TIME, LEADER_WAIT};

/// The way to another server that decides.
pub trait Leader: Send + Sync + std::fmt::Debug {
    /// Asks it what was asked of us. The caller was admitted here; it is asked again there.
    fn ask(&self, head: Parts) -> BoxFuture<'static, Result<Response, LeaderAway>>;
}

#[derive(Debug, thiserror::Error)]
#[error("ask the server that decides")]
pub struct LeaderAway(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Of a request that another server has passed on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PassedOn;

/// On an answer to another server: ask somebody else, it is not me who decides.
const NOT_HERE: HeaderName = HeaderName::from_static("insula-decides-elsewhere");

/// The answer of the server that decides, or nothing if that is this one.
pub(crate) async fn elsewhere(
    fleet: &Fleet,
    head: &Parts,
    request: &RequestId,
    shutdown: &Shutdown,
) -> Option<Result<Response, ApiError>> {
    let passed_on = head.extensions.get::<PassedOn>().is_some();
    let mut deciding = fleet.deciding();
    let until = Instant::now() + LEADER_WAIT;
    let mut refused = None;
    loop {
        let now = deciding.borrow_and_update().clone();
        match now {
            Deciding::Here => return None,
            // It is held where it was asked first: two servers that both believe in the other would
            // wait for each other.
            Deciding::Nobody | Deciding::Elsewhere(_) if passed_on => {
                return Some(Ok(not_here(request)));
            }
            Deciding::Nobody => {}
            Deciding::Elsewhere(leader) => {
                let answer = tokio::select! {
                    answer = timeout(LEADER_ANSWER_TIME, leader.ask(head.clone())) => answer,
                    // Whoever was asked may be frozen, and never answer. Where it changes again and
                    // again, the last one has its time, and no other.
                    Ok(()) = deciding.changed(), if Instant::now() < until => continue,
                };
                match answer {
                    Ok(Ok(answer)) if answer.headers().contains_key(NOT_HERE) => {}
                    Ok(Ok(answer)) => return Some(Ok(while_it_decides(answer, deciding))),
                    Ok(Err(away)) => refused = Some(away),
                    Err(late) => refused = Some(LeaderAway(late.into())),
                }
            }
        }
        if Instant::now() >= until {
            return Some(Err(nobody(refused)));
        }
        tokio::select! {
            Ok(()) = deciding.changed() => {}
            // The same one may be back, or have heard by now that it decides.
            () = sleep_until(until.min(Instant::now() + LEADER_AGAIN)) => {}
            _ = shutdown.requested() => return Some(Err(nobody(refused))),
        }
    }
}

fn not_here(request: &RequestId) -> Response {
    let mut response = nobody(None).answer(request);
    response.headers_mut().insert(NOT_HERE, HeaderValue::from_static("true"));
    response
}

/// A stream that was passed on ends when another server decides: its reader opens it again, and
/// hears what goes on there. One of a server that froze would be silent for ever.
fn while_it_decides(answer: Response, mut deciding: watch::Receiver<Deciding>) -> Response {
    let kind = answer.headers().get(header::CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != "text/event-stream") {
        return answer;
    }
    let (parts, body) = answer.into_parts();
    let another = async move { _ = deciding.changed().await };
    Response::from_parts(parts, Body::from_stream(body.into_data_stream().take_until(another)))
}

fn nobody(refused: Option<LeaderAway>) -> ApiError {
    let error = ApiError::new(Code::Unavailable, "no server decides at this moment")
        .hint("apps go on, and what is stored is still answered; try again, and if it stays so, look at the servers and at their database")
        .retry_after_s(1);
    match refused {
        Some(away) => error.log_only(away),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use http::{Method, Request};

    use super::*;

    /// Cannot be reached, or never answers.
    #[derive(Debug)]
    struct Lost {
        answers: bool,
        asked: AtomicUsize,
    }

    impl Leader for Lost {
        fn ask(&self, _: Parts) -> BoxFuture<'static, Result<Response, LeaderAway>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if !self.answers {
                return Box::pin(std::future::pending());
            }
            let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
            Box::pin(async { Err(LeaderAway(refused.into())) })
        }
    }

    fn head() -> Parts {
        Request::new(()).into_parts().0
    }

    fn request() -> RequestId {
        RequestId::random(&insula_kit::random::SystemRandom::new())
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_is_held_for_so_long_and_then_refused_with_words() {
        let lost = |answers| Arc::new(Lost { answers, asked: AtomicUsize::new(0) });
        let frozen = LEADER_ANSWER_TIME + LEADER_AGAIN;
        for (deciding, longest) in [
            (Deciding::Nobody, LEADER_WAIT + LEADER_AGAIN),
            (Deciding::Elsewhere(lost(true)), LEADER_WAIT + LEADER_AGAIN),
            (Deciding::Elsewhere(lost(false)), frozen),
        ] {
            let fleet = Fleet::default();
            fleet.set_deciding(deciding);
            let began = Instant::now();
            let refused = elsewhere(&fleet, &head(), &request(), &Shutdown::new()).await;
            let error = refused.unwrap().unwrap_err();
            assert_eq!(error.code(), Code::Unavailable);
            let took = began.elapsed();
            assert!(LEADER_WAIT <= took && took <= longest, "{took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_question_is_answered_as_soon_as_somebody_decides() {
        let fleet = Fleet::default();
        fleet.set_deciding(Deciding::Nobody);
        let takes_over = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            fleet.set_deciding(Deciding::Here);
        };
        let (head, request, shutdown) = (head(), request(), Shutdown::new());
        let began = Instant::now();
        let held = elsewhere(&fleet, &head, &request, &shutdown);
        let (here, ()) = tokio::join!(held, takes_over);
        assert!(here.is_none());
        assert_eq!(began.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_not_reached_is_asked_again_and_not_without_a_pause() {
        let lost = Arc::new(Lost { answers: true, asked: AtomicUsize::new(0) });
        let fleet = Fleet::default();
        fleet.set_deciding(Deciding::Elsewhere(lost.clone()));
        elsewhere(&fleet, &head(), &request(), &Shutdown::new()).await.unwrap().unwrap_err();
        let asked = lost.asked.load(Ordering::SeqCst);
        let most = LEADER_WAIT.as_millis() / LEADER_AGAIN.as_millis() + 2;
        assert!((2..=most as usize).contains(&asked), "{asked}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_server_passed_on_is_not_held_here() {
        for deciding in [
            Deciding::Nobody,
            Deciding::Elsewhere(Arc::new(Lost { answers: false, asked: AtomicUsize::new(0) })),
        ] {
            let fleet = Fleet::default();
            fleet.set_deciding(deciding);
            let mut head = head();
            head.extensions.insert(PassedOn);
            let began = Instant::now();
            let answer = elsewhere(&fleet, &head, &request(), &Shutdown::new()).await;
            let answer = answer.unwrap().unwrap();
            assert_eq!(began.elapsed(), Duration::ZERO);
            assert!(answer.headers().contains_key(NOT_HERE));
            assert_eq!(answer.status(), 503, "a server of before this header shows it as it is");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_ends_holds_nobody() {
        let fleet = Fleet::default();
        fleet.set_deciding(Deciding::Nobody);
        let shutdown = Shutdown::new();
        shutdown.begin(insula_kit::shutdown::Cause::Own);
        let began = Instant::now();
        elsewhere(&fleet, &head(), &request(), &shutdown).await.unwrap().unwrap_err();
        assert!(began.elapsed() < LEADER_WAIT);
    }

    #[test]
    fn what_may_be_asked_twice_only_reads() {
        let live: Vec<_> = crate::table::routes().into_iter().filter(|route| route.live).collect();
        assert!(live.len() > 5, "{live:?}");
        assert!(live.iter().all(|route| route.method == Method::GET), "{live:?}");
    }
}
