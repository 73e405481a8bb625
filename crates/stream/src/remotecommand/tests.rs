//! Sessions as kubectl, kube-rs and older clients hold them, with a stand-in for the command.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::spdy::{Connection, Headers, Limits, Role, Stream, connect};
use crate::upgrade::Protocol as _;

const ALL: Options = Options { stdin: true, stdout: true, stderr: true, tty: false };

fn protocol(table: &[(&str, Protocol)], name: &str) -> Protocol {
    table.iter().find(|(known, _)| *known == name).unwrap().1
}

/// Copies standard input to standard output, and says a word on standard error.
async fn cat(streams: Streams) -> ExitStatus {
    let Streams { stdin, stdout, stderr, .. } = streams;
    let (mut stdin, mut stdout, mut stderr) = (stdin.unwrap(), stdout.unwrap(), stderr.unwrap());
    tokio::io::copy(&mut stdin, &mut stdout).await.unwrap();
    stderr.write_all(b"done").await.unwrap();
    stdout.shutdown().await.unwrap();
    stderr.shutdown().await.unwrap();
    ExitStatus::Code(7)
}

type Serving = JoinHandle<Result<(), StreamError>>;

async fn websocket<H, E>(
    name: &str,
    options: Options,
    handler: H,
) -> (WebSocketStream<DuplexStream>, Serving)
where
    H: FnOnce(Streams) -> E + Send + 'static,
    E: Future<Output = ExitStatus> + Send + 'static,
{
    let (near, far) = tokio::io::duplex(8 << 10);
    let protocol = protocol(Protocol::WEBSOCKET, name);
    let serving = tokio::spawn(serve(far, protocol, options, handler));
    (crate::websocket::client(near).await, serving)
}

/// All that comes until the server closes, by channel.
async fn collect(mut socket: WebSocketStream<DuplexStream>) -> [Vec<u8>; 4] {
    let mut channels = [const { Vec::new() }; 4];
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
        }
    }
    channels
}

#[tokio::test]
async fn v5_ends_standard_input_by_a_close_message() {
    let (mut socket, serving) = websocket("v5.channel.k8s.io", ALL, cat).await;
    socket.send(Message::Binary(Bytes::from_static(b"\0hello"))).await.unwrap();
    socket.send(Message::Binary(Bytes::from_static(&[255, 0]))).await.unwrap();
    let [_, stdout, stderr, error] = collect(socket).await;
    assert_eq!((&stdout[..], &stderr[..]), (&b"hello"[..], &b"done"[..]));
    assert_eq!(error, ExitStatus::Code(7).to_json());
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn megabytes_pass_through_a_slow_command_whole() {
    let (socket, serving) = websocket("v5.channel.k8s.io", ALL, cat).await;
    let data: Vec<u8> = (0..3_000_000u32).map(|i| i.to_le_bytes()[1]).collect();
    let (mut to, mut from) = socket.split();
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        for piece in sent.chunks(30_000) {
            let message = [&[0], piece].concat();
            to.send(Message::Binary(message.into())).await.unwrap();
        }
        to.send(Message::Binary(Bytes::from_static(&[255, 0]))).await.unwrap();
        to
    });
    let mut stdout = Vec::new();
    while let Some(Ok(message)) = from.next().await {
        if let Message::Binary(bytes) = message
            && bytes[0] == 1
        {
            stdout.extend_from_slice(&bytes[1..]);
        }
    }
    assert!(stdout == data, "{} of {} bytes came back", stdout.len(), data.len());
    drop(sending.await.unwrap());
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn v4_knows_no_close_message() {
    let count = |streams: Streams| async move {
        let mut first = [0; 4];
        streams.stdin.unwrap().read_exact(&mut first).await.unwrap();
        ExitStatus::Code(i32::from_le_bytes(first))
    };
    let options = Options { stdout: false, stderr: false, ..ALL };
    let (mut socket, _serving) = websocket("v4.channel.k8s.io", options, count).await;
    socket.send(Message::Binary(Bytes::from_static(&[255, 0]))).await.unwrap();
    socket.send(Message::Binary(Bytes::from_static(&[0, 5, 0, 0, 0]))).await.unwrap();
    let [_, _, _, error] = collect(socket).await;
    assert_eq!(error, ExitStatus::Code(5).to_json());
}

