use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::*;

fn gate(permits: u32) -> FairGate<u32> {
    FairGate::new(FairSettings { permits, ..FairSettings::default() })
}

/// Takes as much as there is to be had.
fn greedy(gate: &FairGate<u32>, key: u32) -> Vec<Permit<u32>> {
    std::iter::from_fn(|| gate.try_enter(key)).collect()
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn alone_one_holds_half_and_many_leave_something_free() {
    for (permits, each) in [
        (1, vec![1]),
        (2, vec![1, 1]),
        (3, vec![2, 1]),
        (10, vec![5, 3, 1, 1]),
        (10, vec![5, 3, 1, 1, 0]),
        (100, vec![50, 25, 13, 6, 3, 2, 1]),
    ] {
        let gate = gate(permits);
        let held: Vec<_> = (0..).zip(&each).map(|(key, _)| greedy(&gate, key)).collect();
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), each, "of {permits}");
    }
}

#[test]
fn the_share_is_a_setting() {
    for (share, most) in [(1, 1), (25, 3), (50, 5), (75, 8), (90, 9), (100, 10), (0, 1), (200, 10)] {
        let gate = FairGate::new(FairSettings { share, ..FairSettings::default() });
        assert_eq!(usize::try_from(gate.most_of_one()), Ok(most), "{share} %");
        assert_eq!(greedy(&gate, 1).len(), most, "{share} %");
    }
}

#[tokio::test]
async fn what_one_may_hold_is_bounded_and_nobody_waits_for_another() {
    let gate = FairGate::new(FairSettings { permits: u32::MAX, most_each: 3, ..FairSettings::default() });
    let mut held: Vec<_> = (0..100).map(|key| greedy(&gate, key)).collect();
    assert!(held.iter().all(|held| held.len() == 3));
    let mut waiting: Vec<_> = (0..100).map(|key| Box::pin(gate.enter(key))).collect();
    for enter in &mut waiting {
        assert!(poll(enter.as_mut()).is_pending());
    }
    // Who waits behind many others is served by its own.
    drop(held[99].pop());
    assert!(poll(waiting[99].as_mut()).is_ready());
    assert!(waiting[..99].iter_mut().all(|enter| poll(enter.as_mut()).is_pending()));
    let none = FairGate::new(FairSettings { most_each: 0, ..FairSettings::default() });
    assert_eq!(greedy(&none, 1).len(), 1, "at least one");
}

