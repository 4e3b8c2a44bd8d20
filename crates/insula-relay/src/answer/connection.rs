//! One member's connection: a message, perhaps a stream, and the next message.

use std::io;
use std::net::SocketAddr;

use insula_kit::tls::ServerStream;
use insula_model::InstanceId;
use insula_model::fleet::Member;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::rate::Rate;
use super::{Counted, Relay};
use crate::ahead::ReadAhead;
use crate::call::CONNECTION_LIFE_MAX;
use crate::carry::{Carried, carry};
use crate::doors::NoDoor;
use crate::framed::Framed;
use crate::message::{Answer, MESSAGE_LEN, Refused, Request, Verdict};

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

pub(super) struct Connection<'a> {
    relay: &'a Relay,
    member: Member,
    framed: Framed<ServerStream<ReadAhead>>,
    changes: watch::Receiver<u64>,
    pings: Rate,
    misses: Rate,
    until: Instant,
}

/// Why no more is read from a connection.
enum End {
    /// It went, or has been here for long enough.
    Left,
    /// It said what nobody of ours says.
    Misbehaved(&'static str),
    /// The member is no longer one.
    Unwelcome,
    /// A stream was broken off, by either side.
    Broken,
    /// Its instance is gone, or the right to it.
    Cut,
}

impl<'a> Connection<'a> {
    pub(super) fn new(
        relay: &'a Relay,
        member: Member,
        not_after_ms: i64,
        stream: ServerStream<ReadAhead>,
    ) -> Self {
        let (now, limits) = (Instant::now(), &relay.limits);
        // A certificate is examined when a connection begins; none outlives it by more than a stream.
        let valid = not_after_ms - relay.now_ms();
        let valid = std::time::Duration::from_millis(valid.max(0) as u64);
        Self {
            relay,
            member,
            framed: Framed::new(stream),
            changes: relay.doors.changes(),
            pings: Rate::new(limits.pings_per_second_max, SECOND, now),
            misses: Rate::new(limits.misses_per_second_max, SECOND, now),
            // The caller gives it up first, so that nothing is asked of one that is just closing.
            until: now + valid.min(CONNECTION_LIFE_MAX * 2),
        }
    }

    pub(super) async fn run(mut self) {
        let end = loop {
            match self.turn().await {
                Ok(()) => {}
                Err(end) => break end,
            }
        };
        let member = self.member;
        match end {
            End::Left | End::Broken => {}
            End::Misbehaved(how) => {
                tracing::warn!(%member, how, "closed a connection to the relay");
                self.relay.counts.misbehaved.increment();
            }
            End::Unwelcome => {
                tracing::info!(%member, "closed a connection of who is no longer a member");
                self.relay.counts.turned_away.increment();
            }
            End::Cut => self.relay.counts.cut.increment(),
        }
    }

    /// One message, and what follows from it.
    async fn turn(&mut self) -> Result<(), End> {
        let message = self.message().await?;
        let now = Instant::now();
        let Ok(request) = Request::decode(&message) else {
            return Err(End::Misbehaved("it sent a message that we do not know"));
        };
        match request {
            Request::Ping(number) => {
                if !self.pings.take(now) {
                    return Err(End::Misbehaved("it sent a flood of pings"));
                }
                self.say(Answer::Pong(number)).await
            }
            Request::Open(instance) => {
                let verdict = match self.door(instance).await {
                    Ok((at, tcp)) => {
                        self.relay.counts.opened.increment();
                        self.say(Answer::Open(instance, Verdict::Ok)).await?;
                        return self.stream(instance, at, tcp).await;
                    }
                    Err(verdict) => verdict,
                };
                self.count(verdict);
                if !self.misses.take(now) {
                    return Err(End::Misbehaved("it sent a flood of openings that lead nowhere"));
                }
                self.say(Answer::Open(instance, verdict)).await
            }
        }
    }

