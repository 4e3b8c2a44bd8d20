//! What an agent says of its host when a session begins.

use insula_model::node::{Capacity, NodeMode, RuntimeFound};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    pub capacity: Capacity,
    pub mode: NodeMode,
    pub runtimes: Vec<RuntimeFound>,
}
