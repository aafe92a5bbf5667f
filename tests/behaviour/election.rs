//! `Role::Compete`: whoever binds the port leads, and when it goes the others elect anew.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use cluster_client::{Cluster, Role};

use crate::{
    actor::Actor,
    backend::Backend,
    client::packed::Registry,
    support::{TOKEN, calm, free_port, soon},
};

/// Starts competitors at once; all are ready.
async fn competitors(port: u16, count: usize) -> Vec<Actor> {
    let start = || Actor::spawn("compete", port, calm().drop_after);
    let mut actors: Vec<Actor> = (0..count).map(|_| start()).collect();
    for actor in &mut actors {
        assert_eq!(actor.reply().await, "ready");
    }
    actors
}

/// Takes the leader out; there is one.
async fn take_leader(actors: &mut Vec<Actor>) -> Actor {
    let mut leaders = Vec::new();
    for (at, actor) in actors.iter_mut().enumerate() {
        match actor.ask("role").await.as_str() {
            "Leader" => leaders.push(at),
            role => assert_eq!(role, "Follower"),
        }
    }
    assert_eq!(leaders.len(), 1, "leaders: {leaders:?}");
    actors.swap_remove(leaders[0])
}

/// Every one has the value upstream, whoever leads, and watches it.
async fn watch_all(actors: &mut [Actor]) {
    for actor in &mut *actors {
        actor.ask("set k v").await;
    }
    for actor in actors {
        actor.ask("watch k").await;
        assert_eq!(actor.event().await, "v");
    }
}

#[tokio::test]
async fn of_processes_that_start_at_once_one_leads() {
    for _ in 0..20 {
        let mut actors = competitors(free_port(), 3).await;
        let mut leader = take_leader(&mut actors).await;
        assert_eq!(leader.ask("connects").await, "1");
        for follower in &mut actors {
            assert_eq!(follower.ask("connects").await, "0");
            assert_eq!(follower.ask("echo x").await, "x");
        }
    }
}

#[test]
fn of_runtimes_that_start_at_once_one_leads() {
    for _ in 0..20 {
        let (backend, port) = (Backend::new(), free_port());
        let compete = || {
            // It goes on while others still start.
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
            let user = runtime.block_on(async {
                let user = Cluster::<Registry>::builder().role(Role::Compete).port(port);
                let user = user.token(TOKEN).options(calm()).create(Arc::clone(&backend)).await;
                let user = user.unwrap();
                assert_eq!(user.echo(vec![1]).await, Ok(vec![1]));
                user
            });
            (user, runtime)
        };
        let users: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(compete)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(users.len(), 4);
        assert_eq!(backend.connects.load(SeqCst), 1);
    }
}

#[tokio::test]
async fn a_killed_leader_is_followed_by_exactly_one_and_all_is_whole() {
    let mut actors = competitors(free_port(), 4).await;
    watch_all(&mut actors).await;
    for (at, actor) in actors.iter_mut().enumerate() {
        assert_eq!(actor.ask(&format!("publish k {at}")).await, "done");
    }
    for round in 0..2 {
        take_leader(&mut actors).await.kill();
        // In the gap: the loss is noticed, so that nothing is sent to the dead.
        for actor in &mut actors {
            assert_eq!(actor.event().await, "stale disconnected");
            actor.tell("echo gap");
        }
        for actor in &mut actors {
            assert_eq!(actor.reply().await, "gap");
            assert_eq!(actor.event().await, "live v", "in round {round}");
        }
        let mut leader = take_leader(&mut actors).await;
        assert_eq!(leader.ask("connects").await, "1");
        assert_eq!(leader.ask("subscribes k").await, "1");
        assert_eq!(leader.ask("echo x").await, "x");
        let log = leader.ask("log").await;
        assert_eq!(log.split(',').count(), actors.len() + 1, "one a process that lives: {log}");
        leader.ask("set k w").await;
        leader.ask("set k v").await;
        actors.push(leader);
        for actor in &mut actors {
            assert_eq!(actor.event().await, "w");
            assert_eq!(actor.event().await, "v");
        }
    }
}

#[tokio::test]
async fn a_frozen_leader_is_stale_and_keeps_the_lead() {
    let port = free_port();
    let mut actors = competitors(port, 3).await;
    watch_all(&mut actors).await;
    let mut leader = take_leader(&mut actors).await;
    leader.freeze();
    for actor in &mut actors {
        assert_eq!(actor.event().await, "stale leader_silent");
        assert_eq!(actor.ask("role").await, "Follower");
    }
    // One that comes now finds the port owned, and waits.
    let mut late = Actor::spawn("compete", port, calm().drop_after);
    tokio::time::sleep(calm().stale_after * 2).await;
    for actor in &mut actors {
        assert_eq!(actor.ask("role").await, "Follower");
        assert_eq!(actor.ask("connects").await, "0");
    }
    leader.thaw();
    assert_eq!(late.reply().await, "ready");
    assert_eq!(late.ask("role").await, "Follower");
    for actor in &mut actors {
        assert_eq!(actor.event().await, "live v");
    }
    assert_eq!(leader.ask("role").await, "Leader");
}

#[tokio::test]
async fn a_leader_that_closes_in_a_process_that_lives_on_is_followed_by_another() {
    let port = free_port();
    let mut actors = competitors(port, 3).await;
    watch_all(&mut actors).await;
    let mut closed = take_leader(&mut actors).await;
    assert_eq!(closed.ask("close").await, "done");
    assert_eq!(closed.event().await, "closed closed");
    for actor in &mut actors {
        assert_eq!(actor.event().await, "stale disconnected");
        assert_eq!(actor.event().await, "live v");
    }
    take_leader(&mut actors).await;
}

#[tokio::test]
async fn a_client_that_cannot_connect_fails_its_competitor_and_the_next_may_try() {
    let (backend, port) = (Backend::new(), free_port());
    let create = || {
        let user = Cluster::<Registry>::builder().role(Role::Compete).port(port).token(TOKEN);
        user.options(calm()).create(Arc::clone(&backend))
    };
    backend.fail_connect.store(true, SeqCst);
    let error = soon("the failure", create()).await.unwrap_err();
    assert_eq!(error.kind(), cluster_client::ErrorKind::Connect);
    backend.fail_connect.store(false, SeqCst);
    let user = soon("the second try", create()).await.unwrap();
    assert_eq!(Cluster::role(&user), Role::Leader);
    assert_eq!(backend.connects.load(SeqCst), 2);
}

#[tokio::test]
async fn the_lead_passes_within_a_second() {
    let port = free_port();
    let mut actors = competitors(port, 3).await;
    let leader = take_leader(&mut actors).await;
    let killed = std::time::Instant::now();
    leader.kill();
    assert_eq!(actors[0].ask("publish k a").await, "done");
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
}
