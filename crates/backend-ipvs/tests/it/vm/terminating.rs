//! Real servers that leave: their connections go on, new ones go elsewhere, and they are removed in time.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use portolan_backend_ipvs::{Ipvs, Options};
use portolan_model::{Backend, Event, Family, Model, Service, SessionAffinity};
use portolan_netlink::ipvs::{self, RealServer, VirtualServer};

use super::{alone, tcp, weights};
use crate::objects::{IPV4, NODE, ip, service, slice};

const PATIENCE: Duration = Duration::from_secs(900);
const PODS: &[&str] = &["10.244.0.1", "10.244.0.2", "172.30.0.11"];

/// A Service at pods that are addresses of this namespace, in the kernel.
struct Node {
    model: Model,
    backend: Ipvs,
    listeners: Vec<TcpListener>,
}

fn open() -> Ipvs {
    Ipvs::open_without_rules(Family::Ipv4, Options::default()).unwrap()
}

fn at() -> VirtualServer {
    tcp("10.96.0.10", 80)
}

fn real(number: u8) -> RealServer {
    RealServer { address: ip(&format!("10.244.0.{number}")), port: 8080 }
}

impl Node {
    fn new(affinity: SessionAffinity) -> Self {
        let listen = |n: u8| TcpListener::bind((format!("10.244.0.{n}"), 8080)).unwrap();
        let mut model = IPV4.model();
        let web = Service { session_affinity: affinity, ..service("web", "10.96.0.10", None) };
        model.apply(Event::Service(web));
        let mut node = Self { model, backend: open(), listeners: vec![listen(1), listen(2)] };
        node.model.apply(endpoints(&[1, 2]));
        node.model.flush();
        node.backend.start(node.model.table()).unwrap();
        node
    }

    /// Brings the kernel to these endpoints.
    fn endpoints(&mut self, numbers: &[u8]) {
        self.model.apply(endpoints(numbers));
        let delta = self.model.flush();
        self.backend.apply(self.model.table(), &delta).unwrap();
    }

    /// A proxy that knows nothing of the one before.
    fn restart(&mut self) {
        self.backend = open();
        self.backend.start(self.model.table()).unwrap();
    }

    /// A new connection, both ends, and the number of the pod that has it.
    fn connect(&self) -> (TcpStream, TcpStream, u8) {
        let near = TcpStream::connect_timeout(&"10.96.0.10:80".parse().unwrap(), PATIENCE).unwrap();
        for (number, listener) in (1..).zip(&self.listeners) {
            listener.set_nonblocking(true).unwrap();
            if let Ok((far, _)) = listener.accept() {
                far.set_nonblocking(false).unwrap();
                return (near, far, number);
            }
        }
        panic!("a connection that nobody has");
    }

    /// A connection to that pod, others being closed.
    fn connect_to(&self, number: u8) -> (TcpStream, TcpStream) {
        let found = (0..4).map(|_| self.connect()).find(|(.., pod)| *pod == number);
        let (near, far, _) = found.expect("round robin comes by");
        (near, far)
    }
}

fn endpoints(numbers: &[u8]) -> Event {
    let pods: Vec<_> = numbers.iter().map(|number| format!("10.244.0.{number}")).collect();
    let endpoints: Vec<_> = pods.iter().map(|pod| (pod.as_str(), NODE)).collect();
    slice("web", &endpoints)
}

/// Whether something that is said arrives.
fn talks((near, far): &mut (TcpStream, TcpStream)) {
    near.write_all(b"x").unwrap();
    let mut buffer = [0; 1];
    far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    far.read_exact(&mut buffer).unwrap();
}

