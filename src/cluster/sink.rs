//! Where the upstream stream of a subscription pours its items: the leader's end of a topic.
