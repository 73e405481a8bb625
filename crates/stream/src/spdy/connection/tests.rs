//! Two drivers over a pipe: transfers larger than any window, slow readers, and endings.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;

type Driving = JoinHandle<Result<(), StreamError>>;

fn connections(limits: Limits) -> (Connection, Connection, Driving, Driving) {
    let (near, far) = tokio::io::duplex(16 << 10);
    let (client, driver) = connect(near, Role::Client, limits);
    let driving = tokio::spawn(driver);
    let (server, driver) = connect(far, Role::Server, limits);
    (client, server, driving, tokio::spawn(driver))
}

/// A stream seen from both ends.
async fn pair(client: &Connection, server: &Connection) -> (Stream, Stream) {
    let client = client.clone();
    let ours = tokio::spawn(async move { client.open(&Headers::new().with("port", "80")).await });
    let theirs = server.accept().await.unwrap().accept();
    (ours.await.unwrap().unwrap(), theirs)
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

async fn echo_megabytes(client: Connection, server: Connection) {
    let (ours, theirs) = pair(&client, &server).await;
    let echo = tokio::spawn(async move {
        let (mut from, mut to) = theirs.into_split();
        tokio::io::copy(&mut from, &mut to).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let data = pattern(5 << 20);
    let (mut from, mut to) = ours.into_split();
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
        to
    });
    let mut back = Vec::new();
    from.read_to_end(&mut back).await.unwrap();
    assert!(back == data, "{} of {} bytes came back as sent", back.len(), data.len());
    sending.await.unwrap();
    echo.await.unwrap();
}

#[tokio::test]
async fn megabytes_pass_both_ways_without_windows() {
    let (client, server, ..) = connections(Limits::default());
    echo_megabytes(client, server).await;
}

#[tokio::test]
async fn megabytes_pass_both_ways_within_windows() {
    let (client, server, ..) = connections(Limits::default());
    client.announce_windows();
    server.announce_windows();
    echo_megabytes(client, server).await;
}

#[tokio::test]
async fn an_unread_stream_holds_the_sender_and_little_memory() {
    let limits = Limits { stream_buffer: 64 << 10, send_buffer: 64 << 10, ..Limits::default() };
    let (client, server, ..) = connections(limits);
    let (mut ours, mut theirs) = pair(&client, &server).await;
    let data = pattern(4 << 20);
    let sent = data.clone();
    let mut sending = tokio::spawn(async move {
        ours.write_all(&sent).await.unwrap();
        ours.shutdown().await.unwrap();
        ours
    });
    // Nobody reads: the sender must come to a halt, with bounded memory at the receiver.
    let halted = tokio::time::timeout(Duration::from_millis(200), &mut sending).await;
    assert!(halted.is_err());
    assert!(server.shared.state.lock().buffered <= limits.stream_buffer + READ_SIZE);
    let mut back = Vec::new();
    theirs.read_to_end(&mut back).await.unwrap();
    assert!(back == data);
    sending.await.unwrap();
    assert_eq!(server.shared.state.lock().buffered, 0);
    assert_eq!(server.shared.state.lock().full, 0);
}

#[tokio::test]
async fn a_dropped_reader_does_not_hold_the_others_up() {
    let limits = Limits { stream_buffer: 64 << 10, ..Limits::default() };
    let (client, server, ..) = connections(limits);
    let (ours, theirs) = pair(&client, &server).await;
    let (ours_from, mut ours_to) = ours.into_split();
    let (theirs_from, theirs_to) = theirs.into_split();
    drop(theirs_from);
    ours_to.write_all(&pattern(1 << 20)).await.unwrap();
    echo_megabytes(client.clone(), server.clone()).await;
    drop((ours_from, ours_to, theirs_to));
}

#[tokio::test]
async fn a_writer_dropped_without_shutdown_is_a_reset_not_an_end() {
    let (client, server, ..) = connections(Limits::default());
    let (mut ours, theirs) = pair(&client, &server).await;
    drop(theirs);
    let error = ours.read(&mut [0; 16]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let error = ours.write_all(b"x").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_refused_stream_is_an_error_of_open() {
    let (client, server, ..) = connections(Limits::default());
    let opening = tokio::spawn(async move { client.open(&Headers::new()).await.map(drop) });
    server.accept().await.unwrap().refuse();
    let refused = opening.await.unwrap().unwrap_err();
    assert!(matches!(refused, StreamError::Reset(ResetStatus::RefusedStream)), "{refused}");
}

#[tokio::test]
async fn closing_sends_everything_first() {
    let (client, server, client_driving, server_driving) = connections(Limits::default());
    let (mut ours, mut theirs) = pair(&client, &server).await;
    let data = pattern(1 << 20);
    let sent = data.clone();
    tokio::spawn(async move {
        theirs.write_all(&sent).await.unwrap();
        theirs.shutdown().await.unwrap();
        server.close();
    });
    let mut back = Vec::new();
    ours.read_to_end(&mut back).await.unwrap();
    assert!(back == data);
    ours.shutdown().await.unwrap();
    drop(ours);
    server_driving.await.unwrap().unwrap();
    client_driving.await.unwrap().unwrap();
    assert!(matches!(client.open(&Headers::new()).await, Err(StreamError::Closed)));
    assert!(client.accept().await.is_none());
}

#[tokio::test]
async fn a_lost_connection_ends_every_wait() {
    let (client, server, driving, _) = connections(Limits::default());
    let (mut ours, mut theirs) = pair(&client, &server).await;
    let reading = tokio::spawn(async move { theirs.read(&mut [0; 1]).await });
    let accepting = tokio::spawn(async move { server.accept().await.is_none() });
    driving.abort();
    assert!(reading.await.unwrap().is_err());
    assert!(accepting.await.unwrap());
    assert!(driving.await.is_err());
    assert!(ours.write_all(b"x").await.is_err());
}
