//! The server that a container without a command runs: HTTP/1.1 on its TCP ports, echo on its
//! UDP ports. `portolan internal serve --tcp PORT --udp PORT … --pod NS/NAME --node N --ip A`;
//! with `--ports-from DIRECTORY` also on those that the file `ports` there names, now and later:
//! lines of `tcp PORT` or `udp PORT`, replaced by renaming. A port once served stays served.
//!
//! The answer tells who answered and what arrived, as plain lines, so that a client sees which
//! pod a Service chose and how its request looked there. On SIGTERM it takes the connections
//! that wait already, stops listening, finishes what is in flight, closes idle connections, and
//! exits with 0.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// A client has this long to send its request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that was let in before the server was told to stop has this long to ask something.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// What the server is told on its command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    tcp: Vec<u16>,
    udp: Vec<u16>,
    namespace: String,
    pod: String,
    node: String,
    ip: String,
    ports_from: Option<PathBuf>,
}

impl Arguments {
    fn parse(args: &[OsString]) -> Result<Arguments, String> {
        let mut parsed = Arguments::default();
        let mut args = args.iter().map(|arg| arg.to_string_lossy());
        while let Some(flag) = args.next() {
            let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
            let port = || value.parse::<u16>().map_err(|_| format!("{flag} {value}: not a port"));
            match flag.as_ref() {
                "--tcp" => parsed.tcp.push(port()?),
                "--udp" => parsed.udp.push(port()?),
                "--pod" => {
                    let (namespace, pod) = value.split_once('/').unwrap_or(("", &value));
                    parsed.namespace = namespace.to_owned();
                    parsed.pod = pod.to_owned();
                }
                "--node" => parsed.node = value.into_owned(),
                "--ip" => parsed.ip = value.into_owned(),
                "--ports-from" => parsed.ports_from = Some(value.into_owned().into()),
                _ => return Err(format!("unknown argument {flag}")),
            }
        }
        Ok(parsed)
    }
}

/// Serves until SIGTERM or SIGINT.
pub fn serve_main(args: &[OsString]) -> ExitCode {
    let served = Arguments::parse(args).map_err(io::Error::other).and_then(|arguments| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tokio::task::LocalSet::new().block_on(&runtime, serve(arguments))
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let message = format!("serve: {error}\n");
            let _ = rustix::io::write(rustix::stdio::stderr(), message.as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// Who answers: the lines that are the same in every answer.
struct Identity {
    hostname: HeaderValue,
    lines: String,
}

impl Identity {
    fn new(arguments: &Arguments) -> Identity {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let lines = format!(
            "Hostname: {name}\nPod: {}\nNamespace: {}\nNode: {}\nPod IP: {}\n",
            arguments.pod, arguments.namespace, arguments.node, arguments.ip
        );
        let hostname = HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("unknown"));
        Identity { hostname, lines }
    }
}

async fn serve(arguments: Arguments) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(());
    let mut server = Server {
        identity: Rc::new(Identity::new(&arguments)),
        stopped,
        tasks: JoinSet::new(),
        tcp: BTreeSet::new(),
        udp: BTreeSet::new(),
    };
    for port in &arguments.tcp {
        server.serve_tcp(*port).map_err(|error| at(error, "tcp", *port))?;
    }
    for port in &arguments.udp {
        server.serve_udp(*port).map_err(|error| at(error, "udp", *port))?;
    }
    let news = arguments.ports_from.as_deref().map(follow).transpose()?;
    if let Some(directory) = &arguments.ports_from {
        server.add(directory);
    }
    say(&format!("serving tcp {:?} udp {:?}\n", server.tcp, server.udp));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = changed(news.as_ref()) => {
                if let Some(directory) = &arguments.ports_from {
                    server.add(directory);
                }
            }
        }
    }
    drop(stop);
    while server.tasks.join_next().await.is_some() {}
    Ok(())
}

fn say(text: &str) {
    let _ = rustix::io::write(rustix::stdio::stdout(), text.as_bytes());
}

/// Tells when something is renamed into the directory.
fn follow(directory: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    use rustix::fs::inotify;
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let fd = inotify::init(flags)?;
    inotify::add_watch(&fd, directory, inotify::WatchFlags::MOVED_TO)?;
    crate::runtime::register(fd)
}

async fn changed(news: Option<&AsyncFd<OwnedFd>>) {
    let Some(news) = news else { return std::future::pending().await };
    let Ok(mut ready) = news.readable().await else { return std::future::pending().await };
    // What exactly happened does not matter: the file is read again.
    let mut events = [0; 4096];
    while rustix::io::read(news.get_ref(), &mut events).is_ok_and(|count| count > 0) {}
    ready.clear_ready();
}

/// The ports that a file names; lines that are none are skipped.
fn parse_ports(text: &str) -> Vec<(&str, u16)> {
    let port = |line: &'_ str| -> Option<(_, u16)> {
        let (protocol, port) = line.split_once(' ')?;
        Some((protocol.len(), port.trim().parse().ok()?))
    };
    text.lines()
        .filter_map(|line| port(line).and_then(|(end, port)| Some((line.get(..end)?, port))))
        .collect()
}

/// What listens.
struct Server {
    identity: Rc<Identity>,
    stopped: watch::Receiver<()>,
    tasks: JoinSet<()>,
    tcp: BTreeSet<u16>,
    udp: BTreeSet<u16>,
}

impl Server {
    fn serve_tcp(&mut self, port: u16) -> io::Result<()> {
        if !self.tcp.contains(&port) {
            let listener = listen(port)?;
            let task = accept(listener, self.identity.clone(), self.stopped.clone());
            self.tasks.spawn_local(task);
            self.tcp.insert(port);
        }
        Ok(())
    }

