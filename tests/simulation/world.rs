//! What is true in a simulated world: who has a mailbox where, what the stores hold, what they were asked, and what
//! is broken when. The promises are held against it here; what breaks one is noted, not panicked over, so that
//! one seed tells all it has to tell.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::chance::Chance;

/// The backends there are: name, whose mailboxes they know, and what they are for.
pub(crate) const BACKENDS: [Backend; 5] = [
    Backend { name: "a1", domain: "a.example", knows: Knows::Recipients },
    Backend { name: "a2", domain: "a.example", knows: Knows::Recipients },
    Backend { name: "b1", domain: "b.example", knows: Knows::Nobody },
    Backend { name: "b2", domain: "b.example", knows: Knows::Recipients },
    Backend { name: "c1", domain: "c.example", knows: Knows::Recipients },
];

/// A backend that does not change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backend {
    pub(crate) name: &'static str,
    pub(crate) domain: &'static str,
    pub(crate) knows: Knows,
}

/// Whether a backend tells its recipients from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Knows {
    Recipients,
    /// It takes everyone at RCPT, as Exchange does at its front.
    Nobody,
}

/// What kind of world it is, by its seed.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    /// Replies of backends that go wrong, of a thousand. None in a calm world, where everything must succeed.
    pub(crate) faults: u64,
    /// Backends that say things twice: who was meant by what is anybody's guess then.
    pub(crate) twice: bool,
    pub(crate) pipelining: [bool; BACKENDS.len()],
    pub(crate) chunking: bool,
    /// From before EHLO.
    pub(crate) helo_only: [bool; BACKENDS.len()],
    /// Refusals after which a backend hangs up.
    pub(crate) refusals: u32,
    /// Connections a backend takes.
    pub(crate) connections: usize,
    /// Connections it is promised not to be given more of.
    pub(crate) quota: usize,
    /// How long a refusal takes.
    pub(crate) tarpit: Duration,
    /// Recipients a backend takes in a transaction.
    pub(crate) recipients: usize,
    pub(crate) normalize: bool,
    pub(crate) live: bool,
    pub(crate) drain: bool,
    /// A line of its own is put before each message.
    pub(crate) received: bool,
}

impl Weather {
    pub(crate) fn of(seed: u64) -> Self {
        let mut chance = Chance::of_part(seed, 1, 0);
        let faults = chance.pick(&[0, 5, 20, 60]);
        let calm = faults == 0;
        let quota = if calm { 40 } else { chance.pick(&[2, 4, 10, 20]) };
        let limit = |chance: &mut Chance, tight: usize| {
            if calm || chance.one_in(2) { usize::MAX } else { tight }
        };
        Self {
            faults,
            twice: !calm && chance.one_in(4),
            pipelining: std::array::from_fn(|_| !chance.one_in(4)),
            chunking: chance.one_in(2),
            helo_only: std::array::from_fn(|_| chance.one_in(12)),
            refusals: if calm || chance.one_in(2) {
                u32::MAX
            } else {
                2 + u32::try_from(chance.below(8)).unwrap()
            },
            connections: limit(&mut chance, 3),
            quota,
            tarpit: if calm || chance.one_in(2) { Duration::ZERO } else { Duration::from_secs(2) },
            recipients: limit(&mut chance, 3),
            normalize: chance.one_in(2),
            live: chance.one_in(2),
            drain: !calm && chance.one_in(3),
            received: chance.one_in(2),
        }
    }

    pub(crate) const fn is_calm(&self) -> bool {
        self.faults == 0
    }
}

/// A whole message as a backend has it.
#[derive(Debug)]
struct Copy {
    recipients: Vec<String>,
    content: Vec<u8>,
    /// What the backend said of it, once it has.
    word: Option<u16>,
}