#[tokio::test]
async fn base64_channels_speak_text() {
    let shout = |streams: Streams| async move {
        let mut line = [0; 2];
        streams.stdin.unwrap().read_exact(&mut line).await.unwrap();
        streams.stdout.unwrap().write_all(&line.to_ascii_uppercase()).await.unwrap();
        ExitStatus::Success
    };
    let options = Options { stderr: false, ..ALL };
    let (mut socket, _serving) = websocket("base64.channel.k8s.io", options, shout).await;
    socket.send(Message::Text("0aGk=".into())).await.unwrap();
    let mut texts = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Text(text) = message {
            texts.push(text.to_string());
        }
    }
    // The empty first message, then `HI`; success is silent before v4.
    assert_eq!(texts, ["1", "1SEk="]);
}

#[tokio::test]
async fn a_client_that_leaves_is_told_to_the_command() {
    let (told, hears) = tokio::sync::oneshot::channel();
    let wait = |streams: Streams| async move {
        streams.gone.cancelled().await;
        told.send(()).unwrap();
        ExitStatus::Code(137)
    };
    let (socket, serving) = websocket("v5.channel.k8s.io", ALL, wait).await;
    drop(socket);
    hears.await.unwrap();
    assert!(serving.await.unwrap().is_err());
}

#[tokio::test]
async fn terminal_sizes_reach_the_command() {
    let size = |streams: Streams| async move {
        let size = streams.resizes.unwrap().next().await.unwrap();
        ExitStatus::Code(i32::from(size.width) * 1000 + i32::from(size.height))
    };
    let options = Options { tty: true, stderr: false, ..ALL };
    let (mut socket, _serving) = websocket("v5.channel.k8s.io", options, size).await;
    let resize = Bytes::from_static(b"\x04{\"Width\":80,\"Height\":24}");
    socket.send(Message::Binary(resize)).await.unwrap();
    let [_, _, _, error] = collect(socket).await;
    assert_eq!(error, ExitStatus::Code(80024).to_json());
}

async fn open(connection: &Connection, kind: &str) -> Stream {
    connection.open(&Headers::new().with("streamType", kind)).await.unwrap()
}

async fn spdy(name: &str) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (near, far) = tokio::io::duplex(8 << 10);
    let protocol = protocol(Protocol::SPDY, name);
    let serving = tokio::spawn(serve(far, protocol, ALL, cat));
    let (client, driver) = connect(near, Role::Client, Limits::default());
    let driving = tokio::spawn(driver);
    let mut error = open(&client, "error").await;
    let mut stdin = open(&client, "stdin").await;
    let mut stdout = open(&client, "stdout").await;
    let mut stderr = open(&client, "stderr").await;
    stdin.write_all(b"hello").await.unwrap();
    stdin.shutdown().await.unwrap();
    let mut read = [const { Vec::new() }; 3];
    stdout.read_to_end(&mut read[0]).await.unwrap();
    stderr.read_to_end(&mut read[1]).await.unwrap();
    error.read_to_end(&mut read[2]).await.unwrap();
    drop((error, stdin, stdout, stderr));
    serving.await.unwrap().unwrap();
    driving.await.unwrap().unwrap();
    let [stdout, stderr, error] = read;
    (stdout, stderr, error)
}

#[tokio::test]
async fn spdy_v4_reports_the_exit_code_as_a_status() {
    let (stdout, stderr, error) = spdy("v4.channel.k8s.io").await;
    assert_eq!((&stdout[..], &stderr[..]), (&b"hello"[..], &b"done"[..]));
    assert_eq!(error, ExitStatus::Code(7).to_json());
}

#[tokio::test]
async fn spdy_v1_reports_the_exit_code_as_text() {
    let (.., error) = spdy("").await;
    assert_eq!(error, ExitStatus::Code(7).message().into_bytes());
}

#[test]
fn a_session_without_streams_is_a_mistake() {
    let none = Options { stdin: false, stdout: false, stderr: false, tty: false };
    assert!(none.check().is_err());
    let both = Options { stderr: true, tty: true, ..none };
    assert!(both.check().is_err(), "a terminal has no standard error of its own");
}
