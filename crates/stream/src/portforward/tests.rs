//! Forwarded connections over each transport, with an echo server for the pod's process.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::spdy::{Connection, Headers, Stream};

/// Port 7 echoes, port 17 says a line and closes without reading, any other refuses.
#[derive(Clone)]
struct Pod;

impl Dial for Pod {
    type Connection = DuplexStream;

    async fn dial(&self, port: u16) -> io::Result<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(8 << 10);
        match port {
            7 => {
                tokio::spawn(async move {
                    let (mut from, mut to) = tokio::io::split(theirs);
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                    let _ = to.shutdown().await;
                });
            }
            17 => {
                tokio::spawn(async move {
                    let (_from, mut to) = tokio::io::split(theirs);
                    let _ = to.write_all(b"a quote").await;
                });
            }
            _ => return Err(io::ErrorKind::ConnectionRefused.into()),
        }
        Ok(ours)
    }

    fn target(&self) -> String {
        "pod default/web".to_owned()
    }
}

async fn client(protocol: Protocol) -> Connection {
    let (near, far) = tokio::io::duplex(8 << 10);
    tokio::spawn(serve(far, protocol, &[], Pod));
    if protocol == Protocol::Spdy {
        let (connection, driver) = connect(near, Role::Client, Limits::default());
        tokio::spawn(driver);
        return connection;
    }
    let tunnel = Tunnel::new(crate::websocket::client(near).await);
    let (connection, driver) = connect(tunnel, Role::Client, Limits::default());
    tokio::spawn(driver);
    connection
}

async fn forward(connection: &Connection, port: u16, request: &str) -> (Stream, Stream) {
    let headers = |kind: &str| {
        Headers::new()
            .with("streamType", kind)
            .with("port", port.to_string())
            .with("requestID", request)
    };
    let mut error = connection.open(&headers("error")).await.unwrap();
    error.shutdown().await.unwrap();
    (connection.open(&headers("data")).await.unwrap(), error)
}

async fn echoes(protocol: Protocol) {
    let connection = client(protocol).await;
    let mut tasks = Vec::new();
    for request in 0..20u8 {
        let (data, mut error) = forward(&connection, 7, &request.to_string()).await;
        tasks.push(tokio::spawn(async move {
            let sent: Vec<u8> = (0..100_000u32).map(|i| i.to_le_bytes()[0] ^ request).collect();
            let (mut from, mut to) = data.into_split();
            let copy = sent.clone();
            let sending = tokio::spawn(async move {
                to.write_all(&copy).await.unwrap();
                to.shutdown().await.unwrap();
                to
            });
            let mut back = Vec::new();
            from.read_to_end(&mut back).await.unwrap();
            assert!(back == sent);
            let mut complaint = String::new();
            error.read_to_string(&mut complaint).await.unwrap();
            assert_eq!(complaint, "");
            sending.await.unwrap();
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn many_connections_share_one_spdy_connection() {
    echoes(Protocol::Spdy).await;
}

#[tokio::test]
async fn many_connections_share_one_tunnel() {
    echoes(Protocol::Tunnel).await;
}

#[tokio::test]
async fn a_pod_that_closes_ends_both_streams_though_the_client_still_sends() {
    let connection = client(Protocol::Tunnel).await;
    let (mut data, mut error) = forward(&connection, 17, "0").await;
    let mut quote = String::new();
    data.read_to_string(&mut quote).await.unwrap();
    assert_eq!(quote, "a quote");
    let mut complaint = String::new();
    error.read_to_string(&mut complaint).await.unwrap();
    assert_eq!(complaint, "");
}

#[tokio::test]
async fn a_refused_port_is_told_on_the_error_stream_and_the_session_goes_on() {
    let connection = client(Protocol::Spdy).await;
    let (data, mut error) = forward(&connection, 81, "0").await;
    let mut complaint = String::new();
    error.read_to_string(&mut complaint).await.unwrap();
    assert!(complaint.starts_with("error forwarding port 81 to pod default/web: "), "{complaint}");
    drop(data);
    let (mut data, _error) = forward(&connection, 17, "1").await;
    let mut quote = String::new();
    data.read_to_string(&mut quote).await.unwrap();
    assert_eq!(quote, "a quote");
}

#[tokio::test]
async fn streams_without_port_or_type_are_refused() {
    let connection = client(Protocol::Spdy).await;
    for headers in [
        Headers::new().with("streamType", "data"),
        Headers::new().with("streamType", "data").with("port", "0"),
        Headers::new().with("streamType", "data").with("port", "65536"),
        Headers::new().with("streamType", "sideband").with("port", "7"),
    ] {
        assert!(connection.open(&headers).await.is_err(), "{headers:?}");
    }
}

#[tokio::test]
async fn clients_without_request_ids_are_paired_by_stream_number() {
    let connection = client(Protocol::Spdy).await;
    let headers = |kind: &str| Headers::new().with("streamType", kind).with("port", "17");
    let _error = connection.open(&headers("error")).await.unwrap();
    let mut data = connection.open(&headers("data")).await.unwrap();
    let mut quote = String::new();
    data.read_to_string(&mut quote).await.unwrap();
    assert_eq!(quote, "a quote");
}

#[tokio::test]
async fn channels_begin_with_their_port() {
    let (near, far) = tokio::io::duplex(8 << 10);
    tokio::spawn(serve(far, Protocol::Channels(Codec::Binary), &[7, 81], Pod));
    let mut socket = crate::websocket::client(near).await;
    socket.send(Message::Binary(Bytes::from_static(b"\0hello"))).await.unwrap();
    let mut channels = [const { Vec::new() }; 4];
    while !(channels[0].ends_with(b"hello") && channels[3].len() > 2) {
        let Message::Binary(bytes) = socket.next().await.unwrap().unwrap() else { continue };
        channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
    }
    assert_eq!(channels[0], b"\x07\0hello");
    assert_eq!(channels[1], b"\x07\0");
    assert_eq!(channels[2], b"\x51\0");
    assert!(channels[3].starts_with(b"\x51\0error forwarding port 81 to pod default/web: "));
}
