//! `/exec` and `/attach`: a process's streams joined to a client's session.
//!
//! Output is copied until its end; a command that has exited while something it started still
//! holds its output open is done once that has been silent for a moment. A client that leaves
//! takes an exec's command with it (a terminal hangs up); an attached container runs on.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use portolan_stream::ExitStatus;
use portolan_stream::remotecommand::{self, Options, Protocol, Reader, Resizes, Writer};
use portolan_stream::upgrade::negotiate;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio_util::sync::CancellationToken;

use super::query::Query;
use super::route::{Refusal, refuse_upgrade, switching};
use super::{Body, Context};
use crate::runtime::{
    ContainerPhase, Exec, ExecControl, Input, Output, RuntimeError, Streams, Terminal,
};
use crate::shim::protocol::OnClose;
use crate::{PodKey, Runtime};

/// What is copied at once.
const COPY_SIZE: usize = 32 << 10;
/// How long output may be silent after the command's exit before it is taken for ended.
const SILENCE: Duration = Duration::from_millis(500);

/// Which of the two.
pub(super) enum What {
    /// Run this command.
    Exec(Vec<String>),
    /// Join the main process.
    Attach,
}

pub(super) fn answer(
    context: Context,
    pod: PodKey,
    container: &str,
    what: What,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let options = Options {
        stdin: query.flag("input"),
        stdout: query.flag("output"),
        stderr: query.flag("error"),
        tty: query.flag("tty"),
    };
    let bad =
        |message: &str| Refusal { status: StatusCode::BAD_REQUEST, message: message.to_owned() };
    let options = options.check().map_err(bad)?;
    if matches!(&what, What::Exec(command) if command.is_empty()) {
        return Err(bad("you must specify a command"));
    }
    let info = context.runtime.watch_container(&pod, container)?.borrow().clone();
    if info.phase != ContainerPhase::Running {
        return Err(RuntimeError::NotRunning(container.to_owned()).into());
    }
    let accepted = match negotiate::<Protocol>(request.headers()) {
        Ok(accepted) => accepted,
        Err(refused) => return Ok(refuse_upgrade(refused)),
    };
    let protocol = accepted.protocol;
    let (runtime, stop) = (context.runtime, context.stop);
    let process = Process { runtime, pod, container: container.to_owned(), what, options };
    context.sessions.spawn(async move {
        let session = async {
            let io = hyper::upgrade::on(request).await.map_err(std::io::Error::other)?;
            let io = TokioIo::new(io);
            remotecommand::serve(io, protocol, options, |streams| process.run(streams)).await
        };
        if let Some(Err(error)) = stop.run_until_cancelled(session).await {
            tracing::debug!(%error, "exec or attach");
        }
    });
    Ok(switching(accepted.response))
}

struct Process {
    runtime: Runtime,
    pod: PodKey,
    container: String,
    what: What,
    options: Options,
}

impl Process {
    async fn run(self, streams: remotecommand::Streams) -> ExitStatus {
        let wanted = Streams {
            stdin: self.options.stdin,
            stdout: self.options.stdout,
            stderr: self.options.stderr,
        };
        match &self.what {
            What::Exec(command) => {
                let terminal = if self.options.tty { Terminal::Pty } else { Terminal::None };
                let (runtime, pod, container) = (&self.runtime, &self.pod, &self.container);
                let started = runtime
                    .exec_until(pod, container, command, terminal, wanted, OnClose::Kill)
                    .await;
                match started {
                    Ok(exec) => join(exec, streams, Lead::Exit).await,
                    Err(error) => cannot_start(error, streams).await,
                }
            }
            What::Attach => match self.runtime.attach(&self.pod, &self.container, wanted).await {
                Ok(attached) => {
                    let exec = Exec {
                        stdin: attached.stdin,
                        stdout: attached.stdout,
                        stderr: attached.stderr,
                        control: attached.control,
                    };
                    join(exec, streams, Lead::Output).await
                }
                Err(error) => cannot_start(error, streams).await,
            },
        }
    }
}

/// A command that cannot be started is a command that ends at once, as in a shell.
async fn cannot_start(error: RuntimeError, mut streams: remotecommand::Streams) -> ExitStatus {
    let RuntimeError::CannotStart { code, message } = error else {
        return ExitStatus::Failed(format!("error executing command in container: {error}"));
    };
    if let Some(writer) = streams.stderr.as_mut().or(streams.stdout.as_mut()) {
        // A client that is gone needs no message.
        let _ = writer.write_all(format!("{message}\r\n").as_bytes()).await;
    }
    ExitStatus::Code(code)
}

/// What ends a session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lead {
    /// The command's exit, whose code is the session's.
    Exit,
    /// The end of the container's output.
    Output,
}

async fn join(exec: Exec, streams: remotecommand::Streams, lead: Lead) -> ExitStatus {
    let Exec { stdin, stdout, stderr, mut control } = exec;
    let exited = CancellationToken::new();
    let gone = streams.gone.clone();
    let output = async {
        tokio::join!(
            copy_out(stdout, streams.stdout, &exited),
            copy_out(stderr, streams.stderr, &exited),
        );
    };
    let input = feed(streams.stdin, stdin);
    let session = async {
        let ending = follow(&mut control, streams.resizes, &exited);
        tokio::pin!(output, ending);
        match lead {
            Lead::Exit => tokio::join!(&mut ending, output).0,
            Lead::Output => tokio::select! {
                () = &mut output => ExitStatus::Success,
                _ = &mut ending => {
                    output.await;
                    ExitStatus::Success
                }
            },
        }
    };
    tokio::select! {
        status = session => status,
        // Feeding ends before the process does, and must not end the session.
        () = async { input.await; std::future::pending().await } => ExitStatus::Success,
        // Dropping the control ends an exec's command.
        () = gone.cancelled() => ExitStatus::Failed("the client is gone".to_owned()),
    }
}

/// Waits for the process's end, resizing its terminal meanwhile.
async fn follow(
    control: &mut ExecControl,
    mut resizes: Option<Resizes>,
    exited: &CancellationToken,
) -> ExitStatus {
    let status = loop {
        let resize = async {
            match &mut resizes {
                Some(resizes) => resizes.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = control.wait() => break ended,
            size = resize => match size {
                Some(size) => {
                    // A terminal that is gone needs no size.
                    let _ = control.resize(size.width, size.height);
                }
                None => resizes = None,
            },
        }
    };
    exited.cancel();
    match status {
        Ok(status) => ExitStatus::from_code(status.code()),
        Err(error) => ExitStatus::Failed(format!("error executing command in container: {error}")),
    }
}

/// Standard input, to its end or until the process takes no more.
async fn feed(from: Option<Reader>, to: Option<Input>) {
    let (Some(from), Some(mut to)) = (from, to) else { return };
    // Either side's end is the end; dropping both tells the other.
    let _ = tokio::io::copy_buf(&mut BufReader::with_capacity(COPY_SIZE, from), &mut to).await;
    let _ = to.shutdown().await;
}

/// Output, to its end; after the process has exited, to its first silence.
async fn copy_out(from: Option<Output>, to: Option<Writer>, exited: &CancellationToken) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    let mut buffer = vec![0; COPY_SIZE];
    loop {
        let silence = async {
            exited.cancelled().await;
            tokio::time::sleep(SILENCE).await;
        };
        let size = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read.unwrap_or(0),
            () = silence => 0,
        };
        if size == 0 || to.write_all(&buffer[..size]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
