//! What a child tells of the channels that it takes part in, for people who look at their cluster.

use crate::{
    error::Error,
    follower, leader,
    protocol::pb::{
        ChannelReport, FollowerReport, Inspect, Inspected, LeaderReport, channel_report::Role,
    },
};

/// Most channels in one answer, so that it fits into a frame.
const CHANNELS: usize = 64;

/// Longest name of a channel that is told whole, and longest reason.
const NAME: usize = 120;
const TROUBLE: usize = 240;

/// The answer to a question of the master. It takes locks for a moment.
pub(super) fn answer(Inspect { id }: Inspect) -> Inspected {
    let leaders = leader::reports().into_iter().map(|report| {
        let stats = report.stats;
        let failures = stats.oneway_failures + stats.replay_failures + stats.panics + stats.late;
        let role = Role::Leader(LeaderReport {
            followers: count(stats.followers),
            topics: count(stats.topics),
            publications: count(stats.publications),
            failures,
        });
        channel(&report.channel, report.trouble.as_ref(), role)
    });
    let followers = follower::reports().into_iter().map(|report| {
        let role = Role::Follower(FollowerReport {
            subscriptions: count(report.subscriptions),
            publications: count(report.publications),
            calls: count(report.calls),
        });
        channel(&report.channel, report.trouble.as_ref(), role)
    });
    let mut channels: Vec<_> = leaders.chain(followers).collect();
    channels.sort_by(|a, b| a.name.cmp(&b.name));
    let omitted = count(channels.len().saturating_sub(CHANNELS));
    channels.truncate(CHANNELS);
    Inspected { id, channels, omitted }
}

fn channel(name: &str, trouble: Option<&Error>, role: Role) -> ChannelReport {
    let trouble = trouble.map(ToString::to_string).unwrap_or_default();
    ChannelReport { name: cut(name, NAME), trouble: cut(&trouble, TROUBLE), role: Some(role) }
}

fn cut(text: &str, limit: usize) -> String {
    match text.len() <= limit {
        true => text.to_owned(),
        false => format!("{}…", &text[..text.floor_char_boundary(limit)]),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn the_longest_answer_fits_into_a_frame() {
        let role = Role::Leader(LeaderReport {
            followers: u32::MAX,
            topics: u32::MAX,
            publications: u32::MAX,
            failures: u64::MAX,
        });
        let error = Error::config("ä".repeat(1000));
        let longest = channel(&"ä".repeat(1000), Some(&error), role);
        assert!(longest.name.len() <= 128 && longest.trouble.len() <= 256);
        let channels = vec![longest; CHANNELS];
        let answer = Inspected { id: u64::MAX, channels, omitted: u32::MAX };
        assert!(answer.encoded_len() < 48 * 1024);
    }
}
