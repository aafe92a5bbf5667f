//! What the operations of the model really brought about.

/// How often each fault really happened.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Faults {
    pub(super) cuts: u64,
    pub(super) freezes: u64,
    pub(super) bytes_after_thaw: u64,
    pub(super) stream_faults: u64,
    pub(super) losses: u64,
    pub(super) leader_kills: u64,
    pub(super) leader_stops: u64,
    pub(super) hand_overs: u64,
    pub(super) follower_kills: u64,
    pub(super) follower_stops: u64,
    pub(super) refusals: u64,
    pub(super) missed: u64,
    pub(super) publish_failures: u64,
}

impl Faults {
    pub(super) fn add(&mut self, other: &Self) {
        self.cuts += other.cuts;
        self.freezes += other.freezes;
        self.bytes_after_thaw += other.bytes_after_thaw;
        self.stream_faults += other.stream_faults;
        self.losses += other.losses;
        self.leader_kills += other.leader_kills;
        self.leader_stops += other.leader_stops;
        self.hand_overs += other.hand_overs;
        self.follower_kills += other.follower_kills;
        self.follower_stops += other.follower_stops;
        self.refusals += other.refusals;
        self.missed += other.missed;
        self.publish_failures += other.publish_failures;
    }

    pub(super) fn each_happened(&self) -> bool {
        [
            self.cuts,
            self.freezes,
            self.bytes_after_thaw,
            self.stream_faults,
            self.losses,
            self.leader_kills,
            self.leader_stops,
            self.hand_overs,
            self.follower_kills,
            self.follower_stops,
            self.refusals,
            self.missed,
            self.publish_failures,
        ]
        .iter()
        .all(|count| *count > 0)
    }
}
