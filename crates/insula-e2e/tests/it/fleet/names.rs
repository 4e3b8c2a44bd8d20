//! Components that find each other across nodes.
