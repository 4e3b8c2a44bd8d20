//! Names: the resolver of each node.
