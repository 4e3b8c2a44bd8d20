//! What an agent says of its host when a session begins.

use std::net::SocketAddr;

use insula_model::Timestamp;
use insula_model::node::{Offer, Site};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    #[serde(flatten)]
    pub offer: Offer,
    /// Where its relay answers other nodes and gateways.
    #[serde(default)]
    pub relay: Option<SocketAddr>,
    /// What its clock says; the server looks how far that is from its own.
    #[serde(default)]
    pub clock: Option<Timestamp>,
    /// What an agent on the server's own machine was started with. Of one that joined with a token,
    /// the token's site counts.
    #[serde(default)]
    pub site: Option<Site>,
}
