//! A whole port-forward session, over raw SPDY or tunnelled in a WebSocket, fed a client's bytes.

#![no_main]

mod client;

use std::io;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use portolan_stream::portforward::{Dial, Protocol, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

#[derive(Clone)]
struct Echo;

impl Dial for Echo {
    type Connection = DuplexStream;

    async fn dial(&self, port: u16) -> io::Result<DuplexStream> {
        if port % 2 == 1 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = tokio::io::duplex(1 << 10);
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(theirs);
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
        Ok(ours)
    }

    fn target(&self) -> String {
        "pod fuzz/fuzz".to_owned()
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    let driven;
    let data = if first & 4 == 0 || first & 1 == 1 {
        data
    } else {
        driven = client::session(data);
        &driven[..]
    };
    let protocol = if first & 1 == 0 { Protocol::Spdy } else { Protocol::Tunnel };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime needs nothing");
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(4 << 10);
        let serving = tokio::spawn(serve(far, protocol, &[], Echo));
        let (mut from, mut to) = tokio::io::split(near);
        let drain = tokio::spawn(async move {
            let mut sink = [0; 4096];
            while from.read(&mut sink).await.is_ok_and(|size| size > 0) {}
        });
        let _ = to.write_all(data).await;
        let _ = to.shutdown().await;
        // The end of the client's bytes is the end of the session, whatever they were.
        let ended = tokio::time::timeout(Duration::from_secs(5), serving).await;
        assert!(ended.is_ok(), "the session hangs");
        drain.abort();
    });
});
