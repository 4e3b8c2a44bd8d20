//! Who this node is: chosen once and kept, with the key that seals its secrets.

use std::path::Path;

use insula_kit::clock::Clock;
use insula_kit::files::{self, Access, FileError};
use insula_kit::random::Random;
use insula_kit::seal::{Key, KeyFileError};
use insula_model::ids::ID_RANDOM_BYTES;
use insula_model::node::NodeMode;
use insula_model::{NodeId, NodeName, Timestamp};
use insula_sandbox::net::{BadConfig, Ipv4Cidr, NetConfig, NetTag};
use serde::{Deserialize, Serialize};

use crate::config::{AgentConfig, Endpoint, HostAccess};
use crate::layout::Layout;

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("load who this node is")]
    File(#[from] FileError),
    #[error("load the node's key")]
    Key(#[from] KeyFileError),
    #[error("load the node's network")]
    Net(#[from] BadConfig),
    #[error(
        "this data folder is of a node that ran {was}; start it that way again, or run `insula down` first"
    )]
    OtherMode { was: &'static str },
}

/// `node.json`: also what `down` goes by when neither agent nor configuration is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub node: NodeId,
    pub name: NodeName,
    pub mode: NodeMode,
    pub net: Option<KeptNet>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptNet {
    pub tag: NetTag,
    pub pool: Ipv4Cidr,
    pub open: Vec<Ipv4Cidr>,
}

impl KeptNet {
    pub fn config(&self) -> Result<NetConfig, BadConfig> {
        NetConfig::new(self.tag.clone(), self.pool, self.open.clone())
    }
}

impl Identity {
    /// The name of our control groups: one per data folder.
    pub fn cgroup_parent(&self) -> String {
        match &self.net {
            Some(net) => format!("insula-{}", net.tag),
            None => format!("insula-{}", self.node.short()),
        }
    }

    pub fn load(layout: &Layout) -> Result<Option<Self>, IdentityError> {
        match files::read_json(&layout.node()) {
            Ok(identity) => Ok(Some(identity)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What the fleet calls this node counts, and is kept.
    pub fn rename(&mut self, layout: &Layout, name: NodeName) -> Result<(), IdentityError> {
        if self.name != name {
            self.name = name;
            files::write_json(&layout.node(), self, Access::Private)?;
        }
        Ok(())
    }

    /// Another than before, for a node that was removed: its id never joins again. Of what runs here
    /// the fleet knows nothing any more, and the next Target ends it. Nor is it called what the fleet
    /// called the one before.
    pub fn begin_anew(
        &mut self,
        layout: &Layout,
        name: &NodeName,
        clock: &dyn Clock,
        random: &dyn Random,
    ) -> Result<(), IdentityError> {
        // First: a certificate of another than this folder's node would be refused.
        layout.member().forget()?;
        self.node = new_id(clock, random);
        self.name.clone_from(name);
        files::write_json(&layout.node(), self, Access::Private)?;
        self.publish(layout)
    }

    /// Tells the gateway beside us which node it is on.
    pub fn publish(&self, layout: &Layout) -> Result<(), IdentityError> {
        let text = format!("{}\n", self.node);
        Ok(files::write_durably(&layout.public_node(), text.as_bytes(), Access::Public)?)
    }

    /// The node that this folder is of; on first start a new one.
    pub fn settle(
        layout: &Layout,
        config: &AgentConfig,
        clock: &dyn Clock,
        random: &dyn Random,
    ) -> Result<(Self, Key), IdentityError> {
        files::create_private_folder(&layout.agent())?;
        let key = Key::load_or_create(&layout.node_key(), random)?;
        let before = Self::load(layout)?;
        let holds = std::fs::read_dir(layout.states()).is_ok_and(|mut dir| dir.next().is_some());
        if let Some(before) = &before
            && before.mode != config.host.mode()
            && holds
        {
            let was = match before.mode {
                NodeMode::Full => "as root",
                NodeMode::Development => "as an ordinary user",
            };
            return Err(IdentityError::OtherMode { was });
        }
        let node = before.as_ref().map_or_else(|| new_id(clock, random), |before| before.node);
        let net = match &config.host {
            HostAccess::Full { net } => Some(KeptNet {
                tag: net.tag().clone(),
                pool: net.pool(),
                open: net.open().to_vec(),
            }),
            HostAccess::Development => None,
        };
        // A node of a fleet is called what the fleet calls it.
        let name = match (&config.server, &before) {
            (Endpoint::Fleet { .. }, Some(before)) if layout.member().has_joined() => {
                before.name.clone()
            }
            (Endpoint::Fleet { .. } | Endpoint::Unix(_), _) => config.name.clone(),
        };
        let identity = Self { node, name, mode: config.host.mode(), net };
        if before.as_ref() != Some(&identity) {
            files::write_json(&layout.node(), &identity, Access::Private)?;
        }
        Ok((identity, key))
    }
}

/// Whether the node of this data folder has joined a fleet.
pub fn has_joined(data: &Path) -> bool {
    Layout::new(data).member().has_joined()
}

fn new_id(clock: &dyn Clock, random: &dyn Random) -> NodeId {
    let mut bytes = [0; ID_RANDOM_BYTES];
    random.fill(&mut bytes);
    NodeId::from_parts(Timestamp::from_millis(clock.now_ms()), bytes)
}
