//! A whole exec session over WebSocket channels with every stream, fed a client's bytes.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use portolan_stream::ExitStatus;
use portolan_stream::remotecommand::{Options, Protocol, Streams, serve};
use portolan_stream::upgrade::Protocol as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn cat(mut streams: Streams) -> ExitStatus {
    let (Some(mut stdin), Some(mut stdout)) = (streams.stdin.take(), streams.stdout.take()) else {
        return ExitStatus::Code(1);
    };
    tokio::select! {
        _ = tokio::io::copy(&mut stdin, &mut stdout) => {}
        () = async { while let Some(resizes) = &mut streams.resizes { if resizes.next().await.is_none() { break } }; std::future::pending().await } => {}
        () = streams.gone.cancelled() => {}
    }
    ExitStatus::Success
}

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    let protocols = Protocol::WEBSOCKET;
    let (_, protocol) = protocols[usize::from(*first) % protocols.len()];
    let options = Options { stdin: true, stdout: true, stderr: false, tty: true };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime needs nothing");
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(4 << 10);
        let serving = tokio::spawn(serve(far, protocol, options, cat));
        let (mut from, mut to) = tokio::io::split(near);
        let drain = tokio::spawn(async move {
            let mut sink = [0; 4096];
            while from.read(&mut sink).await.is_ok_and(|size| size > 0) {}
        });
        let _ = to.write_all(data).await;
        let _ = to.shutdown().await;
        let ended = tokio::time::timeout(Duration::from_secs(5), serving).await;
        assert!(ended.is_ok(), "the session hangs");
        drain.abort();
    });
});
