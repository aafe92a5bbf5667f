//! What happens to the cluster, as lines of the log.

use super::{event::MasterEvent, liveness::Remedy};
use crate::process::{name::Exit, words::counted};

pub(super) fn log(event: &MasterEvent) {
    match event {
        MasterEvent::Started { process, pid, generation } => {
            tracing::info!(pid, generation, "{process} started");
        }
        MasterEvent::Ready { process, pid } => tracing::info!(pid, "{process} is ready"),
        MasterEvent::ClusterReady { port } => tracing::info!(port, "the cluster is ready"),
        MasterEvent::Died(death) => tracing::error!("{}", death.with_outlook()),
        MasterEvent::Unresponsive { process, pid, how, remedy } => match remedy {
            Remedy::Report => tracing::error!(pid, "{process} is {how}; it is left alone"),
            Remedy::Replace => tracing::error!(pid, "{process} is {how}; it is replaced"),
        },
        MasterEvent::Responsive { process, pid } => {
            tracing::info!(pid, "{process} answers again");
        }
        MasterEvent::Panicked { process, pid, count, message } => {
            tracing::error!(pid, count, "{process} goes on after a panic: {message}");
        }
        MasterEvent::SlotFailed { process, deaths, .. } => {
            let deaths = counted(*deaths, "death");
            tracing::error!("{process} has failed: {deaths} in a row before it was ready");
        }
        MasterEvent::Replacing { process, pid, why } => {
            tracing::info!(pid, "replacing {process}: {why}");
        }
        MasterEvent::Leaving { process, pid } => tracing::info!(pid, "{process} is to leave"),
        MasterEvent::Reloading => tracing::info!("reloading"),
        MasterEvent::Reloaded { generation } => tracing::info!(generation, "reloaded"),
        MasterEvent::ReloadFailed { reason } => tracing::error!("{reason}"),
        MasterEvent::Scaled { workers } => tracing::info!(workers, "scaled"),
        MasterEvent::Stopping => tracing::info!("stopping"),
        MasterEvent::Stopped { process, pid, exit: Exit::Clean } => {
            tracing::info!(pid, "{process} stopped");
        }
        MasterEvent::Stopped { process, pid, exit } => {
            tracing::warn!(pid, "{process} stopped with {exit}");
        }
    }
}
