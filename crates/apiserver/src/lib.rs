//! The embedded Kubernetes API server.
//!
//! One request parser, one storage path for all kinds, a strategy where a kind needs more (Service addresses, pod
//! graceful deletion, namespace finalisation). It looks to clients like kube-apiserver 1.36: discovery, OpenAPI v3,
//! watches, tables and error Statuses follow upstream's `k8s.io/apiserver`.
//!
//! Entry points: [`Server::new`], [`Server::service`] for callers in this process, [`Server::serve`] for TLS.

mod admission;
mod authn;
mod authz;
mod body;
mod compress;
mod convert;
mod discovery;
mod encode;
mod error;
mod handler;
mod health;
mod limits;
mod metrics;
mod negotiate;
mod nodes;
mod openapi;
mod pieces;
pub mod pki;
mod protobuf;
mod query;
mod random;
mod registry;
mod repair;
mod request;
mod respond;
mod selector;
mod server;
mod services;
mod status;
mod table;
mod token;
mod user;

pub use error::Error;
pub use server::{Body, BodyError, Config, Server, Service};
pub use user::UserInfo;
