//! The command line: what can be done with a cluster from a shell.
//!
//! ```text
//!   start ── in the foreground: this process is the master, with a [`console`] beside it
//!     └───── --daemon: starts itself again, in the background ([`daemon`]), and waits
//!   stop, status, reload, scale, logs ──► control socket of the [`instance`] ──► console
//! ```
//! Which process this is comes first: agent and workers have the arguments of their master.

mod args;
mod client;
mod console;
mod daemon;
mod instance;
mod living;
mod log_files;
mod logs;
mod pid_file;
mod start;
mod status;
mod stop;
mod systemd;
mod wire;

use std::{process::ExitCode, time::Duration};

use clap::Parser as _;

#[cfg(feature = "schedule")]
pub use self::args::RunJob;
pub use self::args::{Command, Logs, Reload, Scale, Start, Status, Stop};
use self::{
    client::{Client, NoAnswer},
    wire::Ask,
};
use super::{MasterBuilder, name::Exit, words::counted};
use crate::error::Result;

/// How long a master that answers within milliseconds is waited for.
const SILENCE: Duration = Duration::from_secs(5);

impl Command {
    /// Does what the command says with this cluster, as the child that this process may be, its
    /// master, or somebody who speaks to the master. Call it first in `main`, outside any runtime,
    /// and return what it returns.
    ///
    /// The codes are those of [`Exit`](crate::Exit): 0 where it was done, 1 where not; `status` of
    /// what does not run gives 3. A start in the background that fails gives the code of its master,
    /// 128 + n where signal n killed it.
    #[must_use = "the code is what a shell sees"]
    pub fn run(self, cluster: MasterBuilder) -> ExitCode {
        cluster.live_or(|cluster| self.carry_out(cluster))
    }

    fn carry_out(self, cluster: MasterBuilder) -> Result<Exit> {
        match self {
            Self::Start(start) => start::start(start, cluster),
            Self::Stop(stop) => stop::stop(&stop.of.instance(), stop.timeout, cluster.stop_limit()),
            Self::Status(status) => status::status(&status.of.instance(), status.json),
            Self::Reload(reload) => {
                let instance = reload.of.instance();
                let client = Client::require(&instance)?;
                let reloaded = client.ask::<()>(Ask::Reload, SILENCE);
                // It says of itself what failed.
                let bare = |why: NoAnswer| why.without("the reload failed: ");
                reloaded.map_err(|why| client.error("can't reload", bare(why)))?;
                println!("{} is reloaded", instance.title.as_str());
                Ok(Exit::Clean)
            }
            Self::Scale(scale) => {
                let (instance, workers) = (scale.of.instance(), scale.workers);
                let client = Client::require(&instance)?;
                let scaled = client.ask::<()>(Ask::Scale { workers }, SILENCE);
                scaled.map_err(|why| client.error("can't scale", why))?;
                println!("{} has {}", instance.title.as_str(), counted(workers, "worker"));
                Ok(Exit::Clean)
            }
            #[cfg(feature = "schedule")]
            Self::RunJob(RunJob { name, of }) => {
                let client = Client::require(&of.instance())?;
                let ran = client.ask::<()>(Ask::RunJob { name: name.clone() }, SILENCE);
                ran.map_err(|why| client.error(&format!("can't run {name} of"), why))?;
                println!("{name} is done");
                Ok(Exit::Clean)
            }
            Self::Logs(logs) => logs::logs(&logs.of.instance(), logs.lines, logs.follow),
        }
    }
}

/// The command line of a program that has no other.
pub(super) fn main(cluster: MasterBuilder) -> Result<Exit> {
    match args::Cli::try_parse() {
        Ok(cli) => cli.command.unwrap_or_default().carry_out(cluster),
        Err(error) => {
            // Help goes to stdout, mistakes go to stderr; neither may be read.
            let _ = error.print();
            Ok(Exit::from(error.exit_code()))
        }
    }
}
