use super::*;
use crate::{process::master::event::Death, process::name::Exit};

const MASTER: Peer = Peer { process: ProcessName::Master, pid: 1 };
const AGENT_PEER: Peer = Peer { process: ProcessName::Agent, pid: 10 };

fn worker(index: u32) -> Peer {
    Peer { process: ProcessName::Worker(index), pid: 20 + index }
}

/// A router, a clock, and what each process heard.
struct World {
    router: Router,
    now: Instant,
}

impl World {
    /// With a ready agent and this many ready workers.
    fn new(workers: u32) -> Self {
        let router = Router::new(MASTER.pid, fastrand::Rng::with_seed(7));
        let mut world = Self { router, now: Instant::now() };
        world.start(AGENT_PEER);
        world.ready(AGENT_PEER);
        for index in 0..workers {
            world.start(worker(index));
            world.ready(worker(index));
        }
        world
    }

    fn start(&mut self, Peer { process, pid }: Peer) -> Vec<ToPid> {
        let out = self.router.on_event(&MasterEvent::Started { process, pid, generation: 0 });
        let taken = Taken { takes_messages: true, ..Taken::default() };
        assert_eq!(
            self.router.on_frame(Peer::new(process, pid), &Body::Taken(taken), self.now),
            []
        );
        out
    }

    fn ready(&mut self, Peer { process, pid }: Peer) -> Vec<ToPid> {
        self.router.on_event(&MasterEvent::Ready { process, pid })
    }

    fn die(&mut self, Peer { process, pid }: Peer) -> Vec<ToPid> {
        let exit = Exit::Signal(9);
        self.router.on_event(&MasterEvent::Died(Death {
            process,
            pid,
            exit,
            reason: None,
            ready_for: None,
            restart_in: None,
            lines: Vec::new(),
        }))
    }

    fn send(&mut self, from: Peer, target: pb::Target, pid: u32) -> Vec<ToPid> {
        let message = SendMessage {
            id: 5,
            target: target.into(),
            pid,
            action: "act".into(),
            data: Bytes::from_static(b"1"),
        };
        self.router.on_frame(from, &Body::SendMessage(message), self.now)
    }

    fn answer(&mut self, from: Peer, id: u64, outcome: Outcome) -> Vec<ToPid> {
        let answer = MessageDelivered { id, outcome: outcome.into() };
        self.router.on_frame(from, &Body::MessageDelivered(answer), self.now)
    }
}

/// The pids that a message goes to, its number, and who is said to have sent it.
fn delivered(out: &[ToPid]) -> (Vec<u32>, u64, Option<pb::Peer>) {
    let deliveries = out.iter().map(|(pid, body)| match body {
        Body::DeliverMessage(message) => (*pid, message.id, message.from),
        other => panic!("{other:?}"),
    });
    let all: Vec<_> = deliveries.collect();
    assert!(all.iter().all(|it| (it.1, it.2) == (all[0].1, all[0].2)));
    (all.iter().map(|it| it.0).collect(), all[0].1, all[0].2)
}

fn receipt(out: &[ToPid]) -> (u32, MessageReceipt) {
    match out {
        [(pid, Body::MessageReceipt(receipt))] => (*pid, *receipt),
        other => panic!("{other:?}"),
    }
}

fn refusal(out: &[ToPid]) -> Refusal {
    receipt(out).1.refusal()
}

