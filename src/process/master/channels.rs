//! The channels of all processes, as the processes tell them when they are asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, time::Instant};

use crate::protocol::pb::{ChannelReport, Inspect, Inspected, channel_report::Role, control::Body};

/// One channel that a process takes part in.
///
/// Serialized, `role` is `"leader"` or `"follower"`, with the counts of that role beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChannelStatus {
    /// Its name.
    pub channel: String,
    /// As what the process takes part. An agent that leads a channel and uses it has two entries.
    #[serde(flatten)]
    pub role: ChannelRole,
    /// Why it does not work at the moment; `None` where it does.
    pub trouble: Option<String>,
}

/// As what a process takes part in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase")]
#[non_exhaustive]
pub enum ChannelRole {
    /// It holds the real client.
    #[non_exhaustive]
    Leader {
        /// Connected followers, users in its own process included.
        followers: u32,
        /// Open upstream subscriptions.
        topics: u32,
        /// Published keys.
        publications: u32,
        /// Failures that no caller saw; see [`LeaderStats`](crate::LeaderStats).
        failures: u64,
    },
    /// It uses the channel.
    #[non_exhaustive]
    Follower {
        /// Keys that it subscribes to.
        subscriptions: u32,
        /// Keys that it publishes.
        publications: u32,
        /// Calls that wait for their answer.
        calls: u32,
    },
}

/// What the processes said, by pid. Of one that did not answer in time there is nothing; one that is
/// not asked is not there.
pub(super) type Channels = BTreeMap<u32, Option<Vec<ChannelStatus>>>;

/// How long a process may take to answer. Its own work can't delay it, so one that takes longer is
/// stopped, or the host has no time for it.
const LIMIT: Duration = Duration::from_secs(1);

/// Most questions that are open at once; others get no answer, which is that nobody answered.
const QUESTIONS: usize = 64;

/// Asks all processes at once and collects what they say.
#[derive(Debug, Default)]
pub(super) struct Inspector {
    /// Who answers.
    pids: BTreeSet<u32>,
    last_id: u64,
    questions: BTreeMap<u64, Question>,
}

#[derive(Debug)]
struct Question {
    deadline: Instant,
    /// Who has not answered yet.
    waits_for: BTreeSet<u32>,
    heard: Channels,
    answer: oneshot::Sender<Channels>,
}

impl Inspector {
    /// A process that answers is there.
    pub(super) fn watch(&mut self, pid: u32) {
        self.pids.insert(pid);
    }

    /// Asks all; gives what is to be said to whom.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        answer: oneshot::Sender<Channels>,
    ) -> Vec<(u32, Body)> {
        self.questions.retain(|_, question| !question.answer.is_closed());
        if self.pids.is_empty() || self.questions.len() == QUESTIONS {
            // Who asked may be gone.
            let _ = answer.send(Channels::new());
            return Vec::new();
        }
        self.last_id += 1;
        let deadline = now + LIMIT;
        let (waits_for, heard) = (self.pids.clone(), Channels::new());
        self.questions.insert(self.last_id, Question { deadline, waits_for, heard, answer });
        let question = Body::Inspect(Inspect { id: self.last_id });
        self.pids.iter().map(|pid| (*pid, question.clone())).collect()
    }

    /// Takes the answer of a process.
    pub(super) fn handle_answer(&mut self, pid: u32, inspected: Inspected) {
        let Some(question) = self.questions.get_mut(&inspected.id) else { return };
        if question.waits_for.remove(&pid) {
            let channels = inspected.channels.into_iter().filter_map(channel).collect();
            question.heard.insert(pid, Some(channels));
        }
        self.settle(|question| question.waits_for.is_empty());
    }

    /// A process is gone, and answers nothing any more.
    pub(super) fn forget(&mut self, pid: u32) {
        self.pids.remove(&pid);
        for question in self.questions.values_mut() {
            question.waits_for.remove(&pid);
        }
        self.settle(|question| question.waits_for.is_empty());
    }

    pub(super) fn handle_tick(&mut self, now: Instant) {
        self.settle(|question| question.deadline <= now);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.questions.values().map(|question| question.deadline).min()
    }

    fn settle(&mut self, is_over: impl Fn(&Question) -> bool) {
        for (_, mut question) in self.questions.extract_if(.., |_, question| is_over(question)) {
            question.heard.extend(question.waits_for.into_iter().map(|pid| (pid, None)));
            // Who asked may be gone.
            let _ = question.answer.send(question.heard);
        }
    }
}

