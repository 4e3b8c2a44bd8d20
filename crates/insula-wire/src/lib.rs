//! What crosses a socket: REST types, the node and gateway protocol, error codes.
