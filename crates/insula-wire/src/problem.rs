//! Problem documents (RFC 9457) with a stable code.
