//! What is done on the side while clients are served.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::backend::Backend;
use crate::session::Context;
use crate::verify::TIDY_EVERY;

/// Greets every backend once, so that the first client is offered what they all can do. Bounded by
/// `backend_connect` and `backend_command`; serving does not depend on its success.
pub async fn greet_backends(context: &Context) {
    greet(context, |_| true).await;
}

/// Greets the backends nobody has greeted yet, as [`greet_backends`] does; those that clients of an earlier configuration
/// have taken up are greeted with the first session they can give.
pub(super) async fn greet_new_backends(context: &Context) {
    greet(context, |backend| backend.announced().is_none() && !backend.budget().is_scarce()).await;
}

async fn greet(context: &Context, whom: impl Fn(&Backend) -> bool) {
    let timeouts = &context.config.timeouts;
    let deadline = tokio::time::Instant::now() + timeouts.backend_connect + timeouts.backend_command;
    let backends = context.backends.iter().filter(|backend| whom(backend));
    join_all(backends.map(|backend| async move { backend.greet(deadline).await })).await;
}

/// Shares with other instances, where there are some: what they did is known here.
pub(super) async fn share(current: Arc<ArcSwap<Context>>, ending: CancellationToken) {
    let Some(tier) = current.load().tier.clone() else { return };
    let hear = |news| {
        let context = current.load();
        context.verifier.heard(news);
        context.harvest.heard(news);
    };
    ending.run_until_cancelled(tier.run(hear)).await;
}

/// How often clients are looked for that need not be remembered any more.
const FORGET_EVERY: Duration = Duration::from_secs(300);

/// Takes leave of idle sessions, forgets clients, looks after lists and certificates.
pub(super) async fn tidy(context: Arc<Context>, ending: CancellationToken) {
    let sweep = async {
        loop {
            tokio::time::sleep(TIDY_EVERY).await;
            context.backends.iter().for_each(|backend| backend.sweep());
        }
    };
    let forget = async {
        loop {
            tokio::time::sleep(FORGET_EVERY).await;
            context.harvest.sweep().await;
            let verifier = Arc::clone(&context.verifier);
            let _ = tokio::task::spawn_blocking(move || verifier.sweep()).await;
        }
    };
    tokio::select! {
        () = sweep => {}
        () = forget => {}
        () = context.verifier.watch_lists() => {}
        () = watch_certificates(&context) => {}
        () = ending.cancelled() => {}
    }
}

async fn watch_certificates(context: &Context) {
    match &context.acceptor {
        Some(acceptor) => acceptor.keyring().watch().await,
        None => std::future::pending().await,
    }
}
