//! A program of its own for a role, in whatever language it is written.

use std::{ffi::OsString, path::PathBuf, process::Command, time::Duration};

/// A program that runs as the agent or as a worker in place of a function, in whatever language it
/// is written: [`MasterBuilder::agent_command`] and [`MasterBuilder::worker_command`] take it.
///
/// It is started, watched, restarted and stopped by the same rules as the functions are. It finds the
/// control link as its fd 0, learns there which process it is, and says there when it is ready;
/// `docs/operations.md` ("Other programs") has the contract. One that knows nothing of it is given
/// [`ready_after`](Self::ready_after).
///
/// [`MasterBuilder::agent_command`]: super::MasterBuilder::agent_command
/// [`MasterBuilder::worker_command`]: super::MasterBuilder::worker_command
///
/// # Examples
///
/// ```no_run
/// use std::{process::ExitCode, time::Duration};
///
/// use cluster_client::{Agent, Master, Program, Result};
///
/// async fn agent(agent: Agent) -> Result<()> {
///     agent.ready().await?;
///     agent.shutdown().await;
///     Ok(())
/// }
///
/// fn main() -> ExitCode {
///     let workers = Program::new("python3").args(["worker.py", "--quiet"]).env("TZ", "UTC");
///     Master::builder().agent(agent).worker_command(workers).workers(2).main()
/// }
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    pub(super) ready_after: Option<Duration>,
}

impl Program {
    /// A program by its path; a name without a slash is looked for in `PATH`, anew at each start.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), args: Vec::new(), env: Vec::new(), ready_after: None }
    }

    /// Adds arguments. Default: none.
    pub fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to the environment that it has from the master.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// For a program that knows nothing of the control link: it has `/dev/null` as its fd 0, and
    /// counts as ready when it has lived for this long; zero is at once. Default: it has the link,
    /// and says itself when it is ready.
    ///
    /// Such a program does not notice the death of the master. Where the master may be killed
    /// without a stop, have the kernel end the program with it:
    /// `Program::new("setpriv").args(["--pdeathsig", "TERM", "nginx", …])`.
    pub fn ready_after(mut self, time: Duration) -> Self {
        self.ready_after = Some(time);
        self
    }

    /// A command that runs it, and the path to call it by.
    pub(super) fn command(&self) -> (Command, PathBuf) {
        let mut command = Command::new(&self.path);
        command.args(&self.args);
        (command, self.path.clone())
    }

    pub(super) fn variables(&self) -> &[(OsString, OsString)] {
        &self.env
    }
}