/// Whether the client of a connection that nobody has any more is told so.
fn is_told((near, _): &mut (TcpStream, TcpStream)) {
    near.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // What is written to it first is lost, what is sent again is answered by a reset.
    near.write_all(b"x").unwrap();
    let error = near.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn a_connection_outlives_its_endpoint_and_a_restart_until_the_deadline() {
    alone(PODS, || {
        let mut node = Node::new(SessionAffinity::None);
        let mut connection = node.connect_to(1);
        node.endpoints(&[2]);
        assert_eq!(weights(&at()), [(real(1), 0), (real(2), 1)]);
        talks(&mut connection);
        let began = Instant::now();
        assert!(node.backend.tend(began).unwrap().is_some());
        for _ in 0..4 {
            assert_eq!(node.connect().2, 2);
        }
        // Neither a full sync nor another proxy gives it its weight back.
        node.backend.start(node.model.table()).unwrap();
        assert_eq!(weights(&at()), [(real(1), 0), (real(2), 1)]);
        node.restart();
        assert_eq!(weights(&at()), [(real(1), 0), (real(2), 1)]);
        talks(&mut connection);
        assert_eq!(node.connect().2, 2);
        assert!(node.backend.tend(began).unwrap().is_some());
        let shortly = began + PATIENCE - Duration::from_secs(1);
        assert_eq!(node.backend.tend(shortly).unwrap(), Some(began + PATIENCE));
        talks(&mut connection);
        assert_eq!(node.backend.tend(began + PATIENCE).unwrap(), None);
        assert_eq!(weights(&at()), [(real(2), 1)]);
        is_told(&mut connection);
    });
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn one_without_connections_goes_at_once_and_one_that_comes_back_has_its_weight() {
    alone(PODS, || {
        let mut node = Node::new(SessionAffinity::None);
        let mut connection = node.connect_to(1);
        node.endpoints(&[2]);
        node.backend.tend(Instant::now()).unwrap();
        node.endpoints(&[1, 2]);
        assert_eq!(weights(&at()), [(real(1), 1), (real(2), 1)]);
        talks(&mut connection);
        // Its time is not counted any more.
        assert_eq!(node.backend.tend(Instant::now() + PATIENCE * 2).unwrap(), None);
        assert_eq!(weights(&at()).len(), 2);
        // It comes back while there is no proxy.
        node.endpoints(&[2]);
        node.model.apply(endpoints(&[1, 2]));
        node.model.flush();
        node.restart();
        assert_eq!(weights(&at()), [(real(1), 1), (real(2), 1)]);
        // It leaves while there is no proxy, and nobody is connected to the other.
        node.model.apply(endpoints(&[]));
        node.model.flush();
        node.restart();
        assert_eq!(weights(&at()), [(real(1), 0), (real(2), 0)]);
        node.backend.tend(Instant::now()).unwrap();
        assert!(weights(&at()).contains(&(real(1), 0)), "it has a connection");
        talks(&mut connection);
    });
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn a_client_that_keeps_its_endpoint_gets_another_once_that_leaves() {
    alone(PODS, || {
        let timeout = Duration::from_secs(10_800);
        let mut node = Node::new(SessionAffinity::ClientIp { timeout });
        let (near, far, first) = node.connect();
        for _ in 0..4 {
            assert_eq!(node.connect().2, first);
        }
        let other = 3 - first;
        node.endpoints(&[other]);
        assert_eq!(node.connect().2, other);
        talks(&mut (near, far));
        node.restart();
        assert_eq!(node.connect().2, other);
    });
}

#[test]
#[ignore = "needs a kernel with IPVS: cargo xtask vm"]
fn udp_has_nothing_to_wait_for_and_a_server_whose_front_goes_goes_with_all() {
    alone(PODS, || {
        let mut node = Node::new(SessionAffinity::None);
        let udp = VirtualServer { port: 53, protocol: ipvs::Protocol::Udp, ..at() };
        assert_eq!(weights(&udp).len(), 2);
        let _connection = node.connect_to(1);
        node.endpoints(&[2]);
        assert_eq!(weights(&udp), [(RealServer { port: 5353, ..real(2) }, 1)]);
        assert_eq!(weights(&at()).len(), 2);
        node.model
            .apply(Event::ServiceDeleted(portolan_model::NamespacedName::new("default", "web")));
        let delta = node.model.flush();
        node.backend.apply(node.model.table(), &delta).unwrap();
        assert_eq!(super::held(), Default::default());
        assert_eq!(node.backend.tend(Instant::now()).unwrap(), None);
    });
}