fn channel(report: ChannelReport) -> Option<ChannelStatus> {
    let role = match report.role? {
        Role::Leader(leader) => ChannelRole::Leader {
            followers: leader.followers,
            topics: leader.topics,
            publications: leader.publications,
            failures: leader.failures,
        },
        Role::Follower(follower) => ChannelRole::Follower {
            subscriptions: follower.subscriptions,
            publications: follower.publications,
            calls: follower.calls,
        },
    };
    let trouble = Some(report.trouble).filter(|trouble| !trouble.is_empty());
    Some(ChannelStatus { channel: report.name, role, trouble })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::pb::FollowerReport;

    fn answer(id: u64, name: &str) -> Inspected {
        let role = FollowerReport { subscriptions: 2, publications: 1, calls: 0 };
        let report = ChannelReport {
            name: name.into(),
            trouble: String::new(),
            role: Some(Role::Follower(role)),
        };
        Inspected { id, channels: vec![report], omitted: 0 }
    }

    fn inspector(pids: &[u32]) -> Inspector {
        let mut inspector = Inspector::default();
        pids.iter().for_each(|pid| inspector.watch(*pid));
        inspector
    }

    fn ask(inspector: &mut Inspector) -> (u64, oneshot::Receiver<Channels>) {
        let (sender, receiver) = oneshot::channel();
        let asked = inspector.ask(Instant::now(), sender);
        assert_eq!(asked.len(), inspector.pids.len());
        let Body::Inspect(Inspect { id }) = asked[0].1 else { panic!("{asked:?}") };
        (id, receiver)
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_answer_are_heard_and_one_that_does_not_holds_nobody_up_for_long() {
        let mut inspector = inspector(&[1, 2]);
        let (first, mut heard_first) = ask(&mut inspector);
        let (second, mut heard_second) = ask(&mut inspector);
        inspector.handle_answer(1, answer(first, "a"));
        inspector.handle_answer(1, answer(second, "b"));
        inspector.handle_answer(3, answer(second, "not asked"));
        inspector.handle_answer(2, answer(second, "c"));
        assert_eq!(heard_second.try_recv().unwrap().len(), 2);
        assert!(heard_first.try_recv().is_err());
        tokio::time::advance(LIMIT).await;
        inspector.handle_tick(Instant::now());
        let heard = heard_first.try_recv().unwrap();
        assert_eq!(heard[&1].as_ref().unwrap()[0].channel, "a");
        assert_eq!((heard.len(), &heard[&2]), (2, &None));
        assert_eq!(inspector.next_deadline(), None);
        // Too late.
        inspector.handle_answer(2, answer(first, "a"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_gone_is_not_waited_for() {
        let mut inspector = inspector(&[1, 2]);
        let (id, mut heard) = ask(&mut inspector);
        inspector.handle_answer(1, answer(id, "a"));
        inspector.forget(2);
        assert_eq!(heard.try_recv().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn open_questions_are_bounded() {
        let mut inspector = inspector(&[1]);
        let _open: Vec<_> = (0..QUESTIONS).map(|_| ask(&mut inspector)).collect();
        let (sender, mut receiver) = oneshot::channel();
        assert!(inspector.ask(Instant::now(), sender).is_empty());
        assert!(receiver.try_recv().unwrap().is_empty());
    }

    #[test]
    fn a_channel_is_plain_json() {
        let role = ChannelRole::Follower { subscriptions: 2, publications: 1, calls: 0 };
        let status = ChannelStatus { channel: "Registry".into(), role, trouble: None };
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(
            json,
            r#"{"channel":"Registry","role":"follower","subscriptions":2,"publications":1,"calls":0,"trouble":null}"#
        );
        assert_eq!(serde_json::from_str::<ChannelStatus>(&json).unwrap(), status);
    }
}
