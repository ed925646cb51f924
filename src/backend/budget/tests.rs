//! The budget's promises, each by name, on a paused clock; and all of them at once under chance.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use tokio::task::{JoinHandle, JoinSet, yield_now};
use tokio::time::{advance, sleep, timeout};

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(1);

fn client(number: u8) -> Use {
    Use::Delivery(ClientKey::of(IpAddr::V4(Ipv4Addr::new(192, 0, 2, number))))
}

/// As many permits as there are without waiting.
async fn all(budget: &Arc<Budget>, purpose: Use) -> Vec<Permit> {
    let mut held = Vec::new();
    while let Ok(permit) = timeout(Duration::ZERO, budget.permit(purpose)).await {
        held.push(permit);
    }
    held
}

/// Waits for a slot in a task of its own; it is in line when this returns.
async fn waiter(budget: &Arc<Budget>, purpose: Use) -> JoinHandle<Permit> {
    let before = budget.account();
    let task = tokio::spawn({
        let budget = Arc::clone(budget);
        async move { budget.permit(purpose).await }
    });
    while budget.account() == before {
        yield_now().await;
    }
    task
}

async fn settled() {
    for _ in 0..20 {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_limit_holds_at_once_and_nothing_is_cut() {
    let budget = Budget::new(10);
    let mut held = all(&budget, client(1)).await;
    assert_eq!(held.len(), 9);
    budget.allow(4);
    let waiting = waiter(&budget, client(2)).await;
    held.truncate(3);
    settled().await;
    assert!(!waiting.is_finished(), "three of four are for deliveries");
    held.truncate(2);
    held.push(waiting.await.unwrap());
    let waiting = waiter(&budget, client(2)).await;
    budget.allow(10);
    held.push(waiting.await.unwrap());
    assert_eq!(budget.account().limit, 10);
    // What the backend refused stays refused, and grows back as far as it may now.
    assert_eq!(budget.refused(budget.round()), Shrunk::To(5));
    budget.allow(20);
    assert_eq!((budget.account().limit, budget.account().configured), (5, 20));
    advance(MINUTE).await;
    assert_eq!(budget.account().limit, 6);
    budget.allow(3);
    assert_eq!(budget.account().limit, 3);
}

#[tokio::test(start_paused = true)]
async fn neither_use_can_starve_the_other() {
    for (connections, probes, deliveries) in [(45, 22, 41), (18, 9, 17), (2, 1, 1), (10, 5, 9)] {
        let budget = Budget::new(connections);
        let held = all(&budget, client(1)).await;
        assert_eq!(held.len(), deliveries, "of {connections}");
        assert_eq!(all(&budget, Use::Probe).await.len(), connections - deliveries);
        drop(held);
        let held = all(&budget, Use::Probe).await;
        assert_eq!(held.len(), probes, "of {connections}");
        assert_eq!(all(&budget, client(1)).await.len(), (connections - probes).min(deliveries));
    }
}

#[tokio::test(start_paused = true)]
async fn clients_that_wait_are_served_in_turn() {
    let budget = Budget::new(2);
    let held = budget.permit(client(9)).await;
    let mut waiters = Vec::new();
    for number in [1, 1, 1, 2, 3] {
        waiters.push((number, waiter(&budget, client(number)).await));
    }
    drop(held);
    let mut served = Vec::new();
    while !waiters.is_empty() {
        settled().await;
        let at = waiters.iter().position(|(_, task)| task.is_finished()).expect("somebody is served");
        let (number, task) = waiters.remove(at);
        served.push(number);
        drop(task.await.unwrap());
    }
    assert_eq!(served, [1, 2, 3, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn all_behind_one_address_are_served_in_their_order() {
    let budget = Budget::new(2);
    let held = budget.permit(client(1)).await;
    let mut waiters = Vec::new();
    for _ in 0..10 {
        waiters.push(waiter(&budget, client(1)).await);
    }
    drop(held);
    for waiter in waiters {
        drop(waiter.await.unwrap());
    }
    assert!(budget.is_unused());
}

#[tokio::test(start_paused = true)]
async fn a_slot_both_uses_could_have_goes_to_each_in_turn() {
    let budget = Budget::new(10);
    let mut held = all(&budget, client(1)).await;
    held.truncate(8);
    let probe = budget.permit(Use::Probe).await;
    let _probe = budget.permit(Use::Probe).await;
    assert_eq!(budget.free(), 0);
    let (first, second) = (waiter(&budget, Use::Probe).await, waiter(&budget, client(2)).await);
    let (third, fourth) = (waiter(&budget, Use::Probe).await, waiter(&budget, client(3)).await);
    drop(probe);
    settled().await;
    let finished = [&first, &second, &third, &fourth].map(JoinHandle::is_finished);
    assert_eq!(finished, [false, true, false, false]);
    drop(held.pop());
    settled().await;
    let finished = [&first, &second, &third, &fourth].map(JoinHandle::is_finished);
    assert_eq!(finished, [true, true, false, false]);
}

#[tokio::test(start_paused = true)]
async fn too_many_connections_halves_and_a_minute_gives_one_back() {
    let budget = Budget::new(45);
    for limit in [22, 11, 5, 2, 2] {
        assert_eq!(budget.refused(budget.round()), Shrunk::To(limit));
        assert_eq!(budget.account().limit, limit);
    }
    assert_eq!(budget.account().refusals, 5);
    assert_eq!((all(&budget, Use::Probe).await.len(), all(&budget, client(1)).await.len()), (1, 1));
    for limit in 3..=45 {
        advance(MINUTE - MOMENT).await;
        assert_eq!(budget.account().limit, limit - 1);
        advance(MOMENT).await;
        assert_eq!(budget.account().limit, limit);
    }
    advance(MINUTE * 10).await;
    assert_eq!(budget.account().limit, 45);
    budget.refused(budget.round());
    assert_eq!(budget.account().limit, 22, "the time at the top does not count as growth");
}

#[tokio::test(start_paused = true)]
async fn refusals_of_connections_begun_together_halve_once() {
    let budget = Budget::new(40);
    let began = budget.round();
    assert_eq!(budget.refused(began), Shrunk::To(20));
    for _ in 0..10 {
        assert_eq!(budget.refused(began), Shrunk::Before);
    }
    assert_eq!(budget.account().limit, 20);
    assert_eq!(budget.refused(budget.round()), Shrunk::To(10));
}

#[tokio::test(start_paused = true)]
async fn what_is_open_above_a_shrunken_budget_is_not_replaced() {
    let budget = Budget::new(20);
    let mut held = all(&budget, client(1)).await;
    assert_eq!(held.len(), 18);
    budget.refused(budget.round());
    assert_eq!((budget.account().limit, budget.free()), (10, 0));
    held.truncate(9);
    assert!(all(&budget, client(2)).await.is_empty(), "deliveries are at their most");
    assert_eq!(all(&budget, Use::Probe).await.len(), 1);
    drop(held.pop());
    assert_eq!(all(&budget, client(2)).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_served_when_the_budget_grows() {
    let budget = Budget::new(4);
    let mut held = all(&budget, client(1)).await;
    assert_eq!(held.len(), 3);
    let waiter = waiter(&budget, client(2)).await;
    budget.refused(budget.round());
    held.truncate(1);
    settled().await;
    assert!(!waiter.is_finished());
    let began = Instant::now();
    let granted = timeout(MINUTE * 2, waiter).await.expect("the budget grows").unwrap();
    assert_eq!(began.elapsed().as_secs(), 60);
    drop(granted);
}

#[tokio::test(start_paused = true)]
async fn pressure_gives_fewer_at_once_for_as_long_as_it_lasts() {
    let budget = Budget::new(40);
    assert_eq!(budget.at_once(16), 16);
    budget.pressed();
    budget.pressed();
    assert_eq!((budget.account().limit, budget.at_once(16)), (20, 8), "words at one time are one");
    for _ in 0..10 {
        advance(PRESSURE).await;
        budget.pressed();
    }
    assert_eq!((budget.account().limit, budget.at_once(16), budget.at_once(1)), (5, 2, 1));
    for limit in [10, 20, 40] {
        advance(RELIEF).await;
        assert_eq!(budget.account().limit, limit);
    }
    assert!(!budget.account().pressed);
    assert_eq!(budget.account().refusals, 0);
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_connections_are_opened_a_few_at_a_time() {
    let budget = Budget::new(20);
    let openings = async || {
        let mut openings = Vec::new();
        while let Ok(opening) = timeout(Duration::ZERO, budget.opening()).await {
            openings.push(opening);
            if openings.len() == 100 {
                break;
            }
        }
        openings
    };
    assert_eq!(openings().await.len(), 100);
    budget.begin_slowly();
    for few in [2, 4, 8, 16] {
        let mut begun = openings().await;
        assert_eq!(begun.len(), few);
        assert_eq!(budget.account().opening_slowly, Some(few));
        let waiting = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { drop(budget.opening().await) }
        });
        settled().await;
        assert!(!waiting.is_finished());
        drop(begun.pop());
        settled().await;
        assert!(waiting.is_finished(), "one that failed makes room");
        begun.pop().unwrap().succeeded();
    }
    assert_eq!(budget.account().opening_slowly, None);
    assert_eq!(openings().await.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn slots_are_scarce_at_four_fifths_or_when_a_client_waits() {
    let budget = Budget::new(10);
    let mut held = all(&budget, client(1)).await;
    held.truncate(8);
    assert!(budget.is_scarce());
    held.truncate(7);
    assert!(!budget.is_scarce());
    drop(held);
    let smallest = Budget::new(2);
    let _one = smallest.permit(client(1)).await;
    assert!(!smallest.is_scarce());
    let waiting = waiter(&smallest, client(2)).await;
    assert!(smallest.is_scarce());
    waiting.abort();
    let _ = waiting.await;
    assert!(!smallest.is_scarce(), "who gave up does not count");
}

#[tokio::test(start_paused = true)]
async fn unused_waits_for_the_last_permit() {
    let budget = Budget::new(5);
    budget.unused().await;
    let (one, two) = (budget.permit(Use::Probe).await, budget.permit(client(1)).await);
    let unused = tokio::spawn({
        let budget = Arc::clone(&budget);
        async move { budget.unused().await }
    });
    drop(one);
    settled().await;
    assert!(!unused.is_finished());
    drop(two);
    timeout(MINUTE, unused).await.unwrap().unwrap();
}

/// What one of many who use a budget does.
#[derive(Debug, Clone, Copy)]
struct Act {
    purpose: u8,
    begins: u64,
    patience: u64,
    opens: bool,
    holds: u64,
    then: Then,
}

/// A panic that was asked for, unlike that of an assertion.
struct AsTold;

#[derive(Debug, Clone, Copy)]
enum Then {
    Succeeds,
    Fails,
    Refused,
    Pressed,
    Panics,
    Cancelled,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let then = prop_oneof![
        4 => Just(Then::Succeeds),
        1 => Just(Then::Fails),
        1 => Just(Then::Refused),
        1 => Just(Then::Pressed),
        1 => Just(Then::Panics),
        2 => Just(Then::Cancelled),
    ];
    let act = (0_u8..5, 0_u64..200, 0_u64..60, any::<bool>(), 0_u64..40, then).prop_map(
        |(purpose, begins, patience, opens, holds, then)| Act {
            purpose,
            begins,
            patience,
            opens,
            holds,
            then,
        },
    );
    proptest::collection::vec(act, 1..60)
}

async fn act(budget: Arc<Budget>, act: Act) {
    sleep(Duration::from_millis(act.begins * 100)).await;
    let purpose = if act.purpose == 0 { Use::Probe } else { client(act.purpose) };
    let patience = Duration::from_millis(act.patience * 100);
    let Ok(permit) = timeout(patience, budget.permit(purpose)).await else { return };
    let round = budget.round();
    let opening = if act.opens { timeout(patience, budget.opening()).await.ok() } else { None };
    sleep(Duration::from_millis(act.holds * 100)).await;
    let account = budget.account();
    assert!(account.probes + account.deliveries <= account.configured);
    assert!(account.probes <= (account.configured / 2).max(1));
    assert!(account.deliveries <= account.configured - (account.configured / 10).max(1));
    match act.then {
        Then::Succeeds => opening.into_iter().for_each(Opening::succeeded),
        Then::Fails => budget.begin_slowly(),
        Then::Refused => drop(budget.refused(round)),
        Then::Pressed => budget.pressed(),
        Then::Panics => std::panic::resume_unwind(Box::new(AsTold)),
        Then::Cancelled => std::future::pending().await,
    }
    drop(permit);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn permits_never_leak_and_who_gives_up_leaves_no_trace(connections in 1_usize..12, acts in acts()) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let budget = Budget::new(connections);
            let mut actors = JoinSet::new();
            for one in &acts {
                let acting = act(Arc::clone(&budget), *one);
                // Some are cut off wherever they are.
                actors.spawn(timeout(Duration::from_secs(20 + one.holds), acting));
            }
            while let Some(ended) = actors.join_next().await {
                assert!(ended.is_ok() || ended.is_err_and(|fault| {
                    fault.try_into_panic().is_ok_and(|why| why.is::<AsTold>())
                }));
            }
            let account = budget.account();
            assert_eq!((account.probes, account.deliveries), (0, 0));
            assert_eq!((account.waiting_probes, account.waiting_deliveries), (0, 0));
            {
                let state = budget.state();
                assert_eq!(state.openings, 0);
                assert!(state.waiting_openings.is_empty());
            }
            timeout(MOMENT, budget.unused()).await.expect("nobody holds a slot");
            sleep(MINUTE * 12).await;
            let most = (connections.max(2) / 2).max(1);
            assert_eq!(all(&budget, Use::Probe).await.len(), most, "all of it is there again");
        });
    }
}