/// What a client sent.
#[derive(Debug, Default)]
struct Sent {
    /// To its end: what of it is stored before that is an invention.
    whole: bool,
    /// As it must be stored; none where it must not.
    content: Option<Vec<u8>>,
    told: Option<u16>,
    /// A backend has refused it with this code.
    refused: Option<u16>,
    /// Nobody was there to hear the answer.
    left: bool,
}

/// All of it.
pub(crate) struct World {
    pub(crate) weather: Weather,
    began: Instant,
    /// Backends that take nobody until then.
    down: [Option<Instant>; BACKENDS.len()],
    /// Told when a backend restarts.
    pub(crate) restarts: [Rc<Notify>; BACKENDS.len()],
    open: [usize; BACKENDS.len()],
    /// Connections a backend had at most.
    pub(crate) most_open: [usize; BACKENDS.len()],
    greylisted: HashMap<(bool, String), Instant>,
    /// Recipients some probe has found good, or that a backend would not speak about.
    forwardable: HashSet<String>,
    pending: BTreeMap<String, u32>,
    /// Domains whose backends said something twice.
    pub(crate) lied: BTreeSet<&'static str>,
    copies: BTreeMap<String, Vec<Copy>>,
    sent: BTreeMap<String, Sent>,
    pub(crate) faults: Vec<String>,
    trace: DefaultHasher,
    pub(crate) tally: Tally,
}

/// What happened, so that a simulation of nothing is seen for what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) sessions: u64,
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) deferred: u64,
    pub(crate) accepted: u64,
    pub(crate) unknown: u64,
    pub(crate) undetermined: u64,
    pub(crate) probes: u64,
    pub(crate) connections: u64,
    pub(crate) vanished: u64,
}

