//! Calling plugins without blocking, on tokio.
//!
//! [`AsyncExec`] is [`Exec`] with `async` before it; what is asked and answered, and when a plugin is ended, is the same.

use std::{
    io,
    path::PathBuf,
    process::ExitStatus,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, Command},
    time::{sleep, timeout},
};

use crate::{
    Error,
    invoke::{Exec, Exit, Invocation, Outcome, find_plugin},
    process::{self, GRACE, MAX_OUTPUT, PAUSE},
};

/// A way from an invocation to its outcome that does not block.
pub trait AsyncExec {
    /// Where the plugin named `plugin` is.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] if the name is none or there is no such plugin.
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        find_plugin(plugin, path)
    }

    /// Makes the call and waits for its end.
    ///
    /// # Errors
    /// If the plugin could not be started, or its streams not be read.
    fn exec(&self, invocation: Invocation) -> impl Future<Output = io::Result<Outcome>> + Send;

    /// Lets time pass; to be replaced where the executor is not tokio's.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send {
        sleep(time)
    }
}

/// Calls plugins through an [`Exec`] that blocks, each on a thread of tokio's that may: plugins that are linked in, for
/// instance. A call whose future is dropped goes on.
#[derive(Clone, Copy, Debug, Default)]
pub struct OnThread<E>(pub E);

impl<E: Exec + Clone + Send + Sync + 'static> AsyncExec for OnThread<E> {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        self.0.find(plugin, path)
    }

    async fn exec(&self, invocation: Invocation) -> io::Result<Outcome> {
        let exec = self.0.clone();
        tokio::task::spawn_blocking(move || exec.exec(&invocation))
            .await
            .map_err(io::Error::other)?
    }
}

/// Starts plugins as processes, each in a group of its own, and waits for them without blocking.
///
/// A plugin whose future is dropped is ended with all that it has started.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsyncProcess;

impl AsyncExec for AsyncProcess {
    async fn exec(&self, invocation: Invocation) -> io::Result<Outcome> {
        let begin = Instant::now();
        let left = || invocation.time_limit.map(|limit| limit.saturating_sub(begin.elapsed()));
        let mut child = start(&invocation, &left).await?;
        // Dropped before the child, so that the group's number is still its own when it is ended.
        let mut group = Group::of(&child);
        let mut streams = Streams::of(&mut child);
        let ended = within(left(), async {
            streams.converse(&invocation.stdin).await?;
            if streams.are_flooded() { Ok(None) } else { child.wait().await.map(Some) }
        });
        let ended: Option<io::Result<Option<ExitStatus>>> = ended.await;
        let exit = match ended {
            Some(Ok(Some(status))) => process::exit_of(status),
            Some(Ok(None)) => Exit::Flooded,
            Some(Err(error)) => return Err(error),
            None => Exit::TimedOut(invocation.time_limit.unwrap_or_default()),
        };
        if let Exit::Status(_) | Exit::Signal(_) = exit {
            group.0 = None;
        } else {
            group.end(&mut streams).await;
            child.wait().await?;
        }
        Ok(Outcome { exit, stdout: streams.stdout.bytes, stderr: streams.stderr.bytes })
    }
}

/// Starts the plugin; one that is just being installed, and so still open for writing, is waited for.
async fn start(invocation: &Invocation, left: &impl Fn() -> Option<Duration>) -> io::Result<Child> {
    let mut command = process::command(invocation);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut command = Command::from(command);
    for _ in 0..50 {
        match command.spawn() {
            Err(error) if process::is_being_installed(&error) && left() != Some(Duration::ZERO) => {
                sleep(Duration::from_millis(100)).await;
            }
            started => return started,
        }
    }
    command.spawn()
}

/// The output of a future, if it has one in time.
async fn within<T>(time: Option<Duration>, future: impl Future<Output = T>) -> Option<T> {
    match time {
        Some(time) => timeout(time, future).await.ok(),
        None => Some(future.await),
    }
}

/// The process group of a plugin that has not been waited for.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)))
    }

    /// Asks it to end, and after a while makes it.
    async fn end(&mut self, streams: &mut Streams) {
        let Some(pid) = self.0 else { return };
        if !streams.are_flooded() {
            // Whom a signal does not reach has ended.
            let _ = kill_process_group(pid, Signal::TERM);
            let goodbye = async {
                let _ = streams.read().await;
                while !process::has_ended(pid).unwrap_or(true) {
                    sleep(PAUSE).await;
                }
            };
            let _ = timeout(GRACE, goodbye).await;
        }
        self.kill();
        if !streams.are_flooded() {
            // What was printed at the end is still in the pipes, which one who escaped may hold open.
            let _ = timeout(GRACE, streams.read()).await;
        }
    }

    fn kill(&mut self) {
        if let Some(pid) = self.0.take() {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The pipes to a plugin.
struct Streams {
    stdin: Option<ChildStdin>,
    stdout: Output<tokio::process::ChildStdout>,
    stderr: Output<tokio::process::ChildStderr>,
}

/// What a plugin has printed to a stream, and the stream.
struct Output<R> {
    pipe: Option<R>,
    bytes: Vec<u8>,
}

impl Streams {
    fn of(child: &mut Child) -> Self {
        let stdout = Output { pipe: child.stdout.take(), bytes: Vec::new() };
        let stderr = Output { pipe: child.stderr.take(), bytes: Vec::new() };
        Self { stdin: child.stdin.take(), stdout, stderr }
    }

    /// Writes the configuration and reads until both outputs are closed, or one is flooded.
    async fn converse(&mut self, input: &[u8]) -> io::Result<()> {
        let stdin = self.stdin.take();
        let feed = async {
            let Some(mut stdin) = stdin else { return Ok(()) };
            match stdin.write_all(input).await {
                // A plugin need not read its configuration.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
                _ => Ok(()),
            }
        };
        // A plugin may answer before it has read everything, so writing must not hold up reading.
        tokio::try_join!(feed, self.read())
            .map(drop)
            .or_else(|error| if is_flood(&error) { Ok(()) } else { Err(error) })
    }

    async fn read(&mut self) -> io::Result<()> {
        tokio::try_join!(self.stdout.read(), self.stderr.read()).map(drop)
    }

    fn are_flooded(&self) -> bool {
        self.stdout.bytes.len() > MAX_OUTPUT || self.stderr.bytes.len() > MAX_OUTPUT
    }
}

impl<R: AsyncRead + Unpin> Output<R> {
    async fn read(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        loop {
            self.bytes.reserve(4 << 10);
            if pipe.read_buf(&mut self.bytes).await? == 0 {
                self.pipe = None;
                return Ok(());
            }
            if self.bytes.len() > MAX_OUTPUT {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        }
    }
}

/// Whether it is the error of [`Output::read`].
fn is_flood(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::FileTooLarge
}
