//! The resolver over real sockets: instances are loopback addresses, upstreams are tasks of the test.

mod forwarding;
mod own_names;
mod world;
