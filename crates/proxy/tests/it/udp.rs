//! UDP: a client that never stops sending is led to the new endpoint when the old one goes.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::json;
use tokio::net::UdpSocket;

use crate::fixture::{PODS, in_each_mode, until};

/// A server that answers every packet with its name; its address.
async fn server(ip: Ipv4Addr, name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind((ip, 5353)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 64]).await {
            // A client that is gone needs no answer.
            let _ = socket.send_to(name.as_bytes(), from).await;
        }
    });
    address
}

async fn ask(client: &UdpSocket) -> Option<String> {
    client.send(b"?").await.ok()?;
    let mut answer = [0; 64];
    let read = tokio::time::timeout(Duration::from_millis(50), client.recv(&mut answer)).await;
    let len = read.ok()?.ok()?;
    Some(String::from_utf8_lossy(&answer[..len]).into_owned())
}

async fn until_answer(client: &UdpSocket, name: &str) {
    until(name, async || (ask(client).await.as_deref() == Some(name)).then_some(())).await;
}

#[test]
fn a_flow_follows_its_service_from_endpoint_to_endpoint() {
    in_each_mode("a_flow_follows_its_service_from_endpoint_to_endpoint", async |api| {
        let (one, two) = (server(PODS[0], "one").await, server(PODS[1], "two").await);
        let proxy = api.proxy();
        let ports = json!({"ports": [{"port": 53, "targetPort": 5353, "protocol": "UDP"}]});
        let ip = api.service("dns", ports).await;
        let client = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        client.connect((ip, 53)).await.unwrap();
        // The flow begins before the Service has an endpoint.
        assert_eq!(ask(&client).await, None);
        api.endpoints("dns", "UDP", &[one]).await;
        until_answer(&client, "one").await;
        api.endpoints("dns", "UDP", &[two]).await;
        until_answer(&client, "two").await;
        api.endpoints("dns", "UDP", &[]).await;
        until("silence", async || ask(&client).await.is_none().then_some(())).await;
        api.endpoints("dns", "UDP", &[one]).await;
        until_answer(&client, "one").await;
        proxy.stop().await;
    });
}
