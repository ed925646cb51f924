//! Another configuration, taken over while clients are served: all of it, or nothing.
//!
//! What it needs is made first: its shared parts, the sockets it adds, a first look at its backends. Only then it is put in
//! force, with no step left that can fail. Sessions keep what they began with; whoever comes later gets the new. A listener that
//! stays keeps its socket, so there is no moment without one. What only the old one used keeps serving its sessions, within the same budget, and nothing else.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::assemble::{named_by, reassemble};
use super::housekeeping::greet_new_backends;
use super::listen::{Door, Place};
use super::{Bound, LOOKED_UP, Server, StartFault, say_what_is_not_permitted};
use crate::admin::Panel;
use crate::config::{Changes, Config, Mode, RecipientSource, Route};
use crate::net::inherited::Inherited;
use crate::observe::metrics::Metrics;
use crate::observe::{Alarm, AlarmKind};
use crate::proto::address::Domain;
use crate::session::Context;

/// What was taken over.
#[derive(Debug, Clone)]
pub struct Reloaded {
    /// Which configuration since the start this is.
    pub generation: u64,
    /// Keys that changed.
    pub changed: usize,
    /// Of them those that take effect with a restart alone.
    pub late: Vec<String>,
    /// Sockets that were added.
    pub opened: Vec<Bound>,
    /// Sockets that were closed.
    pub closed: Vec<Bound>,
}

impl Server {
    /// Puts `config` in force. Certificates are read again in any case.
    ///
    /// # Errors
    /// [`StartFault`]; nothing has changed then.
    pub async fn reload(&mut self, mut config: Config) -> Result<Reloaded, StartFault> {
        let old = self.context();
        let changes = Changes::take_over(&old.config, &mut config);
        let opened = self.bind_new(&config, &old)?;
        let new = Arc::new(reassemble(&old, config, &changes, &self.dialer)?);
        say_what_is_not_permitted(&new.config);
        let replaced = self.parted.child_token();
        new.backends.follow(&self.parted, LOOKED_UP).await;
        let greeted = Arc::clone(&new);
        let greeting = tokio::spawn(async move {
            tokio::join!(greet_new_backends(&greeted), greeted.verifier.test_relays());
        });
        // One that does not answer is greeted on the side.
        let _ = timeout(LOOKED_UP, greeting).await;
        let late = self.late(&changes, &new);
        let reloaded = self.put_in_force(&new, opened, late, changes.count(), replaced);
        if let Some(acceptor) = &new.acceptor {
            acceptor.keyring().reread();
        }
        old.verifier.leave_but_for(&new.verifier);
        old.backends.stand_down_but_for(&new.backends);
        new.backends.take_effect();
        Ok(reloaded)
    }

    /// The doors that `config` wants and we have not.
    fn bind_new(&self, config: &Config, old: &Arc<Context>) -> Result<Vec<Door>, StartFault> {
        let missing = Place::all(config)
            .filter(|(place, _)| !self.doors.iter().any(|door| place.is_that_of(door.place())));
        missing.map(|place| Door::bind(place, &mut Inherited::default(), old)).collect()
    }

    /// What changes and takes effect with a restart alone.
    fn late(&self, changes: &Changes, new: &Context) -> Vec<String> {
        let differ = Place::all(&new.config).filter(|(place, _)| {
            self.doors.iter().any(|door| place.is_that_of(door.place()) && door.differs_from(place))
        });
        let sockets =
            differ.map(|(_, listener)| format!("listener {:?}: transparent, reuse_port", listener.name));
        changes.late().iter().cloned().chain(sockets).collect()
    }

