//! The store from outside: what its users may rely on.

mod backup;
mod both;
mod bulk;
mod disk;
mod feed;
mod fleet;
mod golden;
mod group;
mod history;
mod idempotency;
mod kill;
mod leases;
mod model;
mod open;
mod outage;
mod pages;
mod postgres;
mod reserved;
mod secrets;
mod shared;
mod sweep;
mod tenancy;
mod tls;
mod upgrade;
mod whereabouts;
mod world;
