//! One suite, run in a leader, in a follower over TCP and in a single process, with two codecs.

macro_rules! suite {
    ($module:ident, $client:ty, $place:expr) => {
        mod $module {
            use std::{sync::atomic::Ordering::SeqCst, time::Duration};

            use cluster_client::{Cluster, Delivery, Health, State};

            use crate::{
                backend::Step,
                client::{Registration, RegistryError},
                support::{Cast, Place, cast, next, soon, until},
            };

            const PLACE: Place = $place;

            async fn cast_here() -> Cast<$client> {
                cast(PLACE).await
            }

            #[tokio::test]
            async fn calls_give_what_the_client_gives() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                backend.set("k", "v");
                assert_eq!(user.get("k").await, Ok("v".to_owned()));
                let many = user.many("a", &[1, 2], (3, true), Some("d".to_owned())).await;
                assert_eq!(many.unwrap(), "a [1, 2] (3, true) Some(\"d\")");
                assert_eq!(user.echo(Vec::new()).await, Ok(Vec::new()));
                assert_eq!(backend.connects.load(SeqCst), 1);
            }

            #[tokio::test]
            async fn large_payloads_come_back_whole() {
                let Cast { user, backend: _, leader: _leader } = cast_here().await;
                for len in [1, 4_095, 65_537, 1 << 20] {
                    let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
                    assert_eq!(user.echo(bytes.clone()).await, Ok(bytes), "{len} bytes");
                }
            }

            #[tokio::test]
            async fn errors_come_by_value_where_they_are_serde_and_by_text_elsewhere() {
                let Cast { user, backend: _, leader: _leader } = cast_here().await;
                let missing = RegistryError::NotFound { key: "x".to_owned() };
                assert_eq!(user.get("x").await, Err(missing));
                let plain = user.plain().await.unwrap_err().0;
                assert_eq!(plain.name(), Some("PlainError"));
                assert!(plain.to_string().contains("disk on fire"), "{plain}");
                assert_eq!(plain.method(), Some("plain"));
            }

            #[tokio::test]
            async fn a_panic_is_an_error_of_that_call_alone() {
                let Cast { user, leader, backend: _ } = cast_here().await;
                let error = user.panic().await.unwrap_err();
                assert!(matches!(&error, RegistryError::Link(kind, text)
                    if kind == "panicked" && text.contains("asked to")), "{error:?}");
                assert_eq!(user.echo(vec![1]).await, Ok(vec![1]));
                assert_eq!(Cluster::stats(&leader).unwrap().panics, 1);
            }

            #[tokio::test]
            async fn one_upstream_subscription_serves_all_and_the_late_get_the_value_at_once() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                backend.set("k", "v1");
                let mut first = user.watch("k");
                assert_eq!(next(&mut first).await, "v1");
                let mut second = user.watch("k");
                assert_eq!(next(&mut second).await, "v1");
                backend.set("k", "v2");
                assert_eq!(next(&mut first).await, "v2");
                assert_eq!(next(&mut second).await, "v2");
                assert_eq!(second.current().as_deref().map(String::as_str), Some("v2"));
                assert_eq!(backend.subscribes("k"), 1);
            }

            #[tokio::test]
            async fn a_subscription_is_starting_until_its_first_value() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                let mut watch = user.watch("k");
                assert!(matches!(watch.state(), State::Starting { .. }));
                assert!(watch.current().is_none());
                until("opened", || backend.open_streams("k") == 1).await;
                backend.set("k", "v");
                assert_eq!(next(&mut watch).await, "v");
                assert!(matches!(watch.state(), State::Live));
            }

            #[tokio::test]
            async fn an_error_makes_it_stale_and_the_next_value_live_again() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                backend.set("k", "v");
                let mut watch = user.watch("k");
                assert_eq!(next(&mut watch).await, "v");
                assert!(backend.inject("k", Step::Error("gone".to_owned())));
                assert_eq!(next(&mut watch).await, "stale client");
                assert!(matches!(watch.state(), State::Stale { .. }));
                assert_eq!(watch.current().as_deref().map(String::as_str), Some("v"));
                backend.inject("k", Step::Value("v".to_owned()));
                assert_eq!(next(&mut watch).await, "live v");
                assert_eq!(backend.subscribes("k"), 1);
            }

            #[tokio::test]
            async fn a_stream_that_ends_or_panics_is_told_and_opened_again() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                backend.set("k", "v");
                let mut watch = user.watch("k");
                assert_eq!(next(&mut watch).await, "v");
                assert!(backend.inject("k", Step::End));
                assert_eq!(next(&mut watch).await, "stale upstream_ended");
                assert_eq!(next(&mut watch).await, "live v");
                assert!(backend.inject("k", Step::Panic));
                assert_eq!(next(&mut watch).await, "stale panicked");
                assert_eq!(next(&mut watch).await, "live v");
                assert_eq!(backend.subscribes("k"), 3);
            }

            #[tokio::test]
            async fn every_value_comes_in_order() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                let mut watch = user.watch("k");
                until("opened", || backend.open_streams("k") == 1).await;
                for round in 0..50 {
                    backend.set("k", &format!("v{round}"));
                }
                for round in 0..50 {
                    assert_eq!(next(&mut watch).await, format!("v{round}"));
                }
            }

            #[tokio::test]
            async fn an_unread_subscription_skips_to_the_newest_and_says_how_many_it_missed() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                let mut slow = user.watch("k");
                let mut fast = user.watch("k");
                backend.set("k", "first");
                assert_eq!(next(&mut slow).await, "first");
                assert_eq!(next(&mut fast).await, "first");
                for round in 1..=200 {
                    backend.set("k", &format!("v{round}"));
                    assert_eq!(next(&mut fast).await, format!("v{round}"));
                }
                assert_eq!(next(&mut slow).await, "v200 (missed 199)");
            }

            #[tokio::test]
            async fn the_last_drop_ends_the_upstream_subscription_after_the_linger() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                backend.set("k", "v");
                let mut first = user.watch("k");
                let second = user.watch("k");
                assert_eq!(next(&mut first).await, "v");
                drop(first);
                let mut clone = second.clone();
                drop(second);
                assert_eq!(next(&mut clone).await, "v");
                assert_eq!(backend.open_streams("k"), 1);
                drop(clone);
                until("unsubscribed", || backend.open_streams("k") == 0).await;
                let mut again = user.watch("k");
                assert_eq!(next(&mut again).await, "v");
                assert_eq!(backend.subscribes("k"), 2);
            }

            #[tokio::test]
            async fn an_async_subscribe_is_taken_or_refused() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                backend.set("k", "v");
                let mut known = user.watch_known("k".to_owned()).await.unwrap();
                assert_eq!(next(&mut known).await, "v");
                let refused = user.watch_known("nope".to_owned()).await.unwrap_err();
                assert_eq!(refused, RegistryError::NotFound { key: "nope".to_owned() });
                let again = user.watch_known("nope".to_owned()).await;
                assert!(again.is_err(), "it can be tried again, and is refused again");
            }

            #[tokio::test]
            async fn a_quiet_upstream_is_told() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                backend.set("k", "v");
                let mut ticks = user.ticks("k");
                assert_eq!(next(&mut ticks).await, "v");
                assert_eq!(next(&mut ticks).await, "stale quiet");
                backend.inject("k", Step::Value("v".to_owned()));
                assert_eq!(next(&mut ticks).await, "live v");
            }

            #[tokio::test]
            async fn publish_is_answered_and_withdrawn_by_unpublish() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                user.publish(Registration::new("k", "a")).await.unwrap();
                user.publish(Registration::new("k", "b")).await.unwrap();
                user.publish(Registration::new("k", "a")).await.unwrap();
                assert_eq!(backend.log(), ["publish k=a#1", "publish k=b#1"]);
                user.unpublish(Registration::new("k", "a")).await.unwrap();
                assert_eq!(backend.registered(), ["k=b#1"]);
            }

            #[tokio::test]
            async fn a_publish_under_the_same_key_replaces() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                user.publish(Registration::new("k", "a")).await.unwrap();
                let heavier = Registration { weight: 2, ..Registration::new("k", "a") };
                user.publish(heavier.clone()).await.unwrap();
                assert_eq!(backend.log(), ["publish k=a#1", "publish k=a#2"]);
                user.unpublish(heavier).await.unwrap();
                assert_eq!(backend.log().last().unwrap(), "unpublish k=a#2");
            }

            #[tokio::test]
            async fn a_refused_publish_is_told_and_not_remembered() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                backend.fail_publish.store(1, SeqCst);
                let refused = user.publish(Registration::new("k", "a")).await.unwrap_err();
                assert_eq!(refused, RegistryError::Refused("refused".to_owned()));
                Cluster::close(user).await;
                assert_eq!(backend.log(), ["refuse k=a#1"]);
            }

            #[tokio::test]
            async fn close_withdraws_and_everything_after_it_answers_closed() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                backend.set("k", "v");
                let mut watch = user.watch("k");
                assert_eq!(next(&mut watch).await, "v");
                user.publish(Registration::new("k", "a")).await.unwrap();
                let clone = user.clone();
                soon("close", Cluster::close(user)).await;
                until("withdrawn", || backend.registered().is_empty()).await;
                let closed = |result: RegistryError| {
                    assert!(matches!(&result, RegistryError::Link(kind, _) if kind == "closed"), "{result:?}");
                };
                closed(clone.echo(vec![1]).await.unwrap_err());
                closed(clone.publish(Registration::new("k", "b")).await.unwrap_err());
                closed(clone.note("x".to_owned()).await.unwrap_err());
                assert_eq!(next(&mut watch).await, "closed closed");
                assert_eq!(next(&mut watch).await, "closed closed");
                assert_eq!(watch.current().as_deref().map(String::as_str), Some("v"));
                assert_eq!(next(&mut clone.watch("other")).await, "closed closed");
            }

            #[tokio::test]
            async fn a_deadline_cancels_the_call_in_the_leader() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                let error = user.hasty().await.unwrap_err();
                assert!(matches!(&error, RegistryError::Link(kind, text)
                    if kind == "timeout" && text.contains("hasty")), "{error:?}");
                until("cancelled", || backend.cancelled.load(SeqCst) == 1).await;
            }

            #[tokio::test]
            async fn a_dropped_call_is_cancelled_in_the_leader() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                let call = tokio::time::timeout(Duration::from_millis(50), user.slow());
                assert!(call.await.is_err());
                until("cancelled", || backend.cancelled.load(SeqCst) == 1).await;
            }

            #[tokio::test]
            async fn equal_shared_calls_become_one_which_lives_as_long_as_one_waits() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                let calls: Vec<_> = (0..3)
                    .map(|_| {
                        let user = user.clone();
                        tokio::spawn(async move { user.shared("k").await })
                    })
                    .collect();
                until("called", || backend.calls.load(SeqCst) == 1).await;
                calls[0].abort();
                // The others have joined once a call made after them was answered.
                user.echo(Vec::new()).await.unwrap();
                backend.gate.notify_waiters();
                for call in calls.into_iter().skip(1) {
                    assert_eq!(call.await.unwrap(), Ok("k 0".to_owned()));
                }
                assert_eq!(backend.cancelled.load(SeqCst), 0);
            }

            #[tokio::test]
            async fn oneway_returns_at_once_and_its_failure_is_counted() {
                let Cast { user, leader, backend } = cast_here().await;
                user.note("hello".to_owned()).await.unwrap();
                until("noted", || backend.log() == ["hello"]).await;
                user.note("fail".to_owned()).await.unwrap();
                until("counted", || Cluster::stats(&leader).unwrap().oneway_failures == 1).await;
            }

            #[tokio::test]
            async fn a_lost_upstream_is_told_and_made_whole_again() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                backend.set("k", "v");
                let mut watch = user.watch("k");
                assert_eq!(next(&mut watch).await, "v");
                user.publish(Registration::new("k", "a")).await.unwrap();
                backend.report(Health::Lost("session expired".to_owned()));
                assert_eq!(next(&mut watch).await, "stale upstream_lost");
                crate::backend::lock(&backend.registered).clear();
                backend.report(Health::Restored);
                assert_eq!(next(&mut watch).await, "live v");
                until("published again", || backend.registered() == ["k=a#1"]).await;
                assert_eq!(backend.subscribes("k"), 2);
            }

            #[tokio::test]
            async fn work_items_go_to_one_each_and_come_back_until_acknowledged() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                let mut first = user.work();
                backend.add_work("a");
                let a = soon("a", first.recv()).await.unwrap();
                assert_eq!(*a, "a");
                assert!(!Delivery::redelivered(&a));
                drop(a);
                let a = soon("a again", first.recv()).await.unwrap();
                assert!(Delivery::redelivered(&a));
                Delivery::ack(a);
                let mut second = user.work();
                for item in 0..40 {
                    backend.add_work(&item.to_string());
                }
                let mut seen = Vec::new();
                while seen.len() < 40 {
                    let (item, by) = tokio::select! {
                        item = soon("an item", first.recv()) => (item, 1),
                        item = soon("an item", second.recv()) => (item, 2),
                    };
                    let item = item.unwrap();
                    seen.push((item.parse::<u32>().unwrap(), by));
                    Delivery::ack(item);
                }
                seen.sort_unstable();
                assert_eq!(seen.iter().map(|(item, _)| *item).collect::<Vec<_>>(), (0..40).collect::<Vec<_>>());
                assert!(seen.iter().any(|(_, by)| *by == 1) && seen.iter().any(|(_, by)| *by == 2));
            }

            #[tokio::test]
            async fn without_room_the_upstream_is_not_asked_for_work() {
                let Cast { user, backend, leader: _leader } = cast_here().await;
                for item in 0..100 {
                    backend.add_work(&item.to_string());
                }
                let mut work = user.work();
                let held = soon("an item", work.recv()).await.unwrap();
                // One window, of which one is out and not settled.
                until("taken", || backend.work_taken.load(SeqCst) == 16).await;
                user.echo(Vec::new()).await.unwrap();
                assert_eq!(backend.work_taken.load(SeqCst), 16);
                Delivery::ack(held);
                until("one more", || backend.work_taken.load(SeqCst) == 17).await;
            }
        }
    };
}

suite!(leader, crate::client::packed::Registry, Place::Leader);
suite!(follower, crate::client::packed::Registry, Place::Follower);
suite!(single, crate::client::packed::Registry, Place::Single);
suite!(follower_json, crate::client::json::JsonRegistry, Place::Follower);
suite!(single_json, crate::client::json::JsonRegistry, Place::Single);
