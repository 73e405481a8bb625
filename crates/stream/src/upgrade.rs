//! Reads an upgrade request's headers, chooses transport and protocol, and words the answer.
//!
//! The client's order of preference decides; the refusals carry the texts and codes of upstream's
//! `httpstream.Handshake` and `wsstream`, on which client-go's fallback from WebSocket to SPDY
//! depends (it falls back on any answer but 101).

use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Response, StatusCode};

use crate::websocket::accept_key;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");
const WEBSOCKET_PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");
const WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");
/// What the upgrade to SPDY is called.
const SPDY: &str = "SPDY/3.1";

/// What to answer, and what to speak once the answer is sent.
#[derive(Debug)]
pub struct Accepted<P> {
    /// The chosen protocol.
    pub protocol: P,
    /// The answer, 101 Switching Protocols.
    pub response: Response<()>,
}

/// An answer that refuses the upgrade.
#[derive(Debug)]
pub struct Refused {
    /// 400 or 403.
    pub status: StatusCode,
    /// The body's text.
    pub message: String,
    /// The protocols of SPDY that would have been accepted, for the header that says so.
    accepted: Vec<&'static str>,
}

impl Refused {
    /// The answer as plain text.
    #[must_use]
    pub fn into_response<B: From<String>>(self) -> Response<B> {
        let mut response = Response::new(B::from(self.message));
        *response.status_mut() = self.status;
        for protocol in self.accepted {
            response.headers_mut().append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(protocol));
        }
        response
    }
}

/// A protocol by its name on either transport.
pub trait Protocol: Copy + 'static {
    /// Subprotocols of WebSocket; the empty name stands for a client that names none.
    const WEBSOCKET: &'static [(&'static str, Self)];
    /// Protocols of SPDY, likewise.
    const SPDY: &'static [(&'static str, Self)];
}

/// Chooses what to speak with a client.
///
/// # Errors
/// The answer to give when the request is no upgrade, or nothing that it offers is spoken here.
pub fn negotiate<P: Protocol>(headers: &HeaderMap) -> Result<Accepted<P>, Refused> {
    let upgrade = text(headers, &UPGRADE);
    let connection = words(headers, &CONNECTION).any(|w| w.eq_ignore_ascii_case("upgrade"));
    if connection && upgrade.eq_ignore_ascii_case("websocket") {
        return websocket(headers);
    }
    if connection && upgrade.eq_ignore_ascii_case(SPDY) {
        return spdy(headers);
    }
    Err(Refused {
        status: StatusCode::BAD_REQUEST,
        message: "unable to upgrade: missing upgrade headers in request".to_owned(),
        accepted: Vec::new(),
    })
}

fn websocket<P: Protocol>(headers: &HeaderMap) -> Result<Accepted<P>, Refused> {
    let key = text(headers, &WEBSOCKET_KEY);
    if key.is_empty() || text(headers, &WEBSOCKET_VERSION) != "13" {
        return Err(Refused {
            status: StatusCode::BAD_REQUEST,
            message: "unable to upgrade: missing or bad WebSocket key or version".to_owned(),
            accepted: Vec::new(),
        });
    }
    let offered: Vec<_> = words(headers, &WEBSOCKET_PROTOCOL).collect();
    let Some((name, protocol)) = choose(&offered, P::WEBSOCKET) else {
        let known: Vec<_> = P::WEBSOCKET.iter().map(|(name, _)| *name).collect();
        let message = format!(
            "requested protocol(s) are not supported: [{}]; supports [{}]",
            offered.join(" "),
            known.join(" ")
        );
        return Err(Refused { status: StatusCode::FORBIDDEN, message, accepted: Vec::new() });
    };
    let mut response = switching("websocket");
    let accept = HeaderValue::from_str(&accept_key(key)).expect("base64 is a fine header value");
    response.headers_mut().insert(WEBSOCKET_ACCEPT, accept);
    if !name.is_empty() {
        response.headers_mut().insert(WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok(Accepted { protocol, response })
}

fn spdy<P: Protocol>(headers: &HeaderMap) -> Result<Accepted<P>, Refused> {
    let offered: Vec<_> = words(headers, &STREAM_PROTOCOL).collect();
    let Some((name, protocol)) = choose(&offered, P::SPDY) else {
        let known: Vec<_> =
            P::SPDY.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
        let message = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
            offered.join(" "),
            known.join(" ")
        );
        return Err(Refused { status: StatusCode::FORBIDDEN, message, accepted: known });
    };
    let mut response = switching(SPDY);
    if !name.is_empty() {
        response.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok(Accepted { protocol, response })
}

fn choose<P: Copy>(offered: &[&str], known: &[(&'static str, P)]) -> Option<(&'static str, P)> {
    let offered = if offered.is_empty() { &[""] } else { offered };
    offered.iter().find_map(|name| known.iter().find(|(known, _)| known == name)).copied()
}

fn switching(upgrade: &'static str) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
    response
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim()
}

/// The comma-separated words of all of a header's lines.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{portforward, remotecommand};

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    const WEBSOCKET: [(&str, &str); 4] = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];

    fn websocket(protocols: &'static str) -> HeaderMap {
        let mut lines = WEBSOCKET.to_vec();
        lines.push(("sec-websocket-protocol", protocols));
        headers(&lines)
    }

    #[test]
    fn the_clients_first_choice_wins() {
        let accepted = negotiate::<remotecommand::Protocol>(&websocket(
            "v5.channel.k8s.io, v4.channel.k8s.io",
        ))
        .unwrap();
        assert_eq!(accepted.response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
        assert_eq!(
            accepted.response.headers()["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn a_client_that_names_no_protocol_gets_the_oldest() {
        let accepted = negotiate::<remotecommand::Protocol>(&headers(&WEBSOCKET)).unwrap();
        assert!(!accepted.response.headers().contains_key("sec-websocket-protocol"));
    }

    #[test]
    fn an_unknown_subprotocol_is_forbidden() {
        let refused = negotiate::<portforward::Protocol>(&websocket("chat")).unwrap_err();
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
    }

    #[test]
    fn spdy_protocols_come_in_lines_or_in_one() {
        for lines in [
            &[
                ("x-stream-protocol-version", "v9"),
                ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ][..],
            &[("x-stream-protocol-version", "v9,v4.channel.k8s.io")][..],
        ] {
            let mut all = vec![("connection", "keep-alive, Upgrade"), ("upgrade", "SPDY/3.1")];
            all.extend_from_slice(lines);
            let accepted = negotiate::<remotecommand::Protocol>(&headers(&all)).unwrap();
            assert_eq!(
                accepted.response.headers()["x-stream-protocol-version"],
                "v4.channel.k8s.io"
            );
        }
    }

    #[test]
    fn an_unknown_spdy_protocol_is_told_what_would_do() {
        let refused = negotiate::<portforward::Protocol>(&headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v9"),
        ]))
        .unwrap_err();
        let response: Response<String> = refused.into_response();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.headers()["x-accepted-stream-protocol-versions"], "portforward.k8s.io");
    }

    #[test]
    fn a_plain_request_is_a_bad_one() {
        let refused = negotiate::<portforward::Protocol>(&HeaderMap::new()).unwrap_err();
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    }
}