    /// Nothing here can fail, nor waits.
    fn put_in_force(
        &mut self,
        new: &Arc<Context>,
        mut added: Vec<Door>,
        late: Vec<String>,
        changed: usize,
        replaced: CancellationToken,
    ) -> Reloaded {
        let limits = &new.config.limits;
        new.connections.set_limits(limits.max_connections, limits.max_connections_per_client);
        new.harvest.set_limits(new.config.harvest.clone());
        let wanted: Vec<_> = Place::all(&new.config).collect();
        let find = |door: &Door| wanted.iter().find(|(place, _)| place.is_that_of(door.place()));
        let (mut kept, gone): (Vec<Door>, Vec<Door>) =
            self.doors.drain(..).partition(|door| find(door).is_some());
        for door in &mut kept {
            if let Some((_, listener)) = find(door) {
                door.serves(listener, new);
            }
        }
        for door in &gone {
            door.close();
            self.dialer.is_not_ours(door.bound.address);
        }
        for door in &mut added {
            if let Some((_, listener)) = find(door) {
                door.serves(listener, new);
            }
            self.dialer.is_ours(door.bound.address);
            door.open(&self.sessions);
        }
        let bounds = |doors: &[Door]| doors.iter().map(|door| door.bound.clone()).collect::<Vec<_>>();
        let (opened, closed) = (bounds(&added), bounds(&gone));
        self.doors = kept;
        self.doors.append(&mut added);
        let admin = self.bound.iter().filter(|bound| &*bound.name == "admin").cloned().collect::<Vec<_>>();
        self.bound = bounds(&self.doors).into_iter().chain(admin).collect();
        std::mem::replace(&mut self.replaced, replaced).cancel();
        forget(&self.context().config, &new.config, &new.metrics);
        let old = self.context();
        new.alarms.keep(|alarm| {
            let same_store = new.verifier.asks_as(&old.verifier, &alarm.route);
            concerns(alarm, &new.config) && (same_store || !is_about_the_store(alarm.kind))
        });
        self.current.store(Arc::clone(new));
        let panel = self.panel.load().showing(new);
        let generation = panel.generation;
        self.panel.store(Arc::new(panel));
        self.keep_house(new);
        Reloaded { generation, changed, late, opened, closed }
    }
}

/// Takes the numbers of what is not there any more out of sight: it would be seen as down, or ending, for ever.
fn forget(old: &Config, new: &Config, metrics: &Metrics) {
    let backends = |config: &Config| -> HashSet<(Arc<str>, String)> {
        let by_route = config
            .routes
            .iter()
            .flat_map(|route| named_by(route).map(|n| (Arc::clone(&route.name), n.to_string())));
        by_route.collect()
    };
    for (route, backend) in backends(old).difference(&backends(new)) {
        metrics.forget_backend(route, backend);
    }
    let routes = |config: &Config| -> HashSet<(Arc<str>, bool)> {
        config.routes.iter().map(|route| (Arc::clone(&route.name), asks_a_store(route))).collect()
    };
    routes(old).difference(&routes(new)).for_each(|(route, _)| metrics.forget_route(route));
    let chains = |config: &Config| -> HashSet<PathBuf> {
        config.tls.certificates.iter().map(|certificate| certificate.files.chain.clone()).collect()
    };
    for chain in chains(old).difference(&chains(new)) {
        metrics.forget_certificate(&chain.to_string_lossy());
    }
}

/// Whether a mail store is asked about its recipients.
fn asks_a_store(route: &Route) -> bool {
    route.verify.mode != Mode::Off && matches!(route.verify.source, RecipientSource::Callout { .. })
}

/// Whether an alarm is about something that is still there, and still looked at.
fn concerns(alarm: &Alarm, config: &Config) -> bool {
    let Some(route) = config.routes.iter().find(|route| route.name == alarm.route) else { return false };
    if is_about_the_store(alarm.kind) && !asks_a_store(route) {
        return false;
    }
    let is_covered = |domain: Domain| config.routes.find(&domain).is_some_and(|of| of.name == route.name);
    alarm.about.is_empty()
        || route.domains.iter().any(|pattern| pattern.to_string() == alarm.about)
        || Domain::parse(&alarm.about).is_ok_and(is_covered)
}

/// Whether it was found by asking about recipients: who asks others in its place finds their faults anew.
const fn is_about_the_store(kind: AlarmKind) -> bool {
    !matches!(kind, AlarmKind::OpenRelay | AlarmKind::RelayUntested)
}

impl Panel {
    /// The same, of another configuration.
    fn showing(&self, context: &Context) -> Self {
        Self {
            config: Arc::clone(&context.config),
            verifier: Arc::clone(&context.verifier),
            backends: Arc::clone(&context.backends),
            keyring: context.acceptor.as_ref().map(|acceptor| Arc::clone(acceptor.keyring())),
            token: context.config.admin.as_ref().and_then(|admin| admin.token.clone()),
            generation: self.generation + 1,
            ..self.clone()
        }
    }
}
