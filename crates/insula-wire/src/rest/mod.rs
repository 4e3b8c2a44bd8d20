//! The REST types of `/v1`, one file per resource, with their conversion from the model.
//!
//! Requests refuse fields that they do not know; answers are read with tolerance, so states and
//! kinds are strings there: `/v1` grows, and a program of last year must read an answer of today.

pub mod app;
pub mod auth;
pub mod build;
pub mod config;
pub mod deployment;
pub mod domain;
pub mod event;
pub mod instance;
pub mod join;
pub mod log;
pub mod member;
pub mod node;
pub mod org;
pub mod page;
pub mod project;
pub mod release;
pub mod run;
pub mod source;
pub mod status;
pub mod token;
pub mod why;

pub use page::Page;