#[test]
fn each_target_is_who_it_says_from_each_sender() {
    let mut world = World::new(2);
    let [w0, w1] = [worker(0), worker(1)];
    for from in [MASTER, AGENT_PEER, w0] {
        let (to, _, sender) = delivered(&world.send(from, pb::Target::All, 0));
        assert_eq!((to, sender), (vec![10, 20, 21], Some(from.into())), "itself too");
        assert_eq!(delivered(&world.send(from, pb::Target::Workers, 0)).0, [20, 21]);
        assert_eq!(delivered(&world.send(from, pb::Target::Agent, 0)).0, [10]);
        for to in [MASTER, AGENT_PEER, w0, w1] {
            assert_eq!(delivered(&world.send(from, pb::Target::Pid, to.pid)).0, [to.pid]);
        }
    }
    assert_eq!(delivered(&world.send(w1, pb::Target::Random, 0)).0, [10], "from a worker");
    for from in [MASTER, AGENT_PEER] {
        let chosen = delivered(&world.send(from, pb::Target::Random, 0)).0;
        assert!(chosen == [20] || chosen == [21], "{chosen:?}");
    }
}

#[test]
fn random_is_even() {
    let mut world = World::new(4);
    let mut hits = BTreeMap::<u32, u32>::new();
    for _ in 0..1000 {
        let (to, id, _) = delivered(&world.send(AGENT_PEER, pb::Target::Random, 0));
        *hits.entry(to[0]).or_default() += 1;
        world.answer(worker(to[0] - 20), id, Outcome::Taken);
    }
    assert_eq!(hits.len(), 4);
    assert!(hits.values().all(|hits| (150..=350).contains(hits)), "{hits:?}");
}

#[test]
fn who_can_not_be_reached_is_said_at_once() {
    let mut world = World::new(0);
    assert_eq!(refusal(&world.send(AGENT_PEER, pb::Target::Random, 0)), Refusal::NoWorker);
    assert_eq!(refusal(&world.send(MASTER, pb::Target::Workers, 0)), Refusal::NoWorker);
    assert_eq!(refusal(&world.send(MASTER, pb::Target::Pid, 77)), Refusal::NoSuchProcess);
    world.die(AGENT_PEER);
    let out = world.send(MASTER, pb::Target::Agent, 0);
    assert_eq!(receipt(&out).0, MASTER.pid);
    assert_eq!(refusal(&out), Refusal::AgentAway);
    let (to, receipt) = receipt(&world.send(MASTER, pb::Target::All, 0));
    assert_eq!((to, receipt), (1, MessageReceipt { id: 5, ..MessageReceipt::default() }));

    let replacement = Peer { pid: 11, ..AGENT_PEER };
    world.start(replacement);
    assert_eq!(refusal(&world.send(MASTER, pb::Target::Agent, 0)), Refusal::AgentAway);
    assert_eq!(refusal(&world.send(MASTER, pb::Target::Pid, 11)), Refusal::NoSuchProcess);
    world.ready(replacement);
    assert_eq!(delivered(&world.send(MASTER, pb::Target::Agent, 0)).0, [11]);
}

#[test]
fn a_message_against_the_rules_is_refused_whoever_sends_it() {
    let mut world = World::new(1);
    let fit = SendMessage {
        id: 3,
        target: pb::Target::All.into(),
        pid: 0,
        action: "x".repeat(MAX_ACTION),
        data: vec![b'1'; MAX_DATA].into(),
    };
    let unfit = [
        SendMessage { action: String::new(), ..fit.clone() },
        SendMessage { action: "x".repeat(MAX_ACTION + 1), ..fit.clone() },
        SendMessage { data: vec![b'1'; MAX_DATA + 1].into(), ..fit.clone() },
        SendMessage { target: 99, ..fit.clone() },
        SendMessage { target: 0, ..fit.clone() },
    ];
    for message in unfit {
        let out = world.router.on_frame(worker(0), &Body::SendMessage(message), world.now);
        assert_eq!(refusal(&out), Refusal::Invalid);
    }
    let out = world.router.on_frame(worker(0), &Body::SendMessage(fit), world.now);
    assert_eq!(delivered(&out).0, [10, 20]);
}

