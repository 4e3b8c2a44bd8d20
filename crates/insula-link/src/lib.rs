//! The server's side of the node and gateway protocols: sessions, live logs through them.
