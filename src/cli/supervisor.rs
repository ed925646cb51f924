//! What systemd is told (`sd_notify(3)`): that we serve, that we end, and, where it asks for that, that we are alive. Without
//! systemd nothing happens.

use sd_notify::NotifyState;

/// All listeners accept.
pub(super) fn ready() {
    tell(NotifyState::Ready);
    if let Some(period) = sd_notify::watchdog_enabled() {
        // From a task of the runtime: one that is stuck tells nothing, and is ended.
        tokio::spawn(async move {
            let mut beats = tokio::time::interval(period / 3);
            loop {
                beats.tick().await;
                tell(NotifyState::Watchdog);
            }
        });
    }
}

/// No new clients; the rest takes as long as it takes.
pub(super) fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    // Who does not listen need not know.
    let _ = sd_notify::notify(&[state]);
}
