//! What the operator does with nodes.
