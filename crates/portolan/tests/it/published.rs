//! Node ports on the host's loopback: bound, in the way, and let go.

use std::net::{TcpListener, TcpStream, UdpSocket};

use k8s_openapi::api::core::v1::{Event, Service};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use crate::harness::{Lab, User};

fn port<'a>(status: &'a Value, number: u16, protocol: &str) -> Option<&'a Value> {
    let ports = status["published"].as_array().expect("a list");
    ports.iter().find(|port| port["port"] == number && port["protocol"] == protocol)
}

fn service(name: &str, number: u16) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"type": "NodePort", "selector": {"app": name}, "ports": [
            {"name": "tcp", "port": 80, "nodePort": number},
            {"name": "udp", "port": 80, "nodePort": number, "protocol": "UDP"},
        ]},
    }))
    .expect("a Service")
}

/// A port that is free on the host now and in a range of its own.
fn free_port() -> u16 {
    (20_000..30_000)
        .find(|port| {
            TcpListener::bind(("127.0.0.1", *port)).is_ok()
                && UdpSocket::bind(("127.0.0.1", *port)).is_ok()
        })
        .expect("some port is free")
}

#[test]
fn a_node_port_is_published_reported_when_taken_and_let_go() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let _inside = runtime.enter();
    let taken = free_port();
    let holder = TcpListener::bind(("127.0.0.1", taken)).expect("it was free");
    let range = format!("{taken}-{}", taken + 50);
    let lab = Lab::up(User::Ordinary, &["--nodes", "1", "--node-port-range", &range]);
    let client = lab.client();
    let services = Api::<Service>::default_namespaced(client.clone());

    let create = services.create(&PostParams::default(), &service("web", taken)).boxed_wait();
    create.expect("the Service is accepted");
    lab.wait_for("UDP is published and TCP is reported", || {
        let status = lab.status().expect("it answers");
        port(&status, taken, "UDP").is_some_and(|port| port["error"].is_null())
            && port(&status, taken, "TCP").is_some_and(|port| port["error"].is_string())
    });
    lab.wait_for("an event tells of it", || {
        let events = Api::<Event>::default_namespaced(client.clone());
        let list = events.list(&ListParams::default()).boxed_wait().expect("events are served");
        list.items.iter().any(|event| {
            event.reason.as_deref() == Some("NodePortNotPublished")
                && event.involved_object.name.as_deref() == Some("web")
        })
    });

    drop(holder);
    lab.wait_for("the port is published once it is free", || {
        let status = lab.status().expect("it answers");
        port(&status, taken, "TCP").is_some_and(|port| port["error"].is_null())
    });
    // No endpoints: the node rejects, and so the host's connection ends without an answer.
    let mut stream = TcpStream::connect(("127.0.0.1", taken)).expect("it is published");
    let mut answer = Vec::new();
    let read = std::io::Read::read_to_end(&mut stream, &mut answer);
    assert!(read.is_err() || answer.is_empty(), "an answer without endpoints: {answer:?}");

    services.delete("web", &DeleteParams::default()).boxed_wait().expect("it is deleted");
    lab.wait_for("the ports are let go", || {
        let status = lab.status().expect("it answers");
        port(&status, taken, "TCP").is_none()
            && TcpListener::bind(("127.0.0.1", taken)).is_ok()
            && UdpSocket::bind(("127.0.0.1", taken)).is_ok()
    });
}

/// Waits for a future on the runtime of the test.
trait BoxedWait: Future + Sized {
    fn boxed_wait(self) -> Self::Output {
        tokio::runtime::Handle::current().block_on(self)
    }
}

impl<F: Future> BoxedWait for F {}
