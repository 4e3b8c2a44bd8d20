//! A node dies or is cut off, and comes back.