    /// The next message. Waits long for its first byte and not for its last.
    async fn message(&mut self) -> Result<[u8; MESSAGE_LEN], End> {
        let limits = &self.relay.limits;
        let idle = Instant::now() + limits.idle_max;
        loop {
            if !self.relay.doors.admits(self.member) {
                return Err(End::Unwelcome);
            }
            tokio::select! {
                heard = self.framed.heard() => {
                    heard.map_err(left)?;
                    break;
                }
                changed = self.changes.changed() => changed.map_err(|_| End::Left)?,
                () = tokio::time::sleep_until(idle.min(self.until)) => return Err(End::Left),
            }
        }
        let read = timeout(limits.message_time_max, self.framed.read_message()).await;
        let message = read.map_err(|_| End::Misbehaved("it sent a message too slowly"))?;
        message.map_err(left)?.ok_or(End::Left)
    }

    async fn say(&mut self, answer: Answer) -> Result<(), End> {
        let said = self.framed.write_message(answer.encode());
        // Who asks and does not listen must not hold a place for ever.
        match timeout(self.relay.limits.message_time_max, said).await {
            Ok(said) => said.map_err(left),
            Err(_) => Err(End::Misbehaved("it does not listen")),
        }
    }

    /// A connection to what runs as that instance now.
    async fn door(&mut self, instance: InstanceId) -> Result<(SocketAddr, TcpStream), Verdict> {
        let doors = &self.relay.doors;
        self.changes.borrow_and_update();
        let at = doors.find(self.member, instance).map_err(|no| match no {
            NoDoor::Gone => Verdict::Gone,
            NoDoor::Denied => Verdict::Denied,
            NoDoor::NotListening => Verdict::Refused(Refused::NotListening),
        })?;
        let connecting = timeout(self.relay.limits.connect_time_max, TcpStream::connect(at));
        let tcp = match connecting.await {
            Ok(Ok(tcp)) => tcp,
            Ok(Err(error)) if no_descriptor(&error) => return Err(Verdict::Refused(Refused::Busy)),
            Ok(Err(_)) => return Err(Verdict::Refused(Refused::NotListening)),
            Err(_) => return Err(Verdict::Refused(Refused::Silent)),
        };
        // It may have ended while we knocked, and who lives there now is somebody else.
        if !doors.holds(self.member, instance, at) {
            return Err(Verdict::Gone);
        }
        let _ = tcp.set_nodelay(true);
        Ok((at, tcp))
    }

    async fn stream(
        &mut self,
        instance: InstanceId,
        at: SocketAddr,
        mut tcp: TcpStream,
    ) -> Result<(), End> {
        let Self { relay, member, framed, changes, .. } = self;
        relay.counts.streams.add(1);
        let _counted = Counted(&relay.counts.streams);
        let mut carried = Carried::default();
        let end = {
            let carrying = carry(framed, &mut tcp, &mut carried);
            tokio::pin!(carrying);
            loop {
                tokio::select! {
                    // In this order: what is not to be carried any more is not carried.
                    biased;
                    changed = changes.changed() => {
                        if changed.is_err() || !relay.doors.holds(*member, instance, at) {
                            break Err(End::Cut);
                        }
                    }
                    carried = &mut carrying => break carried.map_err(|_| End::Broken),
                }
            }
        };
        relay.counts.bytes_to_instances.add(carried.out);
        relay.counts.bytes_from_instances.add(carried.back);
        if end.is_ok() {
            framed.renew();
        }
        end
    }

    fn count(&self, verdict: Verdict) {
        let counts = &self.relay.counts;
        match verdict {
            Verdict::Ok => &counts.opened,
            Verdict::Gone => &counts.gone,
            Verdict::Denied => &counts.denied,
            Verdict::Refused(_) => &counts.refused,
        }
        .increment();
    }
}

fn left(_: io::Error) -> End {
    End::Left
}

fn no_descriptor(error: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}