impl World {
    pub(crate) fn new(weather: Weather) -> Self {
        Self {
            weather,
            began: Instant::now(),
            down: [None; BACKENDS.len()],
            restarts: std::array::from_fn(|_| Rc::default()),
            open: [0; BACKENDS.len()],
            most_open: [0; BACKENDS.len()],
            greylisted: HashMap::new(),
            forwardable: HashSet::new(),
            pending: BTreeMap::new(),
            lied: BTreeSet::new(),
            copies: BTreeMap::new(),
            sent: BTreeMap::new(),
            faults: Vec::new(),
            trace: DefaultHasher::new(),
            tally: Tally::default(),
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// A promise is broken.
    pub(crate) fn broken(&mut self, what: &str) {
        self.faults.push(format!("at {:?}: {what}", self.now()));
    }

    /// Something happened; two runs of one seed are the same if all of this is.
    pub(crate) fn happens(&mut self, what: &str) {
        (self.now(), what).hash(&mut self.trace);
    }

    /// What all that happened comes to.
    pub(crate) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    pub(crate) fn goes_down(&mut self, backend: usize, time: Duration) {
        self.down[backend] = Some(Instant::now() + time);
    }

    pub(crate) fn is_down(&self, backend: usize) -> bool {
        self.down[backend].is_some_and(|until| Instant::now() < until)
    }

    pub(crate) fn connected(&mut self, backend: usize) -> usize {
        self.open[backend] += 1;
        self.tally.connections += 1;
        self.most_open[backend] = self.most_open[backend].max(self.open[backend]);
        if self.open[backend] > self.weather.quota {
            self.broken(&format!(
                "{} has {} connections, {} are its quota",
                BACKENDS[backend].name, self.open[backend], self.weather.quota
            ));
        }
        self.open[backend]
    }

    pub(crate) fn disconnected(&mut self, backend: usize) {
        self.open[backend] -= 1;
    }

    /// Whether the mailbox exists now.
    pub(crate) fn exists(&self, recipient: &str) -> bool {
        let new = recipient.starts_with("new") && self.now() > Duration::from_secs(200);
        new || ["good", "grey", "full"].iter().any(|kind| recipient.starts_with(kind))
    }

    /// Whether a greylist still turns this away.
    pub(crate) fn is_greylisted(&mut self, probe: bool, recipient: &str) -> bool {
        let now = Instant::now();
        let first = *self.greylisted.entry((probe, recipient.to_owned())).or_insert(now);
        recipient.starts_with("grey") && now - first < Duration::from_secs(60)
    }

    /// A probe asks about a recipient.
    pub(crate) fn asked(&mut self, backend: usize, recipient: &str) {
        self.tally.probes += 1;
        let under_way = self.pending.entry(recipient.to_owned()).or_default();
        *under_way += 1;
        // Somebody who is known may be asked about for comparison besides.
        let most = if self.forwardable.contains(recipient) { 2 } else { 1 };
        if *under_way > most {
            self.broken(&format!(
                "{recipient} is asked about several times at once at {}",
                BACKENDS[backend].name
            ));
        }
    }

    /// It was answered, with this code, or never will be.
    pub(crate) fn answered(&mut self, recipient: &str, code: Option<u16>) {
        match self.pending.get_mut(recipient) {
            Some(under_way @ 2..) => *under_way -= 1,
            _ => drop(self.pending.remove(recipient)),
        }
        let Some(code) = code else { return };
        // A full mailbox exists.
        let full = code == 452 && recipient.starts_with("full");
        let grey = self.weather.live && code == 450;
        if code / 100 == 2 || full || grey {
            self.forwardable.insert(recipient.to_owned());
        }
    }

    /// The delivery port is given a recipient.
    pub(crate) fn forwarded(&mut self, backend: usize, recipient: &str) {
        let Backend { domain, name, .. } = BACKENDS[backend];
        if !recipient.ends_with(&format!("@{domain}")) {
            self.broken(&format!("{name} is given {recipient}"));
        }
        if !self.forwardable.contains(recipient) && self.must_know(domain) {
            self.broken(&format!("{name} is given {recipient}, whom no probe found good"));
        }
    }

    /// Whether everybody who is taken in the domain must have been found good: who the store does not speak about is
    /// for the delivery port to judge where that is wanted, and what is said twice answers anything.
    pub(crate) fn must_know(&self, domain: &str) -> bool {
        !self.lied.contains(domain) && (self.weather.is_calm() || !self.weather.live)
    }

    /// A client begins to send a message.
    pub(crate) fn begins(&mut self, id: &str, content: Option<Vec<u8>>) {
        self.sent.insert(id.to_owned(), Sent { content, ..Sent::default() });
    }

    /// It has sent the whole of it.
    pub(crate) fn ends(&mut self, id: &str) {
        self.sent.get_mut(id).unwrap().whole = true;
    }

    /// Whether its client has sent all of this message.
    pub(crate) fn is_whole(&self, content: &[u8]) -> bool {
        self.sent.get(&id(&self.without_trace(content.to_vec()))).is_none_or(|sent| sent.whole)
    }

    /// A message without the line that was put before it, where one must have been.
    fn without_trace(&self, content: Vec<u8>) -> Vec<u8> {
        if !self.weather.received || !content.starts_with(b"Received: ") {
            return content;
        }
        let ends = memchr::memmem::find_iter(&content, b"\r\n").map(|end| end + 2);
        let end = ends.into_iter().find(|end| content.get(*end) != Some(&b'\t'));
        content[end.unwrap_or(content.len())..].to_vec()
    }

    /// The client is gone, or will not hear what becomes of the message.
    pub(crate) fn leaves(&mut self, id: &str) {
        self.sent.get_mut(id).unwrap().left = true;
    }

    /// A backend has a whole message. Gives the number of the copy.
    pub(crate) fn stored(&mut self, recipients: &[String], content: Vec<u8>) -> (String, usize) {
        let content = self.without_trace(content);
        let id = id(&content);
        match self.sent.get(&id) {
            None => self.broken(&format!("a message that nobody sent: {}", content.escape_ascii())),
            Some(sent) if !sent.whole => self.broken(&format!("{id} was stored before its end was sent")),
            Some(sent) if sent.content.is_none() => {
                self.broken(&format!("{id} was stored, with bare newlines"));
            }
            Some(_) => {}
        }
        let copies = self.copies.entry(id.clone()).or_default();
        copies.push(Copy { recipients: recipients.to_vec(), content, word: None });
        let number = copies.len();
        if number > 1 {
            self.broken(&format!("{id} was stored {number} times"));
        }
        (id, number - 1)
    }

    /// A backend has a whole message and does not want it.
    pub(crate) fn turned_away(&mut self, content: &[u8], word: &str) {
        let content = self.without_trace(content.to_vec());
        let id = id(&content);
        match self.sent.get_mut(&id) {
            Some(sent) => sent.refused = word.get(..3).and_then(|code| code.parse().ok()),
            None => self.broken(&format!("a message that nobody sent: {}", content.escape_ascii())),
        }
    }

    /// What the backend says of the copy, or does not say after all.
    pub(crate) fn says(&mut self, (id, copy): &(String, usize), word: Option<u16>) {
        self.copies.get_mut(id).unwrap()[*copy].word = word;
    }

    /// The client is told this of its message to these recipients.
    pub(crate) fn told(&mut self, id: &str, recipients: &[String], code: u16) {
        match code / 100 {
            2 => self.tally.acknowledged += 1,
            5 => self.tally.refused += 1,
            _ => self.tally.deferred += 1,
        }
        let sent = self.sent.get_mut(id).unwrap();
        sent.told = Some(code);
        let word = self.copies.get(id).and_then(|copies| copies.iter().find_map(|copy| copy.word));
        if code / 100 != 2 {
            let class = word.map(|word| word / 100).filter(|class| *class != 3);
            let refused = sent.refused.is_some_and(|refused| refused != code);
            if refused || class.is_some_and(|class| class != code / 100) {
                let said = (word, sent.refused);
                self.broken(&format!("{id} was told {code}, of which the backend said {said:?}"));
            }
            return;
        }
        let copies = self.copies.get(id).map(Vec::as_slice).unwrap_or_default();
        let stored = copies.iter().find(|copy| copy.word.is_some_and(|word| word / 100 == 2));
        let fault = match (stored, &sent.content) {
            (None, _) => format!("{id} was acknowledged ({code}) and is not stored: {copies:?}"),
            (_, None) => format!("{id} was acknowledged with bare newlines"),
            (Some(copy), Some(content)) if copy.content != *content => {
                format!("{id} was changed from {} to {}", content.escape_ascii(), copy.content.escape_ascii())
            }
            (Some(copy), _) if copy.recipients != recipients => {
                format!("{id} went to {:?}, not to {recipients:?}", copy.recipients)
            }
            _ => return,
        };
        self.broken(&fault);
    }

    /// The end of the world: what was taken was told, unless nobody listened.
    pub(crate) fn is_over(&mut self) {
        let untold = self.copies.iter().filter(|(id, copies)| {
            let taken = copies.iter().any(|copy| copy.word.is_some_and(|word| word / 100 == 2));
            let sent = self.sent.get(*id);
            taken && sent.is_some_and(|sent| !sent.left && sent.told.is_none_or(|code| code / 100 != 2))
        });
        let untold: Vec<String> = untold.map(|(id, _)| id.clone()).collect();
        for id in untold {
            self.broken(&format!("{id} was taken, and its client was not told"));
        }
        if !self.pending.is_empty() {
            self.broken(&format!("still asked about: {:?}", self.pending));
        }
        if self.open.iter().any(|open| *open > 0) {
            self.broken(&format!("connections left: {:?}", self.open));
        }
    }
}

/// The first line of a message is its name.
fn id(content: &[u8]) -> String {
    let line = content.split(|octet| *octet == b'\r').next().unwrap_or_default();
    String::from_utf8_lossy(line).into_owned()
}
