//! Gives the node's names to its resolver: two crates that do not know each other meet here.
