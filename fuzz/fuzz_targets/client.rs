//! Turns a fuzzer's bytes into a client's: a valid session by steps, then mutated in places.
//! Shared by the targets, since random bytes alone seldom pass zlib's check of a header block.

use portolan_stream::spdy::{Headers, Limits, ResetStatus, Role, Session, StreamId};

/// Steps up to the first 0xff, three bytes each; then mutations of three bytes each.
pub fn session(data: &[u8]) -> Vec<u8> {
    let end = data.iter().position(|byte| *byte == 0xff).unwrap_or(data.len());
    let (steps, mutations) = data.split_at(end);
    let mut client = Session::new(Role::Client, Limits::default());
    let mut streams: Vec<StreamId> = Vec::new();
    for step in steps.chunks_exact(3) {
        let stream = streams.get(usize::from(step[1])).copied();
        match (step[0] % 8, stream) {
            (0 | 1, _) => {
                let kind = ["data", "error", "stdin", ""][usize::from(step[1] % 4)];
                let headers = Headers::new()
                    .with("streamType", kind)
                    .with("port", step[2].to_string())
                    .with("requestID", (step[1] / 4).to_string());
                streams.extend(client.open(&headers));
            }
            (2 | 3, Some(stream)) => {
                client.send(stream, &vec![step[2]; usize::from(step[2]) * 16]);
            }
            (4, Some(stream)) => client.finish(stream),
            (5, Some(stream)) => client.reset(stream, ResetStatus::Cancel),
            (6, _) => {
                client.ping();
            }
            (7, _) if step[2] < 64 => client.announce_windows(),
            (7, _) if step[2] > 250 => client.go_away(),
            _ => {}
        }
    }
    let mut bytes = client.take_outgoing().to_vec();
    for mutation in mutations.get(1..).unwrap_or_default().chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([mutation[0], mutation[1]]));
        if let Some(byte) = bytes.get_mut(place) {
            *byte = mutation[2];
        }
    }
    bytes
}
