//! What the command line takes.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use super::instance::{Instance, Title};

/// The command line of a program that has no other; see
/// [`MasterBuilder::main`](crate::MasterBuilder::main).
#[derive(Debug, Parser)]
#[command(about = "A cluster of processes: a master, an agent and workers.")]
#[command(after_help = "Without a command, the cluster runs in the foreground.")]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

/// What can be done with a cluster from a shell: a [`clap::Subcommand`], for programs that have
/// arguments of their own. [`Default`] is a start in the foreground.
///
/// # Examples
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use clap::Parser;
/// use cluster_client::{Agent, Master, Result, Worker, cli::Command};
///
/// #[derive(Parser)]
/// struct Args {
///     #[arg(long, default_value = "hello", global = true)]
///     greeting: String,
///     #[command(subcommand)]
///     command: Option<Command>,
/// }
///
/// async fn agent(agent: Agent) -> Result<()> {
///     agent.ready().await?;
///     agent.shutdown().await;
///     Ok(())
/// }
///
/// async fn worker(worker: Worker, greeting: String) -> Result<()> {
///     worker.ready().await?;
///     println!("{greeting}");
///     worker.shutdown().await;
///     Ok(())
/// }
///
/// fn main() -> ExitCode {
///     // Agent and workers get the same arguments, so this is the same in every process.
///     let Args { greeting, command } = Args::parse();
///     let cluster =
///         Master::builder().agent(agent).worker(move |it| worker(it, greeting.clone())).workers(2);
///     command.unwrap_or_default().run(cluster)
/// }
/// ```
#[derive(Debug, Clone, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Start the cluster, in the foreground or, with --daemon, in the background
    Start(Start),
    /// Stop the cluster, and wait until its last process is gone
    Stop(Stop),
    /// Show the processes of the cluster, and how they are
    Status(Status),
    /// Replace agent and workers one by one, by the program that is on disk now
    Reload(Reload),
    /// Change how many workers there are
    Scale(Scale),
    /// Run a scheduled job now, and wait until it is done
    #[cfg(feature = "schedule")]
    RunJob(RunJob),
    /// Show the last lines that the cluster logged
    Logs(Logs),
}

impl Default for Command {
    fn default() -> Self {
        Self::Start(Start::default())
    }
}

/// Which instance a command is about.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Of {
    /// Which instance, where several run; default: the name of the program
    #[arg(long, value_name = "TITLE")]
    title: Option<Title>,
}

impl Of {
    pub(super) fn instance(&self) -> Instance {
        Instance::new(self.title.clone().unwrap_or_else(Title::of_program))
    }
}

/// The arguments of [`Command::Start`].
#[derive(Debug, Clone, Default, Args)]
pub struct Start {
    /// Run in the background; return when the cluster is ready, or why it is not
    #[arg(long)]
    pub(super) daemon: bool,
    /// How many workers; default: what the program says, else one for each CPU
    #[arg(long, value_name = "N")]
    pub(super) workers: Option<u32>,
    /// Write to this file; default: the terminal, in the background a file of the instance
    #[arg(long, value_name = "FILE")]
    pub(super) stdout: Option<PathBuf>,
    /// As --stdout, for stderr; default: where stdout goes
    #[arg(long, value_name = "FILE")]
    pub(super) stderr: Option<PathBuf>,
    /// Give up if the cluster is not ready after that many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) timeout: Option<Duration>,
    /// Write the master's pid to this file
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) of: Of,
}

/// The arguments of [`Command::Stop`].
#[derive(Debug, Clone, Args)]
pub struct Stop {
    /// Kill what is left after that many seconds; default: what the cluster may take to stop
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) timeout: Option<Duration>,
    #[command(flatten)]
    pub(super) of: Of,
}

/// The arguments of [`Command::Status`].
#[derive(Debug, Clone, Args)]
pub struct Status {
    /// For programs: one JSON value
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) of: Of,
}

/// The arguments of [`Command::Reload`].
#[derive(Debug, Clone, Args)]
pub struct Reload {
    #[command(flatten)]
    pub(super) of: Of,
}

/// The arguments of [`Command::Scale`].
#[derive(Debug, Clone, Args)]
pub struct Scale {
    /// How many workers there shall be
    #[arg(value_name = "N")]
    pub(super) workers: u32,
    #[command(flatten)]
    pub(super) of: Of,
}

/// The arguments of [`Command::RunJob`].
#[cfg(feature = "schedule")]
#[derive(Debug, Clone, Args)]
pub struct RunJob {
    /// The name of the job
    pub(super) name: String,
    #[command(flatten)]
    pub(super) of: Of,
}

/// The arguments of [`Command::Logs`].
#[derive(Debug, Clone, Args)]
pub struct Logs {
    /// How many lines
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub(super) lines: u32,
    /// Go on with what is logged from now on
    #[arg(short, long)]
    pub(super) follow: bool,
    #[command(flatten)]
    pub(super) of: Of,
}

/// A time in seconds, up to a hundred years.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .filter(|limit| *limit <= Duration::from_hours(24 * 365 * 100))
        .ok_or_else(|| "give a number of seconds, such as 30 or 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Option<Command>, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_are_understood() {
        assert!(parse("app").unwrap().is_none());
        let line = "app start --daemon --workers 4 --title t-1 --stdout a;b --timeout 0.5";
        let Some(Command::Start(start)) = parse(line).unwrap() else { panic!("{line}") };
        assert!(start.daemon);
        assert_eq!((start.workers, start.timeout), (Some(4), Some(Duration::from_millis(500))));
        assert_eq!(start.stdout.unwrap().to_str(), Some("a;b"));
        assert_eq!(start.of.instance().title.as_str(), "t-1");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (line, names) in [
            ("app begin", "begin"),
            ("app start --workers many", "--workers"),
            ("app start --workers -1", "-1"),
            ("app start --timeout -5", "-5"),
            ("app start --timeout NaN", "--timeout"),
            ("app start --timeout 1e30", "--timeout"),
            ("app stop --title ../other", "--title"),
            ("app scale", "<N>"),
            ("app logs -n x", "--lines"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(names), "{line}: {error}");
        }
    }
}
