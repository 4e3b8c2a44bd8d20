//! Two relays of one fleet on loopback, and everybody who would like to be one.

mod attack;
mod capture;
mod doors;
mod fleet;
mod pulse;
mod stream;