#[test]
fn a_receipt_comes_with_the_last_answer_and_counts_each_process_once() {
    let mut world = World::new(3);
    let (_, id, _) = delivered(&world.send(worker(0), pb::Target::All, 0));
    assert_eq!(world.answer(AGENT_PEER, id, Outcome::Taken), []);
    assert_eq!(world.answer(AGENT_PEER, id, Outcome::Taken), [], "a second answer");
    assert_eq!(world.answer(worker(0), id, Outcome::Unhandled), []);
    assert_eq!(world.answer(worker(1), id, Outcome::NoRoom), []);
    assert_eq!(world.answer(MASTER, id, Outcome::Taken), [], "it was not asked");
    assert_eq!(world.answer(worker(2), 99, Outcome::Taken), [], "there is no such message");
    let out = world.die(worker(2));
    let counts =
        MessageReceipt { taken: 1, unhandled: 1, no_room: 1, lost: 1, ..receipt(&out[..1]).1 };
    assert_eq!(receipt(&out[..1]), (20, counts));
    assert_eq!((counts.id, counts.waiting), (5, 0));
    assert!(world.router.under_way.is_empty());
}

#[test]
fn one_that_knows_nothing_of_messages_is_given_none() {
    let mut world = World::new(1);
    let simple = worker(1);
    let Peer { process, pid } = simple;
    world.router.on_event(&MasterEvent::Started { process, pid, generation: 0 });
    world.ready(simple);
    let (_, receipt) = receipt(&world.send(AGENT_PEER, pb::Target::Pid, pid));
    assert_eq!(receipt, MessageReceipt { id: 5, unhandled: 1, ..MessageReceipt::default() });
    assert_eq!(delivered(&world.send(AGENT_PEER, pb::Target::Workers, 0)).0, [20]);
}

#[test]
fn a_link_that_is_full_has_no_room_and_one_that_is_gone_loses_it() {
    let mut world = World::new(1);
    for (is_full, no_room, lost) in [(true, 1, 0), (false, 0, 1)] {
        let out = world.send(MASTER, pb::Target::Pid, 20);
        let [(20, Body::DeliverMessage(message))] = &out[..] else { panic!("{out:?}") };
        let out = world.router.on_undelivered(20, message, is_full);
        let counts = MessageReceipt { id: 5, no_room, lost, ..MessageReceipt::default() };
        assert_eq!(receipt(&out), (1, counts));
    }
}

#[test]
fn a_process_that_does_not_answer_costs_a_bound_and_delays_nobody() {
    let mut world = World::new(2);
    for _ in 0..WINDOW {
        delivered(&world.send(AGENT_PEER, pb::Target::Pid, 20));
    }
    for _ in 0..100_000 {
        let out = world.send(AGENT_PEER, pb::Target::Pid, 20);
        assert_eq!(receipt(&out).1.no_room, 1);
    }
    assert_eq!(world.router.under_way.len(), WINDOW);
    let out = world.send(AGENT_PEER, pb::Target::Workers, 0);
    let (to, id, _) = delivered(&out);
    assert_eq!(to, [21], "the other one gets it");
    let out = world.answer(worker(1), id, Outcome::Taken);
    assert_eq!((receipt(&out).1.taken, receipt(&out).1.no_room), (1, 1));

    world.answer(worker(0), 1, Outcome::Taken);
    assert_eq!(delivered(&world.send(AGENT_PEER, pb::Target::Pid, 20)).0, [20]);
}

#[test]
fn a_sender_that_waits_is_told_what_is_known_and_in_the_end_gives_up() {
    let mut world = World::new(2);
    let begun = world.now;
    let (_, id, _) = delivered(&world.send(AGENT_PEER, pb::Target::Workers, 0));
    assert_eq!(world.router.next_deadline(), Some(begun + SO_FAR));
    world.answer(worker(0), id, Outcome::Taken);
    assert_eq!(world.router.handle_tick(begun + SO_FAR / 2), []);
    let (to, so_far) = receipt(&world.router.handle_tick(begun + SO_FAR));
    assert_eq!((to, so_far.taken, so_far.waiting), (10, 1, 1));
    assert_eq!(world.router.handle_tick(begun + SO_FAR), [], "once");

    assert_eq!(world.router.next_deadline(), Some(begun + GIVE_UP));
    let (_, last) = receipt(&world.router.handle_tick(begun + GIVE_UP));
    assert_eq!((last.taken, last.lost, last.waiting), (1, 1, 0));
    assert_eq!(world.router.next_deadline(), None);
    assert_eq!(world.answer(worker(1), id, Outcome::Taken), [], "too late to count");
    assert!(world.router.processes[&21].unanswered.is_empty(), "but it makes room");
}

