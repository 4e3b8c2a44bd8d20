//! An agent of our own making: a member by its certificate that says what no agent of ours would.
//!
//! It speaks the real protocol from a place on the ground, keeps its heart beating, and remembers
//! how its session ended.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use insula_kit::clock::{Clock, SystemClock};
use insula_kit::pki::Identity;
use insula_kit::random::SystemRandom;
use insula_kit::tls::Credentials;
use insula_member::{Dial, Files, Fleet as AnyServer, Joining, Renewal, Servers, Uplink};
use insula_model::fleet::Member;
use insula_model::node::{Architecture, Capacity, NodeMode, Offer};
use insula_model::observed::NodeReport;
use insula_model::spec::Isolation;
use insula_model::{Generation, NodeId, Timestamp};
use insula_wire::facts::NodeFacts;
use insula_wire::node as wire;
use insula_wire::node::agent_message::Message;
use insula_wire::node::node_client::NodeClient;
use insula_wire::node::server_message::Message as ToAgent;
use tokio::sync::mpsc::{
    UnboundedReceiver, UnboundedSender, WeakUnboundedSender, unbounded_channel,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};

use super::ground::Place;
use crate::machine::wait_for;
use crate::story::MOMENT;

const HEARTBEAT: Duration = Duration::from_millis(500);

/// Somebody who may speak as a node: the credentials in this folder, and the servers of its fleet.
#[derive(Debug, Clone)]
pub struct Identified {
    pub node: NodeId,
    credentials: PathBuf,
    servers: Vec<String>,
}

#[derive(Debug)]
pub struct Impostor {
    pub node: NodeId,
    say: Option<UnboundedSender<wire::AgentMessage>>,
    heard: Arc<Mutex<Heard>>,
    session: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Heard {
    /// Of the Target that it was sent last.
    generation: Option<u64>,
    /// The newest of its heartbeats that was acknowledged.
    beat: u64,
    ended: Option<(Code, String)>,
}

/// What it says of itself; everything else is as an agent of ours says it.
#[derive(Debug, Clone)]
pub struct Greeting {
    pub name: String,
    pub protocol: u32,
    /// How far its clock is off.
    pub clock_off: Duration,
}

impl Identified {
    /// Joins with a token, as an agent does; the folder holds what it keeps.
    pub fn join(place: &Place, folder: &Path, servers: &str, token: &str) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let mut random = [0; 10];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut random)?;
        let node = NodeId::from_parts(Timestamp::from_millis(clock.now_ms()), random);
        let files = Files::in_folder(folder);
        let servers: Vec<String> = servers.split(',').map(str::to_owned).collect();
        let token = token.parse().map_err(|error| anyhow!("{error}"))?;
        place.inside(|| {
            let joining = Joining {
                files: &files,
                member: Member::Node(node),
                name: Some(&place.name),
                servers: &servers,
                token: Some(&token),
                clock,
            };
            runtime()?.block_on(joining.settle())?;
            Ok(())
        })?;
        Ok(Self { node, credentials: files.credentials, servers })
    }

    /// Whoever read a node's data folder.
    pub fn steal(data: &Path, folder: &Path, servers: &str) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let files = Files::in_folder(folder);
        std::fs::copy(data.join("agent/credentials.json"), &files.credentials)?;
        let identity = Identity::load(&files.credentials)?;
        let subject = Credentials::new(&identity, Arc::new(SystemClock))?.subject();
        let node = subject.id().parse().map_err(|error| anyhow!("{error}"))?;
        let servers = servers.split(',').map(str::to_owned).collect();
        Ok(Self { node, credentials: files.credentials, servers })
    }
}

impl Identified {
    /// Asks for the next certificate, a day before it would be due, and keeps it.
    pub fn renew(&self, place: &Place) -> Result<()> {
        let identity = Identity::load(&self.credentials)?;
        let credentials = Credentials::new(&identity, Arc::new(SystemClock))?;
        let list = self.credentials.with_file_name("servers.json");
        let fleet = AnyServer::new(Servers::open(list, &self.servers), &credentials);
        let renewing = async {
            let renewal = Renewal {
                file: self.credentials.clone(),
                uplink: Uplink::new(Dial::Fleet(fleet)),
                credentials,
                clock: Arc::new(SystemClock),
                random: Arc::new(SystemRandom::new()),
            };
            renewal.renew().await
        };
        place.inside(|| Ok(runtime()?.block_on(renewing)?))
    }
}

/// Of a member, whichever user has its files: a copy of ours is read, for what belongs to another
/// user than the one who reads it is not believed.
pub fn identity(file: &Path) -> Result<Identity> {
    let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let mut copy = tempfile::NamedTempFile::new()?;
    copy.write_all(&bytes)?;
    Ok(Identity::load(copy.path())?)
}

impl Impostor {
    /// Begins a session from that place. It ends when this is dropped.
    pub fn speak(place: &Place, who: &Identified, greeting: &Greeting) -> Result<Self> {
        let identity = Identity::load(&who.credentials)?;
        let (say, queue) = unbounded_channel();
        let weak = say.downgrade();
        let mut impostor =
            Self { node: who.node, say: Some(say), heard: Arc::default(), session: None };
        impostor.say(Message::Hello(hello(who.node, greeting)?));
        let (heard, place, who) = (Arc::clone(&impostor.heard), place.clone(), who.clone());
        let session = std::thread::spawn(move || {
            let spoken =
                place.inside(|| runtime()?.block_on(session(identity, &who, weak, queue, &heard)));
            if let Err(error) = spoken {
                note(&heard, |heard| heard.ended = Some((Code::Unknown, format!("{error:#}"))));
            }
        });
        impostor.session = Some(session);
        Ok(impostor)
    }

