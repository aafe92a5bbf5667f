//! cluster-client beside what one would use instead: a framed socket, tonic, tarpc, a broker, its
//! Node original.
//!
//! ```sh
//! cargo run --release -p peers                          # everything; minutes
//! cargo run --release -p peers -- --only fan-out,large  # some workloads
//! cargo run --release -p peers -- --smoke               # fails if something errs, not if it is slow
//! cargo run --release -p peers -- --from peers.json     # tables and plots of an earlier run
//! ```
//!
//! All contestants of a workload live through the whole of it, each with server and clients in
//! processes of their own on loopback. They run slices in turn, and the order turns each round, so
//! that whatever else the machine does falls on all of them; what counts is the ratio of a round.

mod contestants;
mod harness;
mod report;
mod workloads;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use contestants::Who;
use harness::{Child, Part, Plan, Result, tell};
use report::{Report, json};
use workloads::{allocations, recovery};

const USAGE: &str = "usage: peers [--smoke] [--only NAME,..] [--json FILE] [--strace FOLDER]
       peers --from FILE

  --smoke          raw-tcp and ours alone, for a moment
  --only NAME,..   these workloads alone: latency throughput fan-out update large beside memory
                   cached recovery runtimes growth allocations
  --json FILE      where to write the figures (default target/peers.json)
  --strace FOLDER  runs the children under `strace -f -c`, which leaves its tables there
  --from FILE      measures nothing: tables and plots of these figures";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match Child::from_args(&arguments) {
        Some(child) if child.job == recovery::RECOVERY => return recovery::cluster(&child),
        Some(child) => run_child(&child),
        None => match Args::parse(arguments) {
            Ok(args) => run(&args),
            Err(problem) => {
                eprintln!("{problem}\n{USAGE}");
                return ExitCode::from(2);
            }
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the user asked for.
#[derive(Debug)]
struct Args {
    plan: Plan,
    /// The workloads, all if there is none.
    only: Vec<String>,
    json: PathBuf,
    from: Option<PathBuf>,
}

impl Args {
    fn parse(arguments: Vec<String>) -> std::result::Result<Self, String> {
        let (mut plan, mut only, mut from) = (Plan::full(), Vec::new(), None);
        let mut json = PathBuf::from("target/peers.json");
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} takes a value"));
            match &*argument {
                "--smoke" => plan = Plan { strace: plan.strace, ..Plan::smoke() },
                "--only" => only = value()?.split(',').map(str::to_owned).collect(),
                "--json" => json = value()?.into(),
                "--strace" => plan.strace = Some(value()?.into()),
                "--from" => from = Some(value()?.into()),
                other => return Err(format!("unknown argument {other}")),
            }
        }
        let known = |name: &String| workloads::ALL.iter().any(|workload| workload.name == name);
        match only.iter().find(|name| !known(name)) {
            Some(name) => Err(format!("there is no workload {name}")),
            None => Ok(Self { plan, only, json, from }),
        }
    }

    fn is_wanted(&self, workload: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == workload)
    }
}

fn run(args: &Args) -> Result<()> {
    if let Some(from) = &args.from {
        let report = json::read(from)?;
        print!("{report}");
        return plot(&report);
    }
    if !args.plan.smoke {
        for who in Who::ALL {
            if let Some(why) = who.absent() {
                eprintln!("skipped: {}, {why}", who.name());
            }
        }
    }
    let mut rows = Vec::new();
    for workload in workloads::ALL.iter().filter(|workload| args.is_wanted(workload.name)) {
        let start = Instant::now();
        rows.extend((workload.run)(&args.plan)?);
        eprintln!("{}: {:.0} s", workload.name, start.elapsed().as_secs_f64());
    }
    let report = Report { setting: json::Setting::here(args.plan.rounds), rows };
    json::write(&report, &args.json)?;
    print!("{report}");
    // Those of a part would be in place of those of the whole.
    if args.plan.smoke || !args.only.is_empty() { Ok(()) } else { plot(&report) }
}

#[cfg(feature = "plots")]
fn plot(report: &Report) -> Result<()> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/plots");
    report::plot::all(report, &folder)
}

#[cfg(not(feature = "plots"))]
fn plot(_: &Report) -> Result<()> {
    eprintln!("skipped: plots, built without them");
    Ok(())
}

/// Runs a process of a contestant.
fn run_child(child: &Child) -> Result<()> {
    raise_file_limit();
    let mut builder = if child.who.is_multi_thread() {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder.enable_all().build()?;
    // In a task, as most callers are: to wake what a runtime blocks on costs one more look at its
    // sockets.
    let part = child.clone();
    let life = async move {
        match part.part {
            Part::Server => contestants::serve(&part).await,
            Part::Client => workloads::client(&part).await,
        }
    };
    let (outcome, allocated) = allocations::count(|| runtime.block_on(runtime.spawn(life)));
    if let Some(outcome) = outcome {
        outcome??;
    }
    if let Some(allocated) = allocated.filter(|_| child.job == allocations::ALLOCATIONS) {
        tell(&[allocated as f64])?;
    }
    Ok(())
}

/// A thousand connections take more than many a shell allows by default.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};

    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it is not allowed the larger workloads fail and say why.
    let _ = setrlimit(Resource::Nofile, limit);
}