/// What a process was told of its peers, as pids.
fn told(out: &[ToPid], to: Peer) -> Vec<Vec<u32>> {
    let lists = out.iter().filter(|(pid, _)| *pid == to.pid).filter_map(|(_, body)| match body {
        Body::Peers(peers) => Some(peers.peers.iter().map(|peer| peer.pid).collect()),
        _ => None,
    });
    lists.collect()
}

#[test]
fn peers_are_told_of_each_change_and_of_nothing_else() {
    let mut world = World::new(0);
    let [w0, w1] = [worker(0), worker(1)];
    assert_eq!(world.router.peers_of(w0.process).peers, [pb::Peer::from(AGENT_PEER)]);
    assert_eq!(world.start(w0), []);
    assert_eq!(told(&world.ready(w0), AGENT_PEER), [[20]]);
    world.start(w1);
    let out = world.ready(w1);
    assert_eq!(told(&out, AGENT_PEER), [[20, 21]]);
    assert_eq!(out.len(), 1, "workers are not told of workers");
    assert_eq!(told(&world.die(w0), AGENT_PEER), [[21]]);
    let replacement = Peer { pid: 30, ..w0 };
    assert_eq!(world.start(replacement), []);
    assert_eq!(told(&world.ready(replacement), AGENT_PEER), [[30, 21]], "by index");

    let out = world.die(AGENT_PEER);
    assert_eq!(told(&out, w1), [[0; 0]]);
    assert_eq!(told(&out, replacement), [[0; 0]]);
    let agent = Peer { pid: 11, ..AGENT_PEER };
    let pids: Vec<_> = world.router.peers_of(agent.process).peers.iter().map(|it| it.pid).collect();
    assert_eq!(pids, [30, 21], "a new agent knows both at once");
    world.start(agent);
    let out = world.ready(agent);
    assert_eq!((told(&out, w1), told(&out, replacement)), (vec![vec![11]], vec![vec![11]]));
    assert_eq!(world.router.on_event(&MasterEvent::Stopping), []);
}

#[test]
fn one_that_leaves_is_chosen_for_nothing_and_still_gets_what_all_get() {
    let mut world = World::new(1);
    let old = worker(0);
    let new = Peer { pid: 40, ..old };
    world.start(new);
    assert_eq!(told(&world.ready(new), AGENT_PEER), [[20, 40]], "both during a reload");
    assert_eq!(told(&world.router.on_leaving(old.pid), AGENT_PEER), [[40]]);
    for _ in 0..50 {
        assert_eq!(delivered(&world.send(AGENT_PEER, pb::Target::Random, 0)).0, [40]);
    }
    assert_eq!(delivered(&world.send(AGENT_PEER, pb::Target::Workers, 0)).0, [20, 40]);
    assert_eq!(delivered(&world.send(AGENT_PEER, pb::Target::Pid, 20)).0, [20]);
    world.ready(old);
    assert_eq!(
        world.router.processes[&20].life,
        Life::Leaving,
        "what it says late changes nothing"
    );
    assert_eq!(
        told(
            &world.router.on_event(&MasterEvent::Stopped {
                process: old.process,
                pid: old.pid,
                exit: Exit::Clean,
            }),
            AGENT_PEER
        ),
        [[0; 0]; 0],
        "they know already"
    );
}