    pub fn say(&self, message: Message) {
        if let Some(say) = &self.say {
            // A session that ended hears nothing; the test asks how it ended.
            let _ = say.send(wire::AgentMessage { message: Some(message) });
        }
    }

    /// A complete report: of nothing but what is wrong with the node.
    pub fn report(&self, report: &NodeReport) -> Result<()> {
        self.report_text(serde_json::to_string(report)?);
        Ok(())
    }

    pub fn report_text(&self, document: String) {
        self.say(Message::Report(wire::Report { document, sequence: 1 }));
    }

    /// Holds nothing, has nothing, lacks nothing.
    pub fn report_nothing(&self) -> Result<()> {
        let nothing = NodeReport {
            generation: Generation(self.generation()?),
            instances: vec![],
            builds: vec![],
            ailments: vec![],
        };
        self.report(&nothing)
    }

    /// Of the Target that it was sent last: a report counts once it answers that.
    pub fn generation(&self) -> Result<u64> {
        wait_for("a Target comes", MOMENT, || {
            Ok(note(&self.heard, |heard| heard.generation).is_some())
        })
        .with_context(|| format!("{:?}", self.ended()))?;
        note(&self.heard, |heard| heard.generation).context("a generation")
    }

    /// A heartbeat besides its own, whose numbers begin at one.
    pub fn beat(&self, sequence: u64) {
        self.say(Message::Heartbeat(wire::Heartbeat { sequence }));
    }

    /// The newest heartbeat that was acknowledged.
    pub fn acknowledged(&self) -> u64 {
        note(&self.heard, |heard| heard.beat)
    }

    /// How its session ended, if it has.
    pub fn ended(&self) -> Option<(Code, String)> {
        note(&self.heard, |heard| heard.ended.clone())
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.say = None;
        if let Some(session) = self.session.take()
            && session.join().is_err()
        {
            eprintln!("the impostor's session panicked");
        }
    }
}

impl Default for Greeting {
    fn default() -> Self {
        Self { name: "impostor".into(), protocol: wire::PROTOCOL, clock_off: Duration::ZERO }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("make a runtime")
}

fn note<T>(heard: &Mutex<Heard>, change: impl FnOnce(&mut Heard) -> T) -> T {
    change(&mut heard.lock().unwrap_or_else(PoisonError::into_inner))
}

fn hello(node: NodeId, greeting: &Greeting) -> Result<wire::Hello> {
    let off = i64::try_from(greeting.clock_off.as_millis())?;
    let facts = NodeFacts {
        offer: Offer {
            // Room for nothing: what is placed here would never run.
            capacity: Capacity::default(),
            mode: NodeMode::Full,
            runtimes: vec![],
            architecture: Architecture::default(),
            isolation: [Isolation::Standard].into(),
        },
        relay: None,
        clock: Some(Timestamp::from_millis(SystemClock.now_ms() - off)),
        site: None,
    };
    Ok(wire::Hello {
        node: node.to_string(),
        name: greeting.name.clone(),
        version: "0.0.9".into(),
        protocol: greeting.protocol,
        facts: serde_json::to_string(&facts)?,
        generation: 0,
    })
}

async fn session(
    identity: Identity,
    who: &Identified,
    say: WeakUnboundedSender<wire::AgentMessage>,
    queue: UnboundedReceiver<wire::AgentMessage>,
    heard: &Mutex<Heard>,
) -> Result<()> {
    let credentials = Credentials::new(&identity, Arc::new(SystemClock))?;
    let list = who.credentials.with_file_name("servers.json");
    let fleet = AnyServer::new(Servers::open(list, &who.servers), &credentials);
    let mut client = NodeClient::new(Uplink::new(Dial::Fleet(fleet)).channel());
    let talk = async {
        let mut incoming = client.session(UnboundedReceiverStream::new(queue)).await?.into_inner();
        while let Some(message) = incoming.message().await? {
            match message.message {
                Some(ToAgent::Target(target)) => {
                    note(heard, |heard| heard.generation = Some(target.generation));
                }
                Some(ToAgent::HeartbeatAck(ack)) => {
                    note(heard, |heard| heard.beat = heard.beat.max(ack.sequence));
                }
                Some(_) | None => {}
            }
        }
        Err::<(), Status>(Status::ok("the server ended it without a word"))
    };
    let beat = async {
        let mut sequence = 0;
        // Until nobody holds the impostor any more.
        while let Some(say) = say.upgrade() {
            sequence += 1;
            let beat = Message::Heartbeat(wire::Heartbeat { sequence });
            // After the end of the session nobody listens.
            let _ = say.send(wire::AgentMessage { message: Some(beat) });
            drop(say);
            tokio::time::sleep(HEARTBEAT).await;
        }
    };
    tokio::select! {
        () = beat => {}
        ended = talk => if let Err(status) = ended {
            let words = (status.code(), status.message().to_owned());
            note(heard, |heard| heard.ended = Some(words));
        },
    }
    Ok(())
}
