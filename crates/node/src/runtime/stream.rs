//! Descriptors of a process's streams as asynchronous readers and writers.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe;

use super::sandbox::Streamed;
use super::{ExecControl, Input, Output};

type Opened = (Option<Input>, Option<Output>, Option<Output>, ExecControl);

/// A terminal's output: what its last process leaves behind is EIO, which is the end.
struct TerminalOutput(pipe::Receiver);

impl AsyncRead for TerminalOutput {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(context, buffer) {
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(libc::EIO) => {
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

/// A command's streams.
pub(crate) fn open(streamed: Streamed) -> io::Result<Opened> {
    let Some(terminal) = &streamed.terminal else { return open_attached(streamed) };
    crate::shim::nonblocking(terminal)?;
    let write = pipe::Sender::from_owned_fd_unchecked(terminal.try_clone()?)?;
    let read = pipe::Receiver::from_owned_fd_unchecked(terminal.try_clone()?)?;
    let control = ExecControl { link: streamed.link, terminal: streamed.terminal };
    Ok((Some(Box::pin(write)), Some(Box::pin(TerminalOutput(read))), None, control))
}

/// The pipes to a container's streams; its terminal, if any, is for its size only.
pub(crate) fn open_attached(streamed: Streamed) -> io::Result<Opened> {
    let reader =
        |fd: OwnedFd| -> io::Result<Output> { Ok(Box::pin(pipe::Receiver::from_owned_fd(fd)?)) };
    let writer =
        |fd: OwnedFd| -> io::Result<Input> { Ok(Box::pin(pipe::Sender::from_owned_fd(fd)?)) };
    let stdin = streamed.stdin.map(writer).transpose()?;
    let stdout = streamed.stdout.map(reader).transpose()?;
    let stderr = streamed.stderr.map(reader).transpose()?;
    let terminal = streamed.terminal.map(|fd| fd.as_fd().try_clone_to_owned()).transpose()?;
    Ok((stdin, stdout, stderr, ExecControl { link: streamed.link, terminal }))
}