    fn serve_udp(&mut self, port: u16) -> io::Result<()> {
        if !self.udp.contains(&port) {
            tokio::task::spawn_local(echo(udp(port)?));
            self.udp.insert(port);
        }
        Ok(())
    }

    /// Serves what the file names and is not served yet.
    fn add(&mut self, directory: &Path) {
        let text = std::fs::read_to_string(directory.join("ports")).unwrap_or_default();
        for (protocol, port) in parse_ports(&text) {
            let served = match protocol {
                "tcp" => self.serve_tcp(port),
                "udp" => self.serve_udp(port),
                _ => Ok(()),
            };
            if let Err(error) = served {
                say(&format!("{}\n", at(error, protocol, port)));
            }
        }
    }
}

fn at(error: io::Error, protocol: &str, port: u16) -> io::Error {
    io::Error::new(error.kind(), format!("listen on {protocol} port {port}: {error}"))
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let bound = |socket: TcpSocket, address: SocketAddr| {
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(4096)
    };
    // Where there is IPv6, its socket takes IPv4 as well.
    TcpSocket::new_v6()
        .and_then(|socket| bound(socket, (Ipv6Addr::UNSPECIFIED, port).into()))
        .or_else(|_| bound(TcpSocket::new_v4()?, (Ipv4Addr::UNSPECIFIED, port).into()))
}

fn udp(port: u16) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

async fn echo(socket: UdpSocket) {
    let mut packet = vec![0; 65_536];
    loop {
        // An error here is an ICMP message about an earlier answer.
        if let Ok((length, client)) = socket.recv_from(&mut packet).await {
            let _ = socket.send_to(packet.get(..length).unwrap_or_default(), client).await;
        }
    }
}

async fn accept(listener: TcpListener, identity: Rc<Identity>, stopped: watch::Receiver<()>) {
    let mut connections = JoinSet::new();
    let start = |accepted: (TcpStream, SocketAddr), connections: &mut JoinSet<()>| {
        connections.spawn_local(converse(accepted, identity.clone(), stopped.clone()));
    };
    let mut stop = stopped.clone();
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => match accepted {
                Ok(accepted) => start(accepted, &mut connections),
                // Out of descriptors: wait for one to come free instead of spinning.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
            _ = stop.changed() => break,
        }
    }
    // Whoever has been let in by the kernel is served, not reset.
    while let Some(Ok(accepted)) = futures::FutureExt::now_or_never(listener.accept()) {
        start(accepted, &mut connections);
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn converse(
    (stream, client): (TcpStream, SocketAddr),
    identity: Rc<Identity>,
    mut stopped: watch::Receiver<()>,
) {
    let _ = stream.set_nodelay(true);
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let asked = Rc::new(Notify::new());
    let asks = asked.clone();
    let service = service_fn(move |request| {
        asks.notify_one();
        let answer = answer(&identity, client, &request);
        async { Ok::<_, Infallible>(answer) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // A client that breaks off or talks nonsense is its own affair: errors end it, no more.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.changed() => {}
    }
    // hyper would close a connection that has not asked yet; its request may be on the way.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = asked.notified() => {}
        () = tokio::time::sleep(FIRST_REQUEST) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

fn answer(
    identity: &Identity,
    client: SocketAddr,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let body = match request.uri().path() {
        "/healthz" => "ok\n".to_owned(),
        _ => describe(&identity.lines, client, request),
    };
    let mut response = Response::new(Full::new(body.into()));
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert("X-Portolan-Pod", identity.hostname.clone());
    response
}

fn describe<B>(identity: &str, client: SocketAddr, request: &Request<B>) -> String {
    let mut lines = identity.to_owned();
    // Writing to a String cannot fail.
    let _ = writeln!(lines, "Client: {client}\n");
    let _ = writeln!(lines, "{} {} {:?}", request.method(), request.uri(), request.version());
    for (name, value) in request.headers() {
        let _ = writeln!(lines, "{name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(args: &[&str]) -> Result<Arguments, String> {
        Arguments::parse(&args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn ports_and_identity_come_from_the_command_line() {
        let parsed = arguments(&["--tcp", "80", "--udp", "53", "--tcp", "8080", "--pod", "a/b"]);
        let parsed = parsed.unwrap();
        assert_eq!((parsed.tcp, parsed.udp), (vec![80, 8080], vec![53]));
        assert_eq!((parsed.namespace.as_str(), parsed.pod.as_str()), ("a", "b"));
    }

    #[test]
    fn a_ports_file_names_protocols_and_ports() {
        let ports = parse_ports("tcp 80\nudp 53\nnonsense\ntcp x\n tcp\ntcp 8080\n");
        assert_eq!(ports, [("tcp", 80), ("udp", 53), ("tcp", 8080)]);
    }

    #[test]
    fn a_port_that_is_none_is_refused() {
        assert!(arguments(&["--tcp", "70000"]).is_err());
        assert!(arguments(&["--tcp"]).is_err());
        assert!(arguments(&["--what", "1"]).is_err());
    }

    #[test]
    fn the_answer_tells_the_client_and_the_request() {
        let request = Request::get("/a?b=c").header("Host", "web").body(()).unwrap();
        let text = describe("Hostname: web-0\n", "10.0.0.1:5".parse().unwrap(), &request);
        let expected = "Hostname: web-0\nClient: 10.0.0.1:5\n\nGET /a?b=c HTTP/1.1\nhost: web\n";
        assert_eq!(text, expected);
    }
}
