//! Non-blocking calls of plugins, on tokio. [`AsyncExec`] is the async form of [`Exec`].

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
    invoke::{Exec, Exit, Invocation, MAX_OUTPUT, Outcome, find_plugin},
    process::{self, GRACE, PAUSE},
    span::Traced,
};

/// Executes invocations without blocking.
pub trait AsyncExec {
    /// Finds the program of a plugin.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] if the name is invalid or the plugin is not installed.
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        find_plugin(plugin, path)
    }

    /// Makes the call and waits for its end.
    ///
    /// # Errors
    /// If the plugin cannot be started or its streams cannot be read.
    fn exec(&self, invocation: Invocation) -> impl Future<Output = io::Result<Outcome>> + Send;

    /// Sleeps; override it for an executor other than tokio.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send {
        sleep(time)
    }
}

/// Implements [`AsyncExec`] for a pointer to one.
macro_rules! exec_by_pointer {
    ($($pointer:ty),*) => {$(
        impl<E: AsyncExec> AsyncExec for $pointer {
            fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
                (**self).find(plugin, path)
            }

            fn exec(
                &self,
                invocation: Invocation,
            ) -> impl Future<Output = io::Result<Outcome>> + Send {
                (**self).exec(invocation)
            }

            fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send {
                (**self).sleep(time)
            }
        }
    )*};
}
exec_by_pointer!(&E, Box<E>, std::sync::Arc<E>);

/// Calls plugins through a blocking [`Exec`], such as linked-in plugins, on tokio's threads for
/// blocking work. A call continues if its future is dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct OnThread<E>(pub E);

impl<E: Exec + Clone + Send + Sync + 'static> AsyncExec for OnThread<E> {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        self.0.find(plugin, path)
    }

    async fn exec(&self, invocation: Invocation) -> io::Result<Outcome> {
        let exec = self.0.clone();
        let span = Traced::current();
        tokio::task::spawn_blocking(move || span.within(|| exec.exec(&invocation)))
            .await
            .map_err(io::Error::other)?
    }
}

/// Starts each plugin as a process in its own process group and waits without blocking.
///
/// Dropping the future kills the plugin with its process group.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsyncProcess;

impl AsyncExec for AsyncProcess {
    async fn exec(&self, invocation: Invocation) -> io::Result<Outcome> {
        let begin = Instant::now();
        let left = || invocation.time_limit.map(|limit| limit.saturating_sub(begin.elapsed()));
        let mut child = start(&invocation, &left).await?;
        // Dropped before the child, while the group's id cannot have been reused.
        let mut group = Group::of(&child);
        let mut streams = Streams::of(&mut child);
        let ended = within(left(), async {
            streams.exchange(&invocation.stdin).await?;
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

/// Starts the plugin; retries while an installer has the program open for writing (`ETXTBSY`).
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

/// Awaits a future; `None` if it takes longer than `time`.
async fn within<T>(time: Option<Duration>, future: impl Future<Output = T>) -> Option<T> {
    match time {
        Some(time) => timeout(time, future).await.ok(),
        None => Some(future.await),
    }
}

/// The process group of a plugin that is not reaped yet; killed on drop.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)))
    }

    /// Sends SIGTERM, and SIGKILL after [`GRACE`].
    async fn end(&mut self, streams: &mut Streams) {
        let Some(pid) = self.0 else { return };
        if !streams.are_flooded() {
            // If the signal cannot be delivered, the process has already exited.
            let _ = kill_process_group(pid, Signal::TERM);
            let exit = async {
                let _ = streams.read().await;
                while !process::has_ended(pid).unwrap_or(true) {
                    sleep(PAUSE).await;
                }
            };
            let _ = timeout(GRACE, exit).await;
        }
        self.kill();
        if !streams.are_flooded() {
            // Reads the last output; a process outside of the group may keep the pipes open.
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

/// The pipes of a plugin.
struct Streams {
    stdin: Option<ChildStdin>,
    stdout: Output<tokio::process::ChildStdout>,
    stderr: Output<tokio::process::ChildStderr>,
}

/// An output stream of a plugin and the bytes read from it.
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

    /// Writes the configuration and reads until both outputs are closed or one exceeds the limit.
    async fn exchange(&mut self, input: &[u8]) -> io::Result<()> {
        let stdin = self.stdin.take();
        let feed = async {
            let Some(mut stdin) = stdin else { return Ok(()) };
            match stdin.write_all(input).await {
                // A plugin may ignore its configuration.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
                _ => Ok(()),
            }
        };
        // A plugin may reply before it has read everything, so write and read concurrently.
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

/// Whether this is the error of [`Output::read`] for too much output.
fn is_flood(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::FileTooLarge
}
