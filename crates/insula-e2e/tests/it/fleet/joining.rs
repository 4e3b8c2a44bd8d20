//! How machines become nodes, and who does not.
