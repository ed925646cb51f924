//! What is forgotten on one instance of a tier is forgotten on all of them, also on those that were away, and whatever becomes of the
//! Redis they share meanwhile.

mod support;

use futures_util::stream::{self, StreamExt as _};
use support::backend::{Backend, Script};
use support::instance::{Instance, KNOWN, UNKNOWN, backend, instances, until};
use support::redis::{Line, Redis, url};

/// Names nobody has, and how each is forgotten.
fn forgotten() -> [(&'static str, &'static str); 3] {
    [
        ("one@example.org", "/one@example.org"),
        ("two@example.org", "?domain=example.org"),
        ("three@example.org", ""),
    ]
}

/// Two instances of a tier, one of which has lost it.
struct Parted {
    store: Backend,
    redis: Redis,
    line: Line,
    one: Instance,
    apart: Instance,
}

impl Parted {
    async fn begin() -> Self {
        let ((store, backend), redis) = (backend().await, Redis::start(&[]).await);
        let line = Line::to(redis.address()).await;
        let one = Instance::joined(backend, &redis.url(), "").await;
        let apart = Instance::joined(backend, &url(line.address()), "").await;
        line.cut();
        apart.is_up(false).await;
        Self { store, redis, line, one, apart }
    }
}

async fn all_is_told(instance: &Instance) {
    until("all is told", async || {
        let status = instance.backstop.admin().await.get("/api/v1/status").await.json();
        status["cache"]["shared"]["waiting"] == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forgotten_is_forgotten_everywhere() {
    let ((store, backend), redis) = (backend().await, Redis::start(&[]).await);
    let [one, other] = instances(backend, &redis, "").await;
    for (name, how) in forgotten() {
        one.ask(name).await.is("550");
        until("the other instance knows", async || {
            other.ask(name).await.is("550");
            other.known_elsewhere("unknown").await >= 1.0 || store.record().rcpts_for(name) > 1
        })
        .await;
        let asked = store.record().rcpts_for(name);
        one.forget(how).await;
        // Neither from its own memory nor from the shared one.
        until("the other instance asks anew", async || {
            other.ask(name).await.is("550");
            store.record().rcpts_for(name) > asked
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_hears_what_was_forgotten_when_it_comes_back() {
    let ((store, backend), redis) = (backend().await, Redis::start(&[]).await);
    let mut line = Line::to(redis.address()).await;
    let one = Instance::joined(backend, &redis.url(), "").await;
    let away = Instance::joined(backend, &url(line.address()), "").await;
    for (number, what) in
        [format!("/{UNKNOWN}"), "?domain=example.org".to_owned(), String::new()].iter().enumerate()
    {
        away.ask(UNKNOWN).await.is("550");
        assert_eq!(store.record().rcpts_for(UNKNOWN), number + 1);
        line.cut();
        away.is_up(false).await;
        one.forget(what).await;
        away.ask(UNKNOWN).await.is("550");
        assert_eq!(store.record().rcpts_for(UNKNOWN), number + 1, "away it knows what it knew");
        line.mend().await;
        away.is_up(true).await;
        away.ask(UNKNOWN).await.is("550");
        assert_eq!(store.record().rcpts_for(UNKNOWN), number + 2, "after {what:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_instances_that_are_apart_forget_each_for_itself_both_forget() {
    for what in ["?domain=example.org", ""] {
        let ((store, backend), redis) = (backend().await, Redis::start(&[]).await);
        let (mut line, mut another) = (Line::to(redis.address()).await, Line::to(redis.address()).await);
        let one = Instance::joined(backend, &url(line.address()), "").await;
        let other = Instance::joined(backend, &url(another.address()), "").await;
        line.cut();
        another.cut();
        one.is_up(false).await;
        other.is_up(false).await;
        one.forget(what).await;
        other.forget(what).await;
        line.mend().await;
        one.is_up(true).await;
        all_is_told(&one).await;
        // The first learns what is true no longer when the second tells that it has forgotten.
        one.ask(UNKNOWN).await.is("550");
        store.rescript(|_| Script::knowing([KNOWN, UNKNOWN]));
        one.ask(UNKNOWN).await.is("550");
        another.mend().await;
        other.is_up(true).await;
        until("the first hears of it", async || one.ask(UNKNOWN).await.code == 250).await;
        // They agree: what one learns now the other knows.
        one.ask("nobody.else@example.org").await.is("550");
        until("the second knows what the first has learnt", async || {
            other.ask("nobody.else@example.org").await.is("550");
            other.known_elsewhere("unknown").await >= 1.0
        })
        .await;
        // And one more order reaches both.
        store.rescript(|_| Script::knowing([KNOWN]));
        other.forget(what).await;
        until("the first hears of that, too", async || one.ask(UNKNOWN).await.code == 550).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_forgets_everything_apart_forgets_too_what_others_forgot_afterwards() {
    for what in [format!("/{UNKNOWN}"), "?domain=example.org".to_owned()] {
        let Parted { store, redis: _redis, mut line, one, apart } = Parted::begin().await;
        apart.forget("").await;
        apart.ask(UNKNOWN).await.is("550");
        store.rescript(|_| Script::knowing([KNOWN, UNKNOWN]));
        one.forget(&what).await;
        all_is_told(&one).await;
        line.mend().await;
        apart.is_up(true).await;
        until("it asks anew", async || apart.ask(UNKNOWN).await.code == 250).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forgotten_apart_is_forgotten_too_by_those_that_forgot_everything_before() {
    for what in [format!("/{UNKNOWN}"), "?domain=example.org".to_owned()] {
        let Parted { store, redis, mut line, one, apart } = Parted::begin().await;
        one.forget("").await;
        one.ask(UNKNOWN).await.is("550");
        store.rescript(|_| Script::knowing([KNOWN, UNKNOWN]));
        apart.forget(&what).await;
        for other in ["one", "two", "three"] {
            apart.forget(&format!("/{other}@example.org")).await;
        }
        line.mend().await;
        apart.is_up(true).await;
        until("the other asks anew", async || one.ask(UNKNOWN).await.code == 250).await;
        // One order of an epoch that is over begins another; those behind it need none.
        all_is_told(&apart).await;
        assert_eq!(redis.command(&["HGET", "backstop:forgotten", "epoch"]).trim(), "3");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_told_twice_counts_once() {
    let ((_store, backend), redis) = (backend().await, Redis::start(&[]).await);
    let one = Instance::joined(backend, &redis.url(), "max_unknown_per_hour = 1").await;
    let mut client = one.client("203.0.113.66").await;
    for name in [UNKNOWN, "nobody.else@example.org"] {
        client.command(&format!("RCPT TO:<{name}>")).await.is("550");
    }
    drop(client);
    until("it is banned", async || one.connect("203.0.113.66").await.1.code == 421).await;
    all_is_told(&one).await;
    // Nobody knows whether it was done: it is told again.
    redis.freeze();
    one.forget("?domain=example.org").await;
    one.backstop.admin().await.delete("/api/v1/clients/203.0.113.66").await.is(200);
    one.backstop
        .admin()
        .await
        .until_metric("backstop_shared_operations_total{operation=\"tell\",result=\"slow\"}", 1.0)
        .await;
    redis.thaw();
    one.is_up(true).await;
    all_is_told(&one).await;
    assert_eq!(redis.command(&["HGET", "backstop:forgotten", "changes"]).trim(), "1");
    // What a client did in between would be forgiven, too.
    let log = redis.command(&["ZRANGE", "backstop:log", "0", "-1"]);
    assert_eq!(log.matches("pardoned").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_missed_what_the_log_let_go_forgets_everything() {
    let ((store, backend), redis) = (backend().await, Redis::start(&[]).await);
    let mut line = Line::to(redis.address()).await;
    let one = Instance::joined(backend, &redis.url(), "").await;
    let away = Instance::joined(backend, &url(line.address()), "").await;
    away.ask(UNKNOWN).await.is("550");
    line.cut();
    away.is_up(false).await;
    store.rescript(|_| Script::knowing([KNOWN, UNKNOWN]));
    one.forget(&format!("/{UNKNOWN}")).await;
    redis.until_keys("backstop:log", 1).await;
    redis.command(&["DEL", "backstop:log"]);
    away.ask(UNKNOWN).await.is("550");
    line.mend().await;
    away.is_up(true).await;
    until("it asks anew", async || away.ask(UNKNOWN).await.code == 250).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_forgotten_survives_a_redis_that_loses_everything() {
    for what in [format!("/{UNKNOWN}"), "?domain=example.org".to_owned(), String::new()] {
        let ((store, backend), mut redis) = (backend().await, Redis::start(&[]).await);
        let mut line = Line::to(redis.address()).await;
        let one = Instance::joined(backend, &redis.url(), "").await;
        let away = Instance::joined(backend, &url(line.address()), "").await;
        away.ask(UNKNOWN).await.is("550");
        line.cut();
        away.is_up(false).await;
        store.rescript(|_| Script::knowing([KNOWN, UNKNOWN]));
        one.forget(&what).await;
        until("it is told", async || redis.command(&["KEYS", "backstop:o:*"]).contains("backstop:o:")).await;
        redis.kill();
        one.is_up(false).await;
        redis.revive().await;
        one.is_up(true).await;
        line.mend().await;
        away.is_up(true).await;
        until("who was away hears of it", async || away.ask(UNKNOWN).await.code == 250).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_to_forget_that_are_too_many_to_wait_forget_everything() {
    let ((store, backend), redis) = (backend().await, Redis::start(&[]).await);
    let mut line = Line::to(redis.address()).await;
    let one = Instance::joined(backend, &redis.url(), "").await;
    let away = Instance::joined(backend, &url(line.address()), "").await;
    one.ask(UNKNOWN).await.is("550");
    line.cut();
    away.is_up(false).await;
    store.rescript(|_| Script::knowing([KNOWN, UNKNOWN]));
    // The first of them is what counts, and it is the first that would be lost.
    away.forget(&format!("/{UNKNOWN}")).await;
    let forgetting = stream::iter(0..10_000).map(|n| {
        let (away, name) = (&away, format!("/name{n}@example.org"));
        async move { away.forget(&name).await }
    });
    forgetting.buffer_unordered(64).collect::<Vec<()>>().await;
    one.ask(UNKNOWN).await.is("550");
    line.mend().await;
    away.is_up(true).await;
    until("the other one asks anew", async || one.ask(UNKNOWN).await.code == 250).await;
}