#[tokio::test]
async fn keys_take_turns_and_each_is_served_in_order() {
    let gate = gate(1);
    let held = gate.enter(0).await.unwrap();
    let mut waiting = Vec::new();
    for (key, name) in [(1, "1a"), (1, "1b"), (1, "1c"), (2, "2a"), (3, "3a"), (2, "2b")] {
        let mut future = Box::pin(gate.enter(key));
        assert!(poll(future.as_mut()).is_pending());
        waiting.push((name, future));
    }
    let mut order = Vec::new();
    let mut current = Some(held);
    while !waiting.is_empty() {
        drop(current.take());
        let served = waiting.iter_mut().position(|(_, future)| match poll(future.as_mut()) {
            Poll::Ready(permit) => {
                current = Some(permit.unwrap());
                true
            }
            Poll::Pending => false,
        });
        let (name, future) = waiting.remove(served.expect("somebody is next"));
        drop(future);
        order.push(name);
    }
    assert_eq!(order, ["1a", "2a", "3a", "1b", "2b", "1c"]);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_who_hold_on_do_not_keep_another_out() {
    let gate = gate(10);
    let mut noisy = JoinSet::new();
    for _ in 0..100 {
        let gate = gate.clone();
        noisy.spawn(async move {
            let permit = gate.enter(1).await;
            std::future::pending::<()>().await;
            drop(permit);
        });
    }
    while gate.stats().waiting < 95 {
        tokio::task::yield_now().await;
    }
    assert_eq!(gate.stats(), FairStats { permits: 10, held: 5, waiting: 95, keys: 1 });
    let began = tokio::time::Instant::now();
    for _ in 0..1_000 {
        let _three =
            (gate.enter(2).await.unwrap(), gate.enter(2).await.unwrap(), gate.enter(3).await.unwrap());
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    noisy.shutdown().await;
    assert_eq!(gate.stats(), FairStats { permits: 10, held: 0, waiting: 0, keys: 0 });
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_bounded_in_time_and_in_number() {
    let settings = FairSettings { permits: 1, waiting_each: 2, waiting: 3, ..FairSettings::default() };
    let gate = FairGate::new(settings);
    let _held = gate.enter(0).await.unwrap();
    let began = tokio::time::Instant::now();
    assert_eq!(gate.enter(1).await.unwrap_err(), Crowded::TimedOut);
    assert_eq!((began.elapsed(), gate.stats().waiting, gate.stats().keys), (settings.wait, 0, 1));

    let mut waiting = Vec::new();
    for key in [1, 1, 2] {
        let mut future = Box::pin(gate.enter(key));
        assert!(poll(future.as_mut()).is_pending());
        waiting.push(future);
    }
    assert_eq!(gate.enter(1).await.unwrap_err(), Crowded::QueueFull, "two wait under it");
    assert_eq!(gate.enter(2).await.unwrap_err(), Crowded::QueueFull, "three wait in all");
    let mut first = Box::pin(gate.enter(3));
    assert!(poll(first.as_mut()).is_pending(), "one may wait even so");
    drop((waiting, first));
    assert_eq!((gate.stats().waiting, gate.stats().keys), (0, 1));
}

#[tokio::test]
async fn a_grant_that_nobody_takes_goes_to_the_next() {
    let gate = gate(1);
    let held = gate.enter(0).await.unwrap();
    let mut gone = Box::pin(gate.enter(1));
    let mut next = pin!(gate.enter(2));
    assert!(poll(gone.as_mut()).is_pending() && poll(next.as_mut()).is_pending());
    drop(held);
    assert_eq!(gate.stats().held, 1, "granted to the first, who has not looked yet");
    drop(gone);
    let Poll::Ready(Ok(permit)) = poll(next.as_mut()) else { panic!("it is the second's now") };
    drop(permit);
    assert_eq!(gate.stats().keys, 0);
}

#[tokio::test]
async fn a_gate_that_shrinks_gives_out_no_more_and_one_that_grows_serves_who_waits() {
    let gate = gate(4);
    let held = [gate.enter(1).await.unwrap(), gate.enter(2).await.unwrap(), gate.enter(3).await.unwrap()];
    gate.resize(2);
    let mut waits = pin!(gate.enter(4));
    assert!(poll(waits.as_mut()).is_pending());
    let [first, second, third] = held;
    drop(first);
    assert!(poll(waits.as_mut()).is_pending(), "two of two are held");
    gate.resize(3);
    let Poll::Ready(Ok(permit)) = poll(waits.as_mut()) else { panic!("a third came in") };
    drop((permit, second, third));
    assert_eq!(gate.stats(), FairStats { permits: 3, held: 0, waiting: 0, keys: 0 });
}

#[tokio::test]
async fn a_hundred_thousand_who_were_served_leave_nothing_behind() {
    let gate = gate(10);
    for key in 0..100_000 {
        drop(gate.enter(key).await.unwrap());
    }
    assert_eq!(gate.stats().keys, 0);
    assert!(gate.inner.lock().keys.capacity() < 100);
}

/// Whoever comes, goes, gives up or is cut off: never more than there are, and all back in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_permit_is_lost_or_doubled_in_a_storm() {
    let gate = gate(7);
    let mut tasks = JoinSet::new();
    for seed in 0..16_u64 {
        let gate = gate.clone();
        tasks.spawn(async move {
            let mut rng = StdRng::seed_from_u64(seed);
            for _ in 0..2_000 {
                let patience = rng.random_range(1..4_u32);
                let mut future = Box::pin(gate.enter(rng.random_range(0..5)));
                let mut polls = 0;
                let permit = std::future::poll_fn(|context| {
                    polls += 1;
                    match future.as_mut().poll(context) {
                        Poll::Ready(permit) => Poll::Ready(permit.ok()),
                        Poll::Pending if polls >= patience => Poll::Ready(None),
                        Poll::Pending => {
                            context.waker().wake_by_ref();
                            Poll::Pending
                        }
                    }
                })
                .await;
                assert!(gate.stats().held <= 7);
                if permit.is_some() && rng.random_bool(0.5) {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert_eq!(gate.stats(), FairStats { permits: 7, held: 0, waiting: 0, keys: 0 });
}
