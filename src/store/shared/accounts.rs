//! What clients were told and may still ask for here, as far as Redis is to know of it.
//!
//! A request may get no answer, and then nobody knows whether it was done. So each has a number, and what was told goes again with the
//! number of the request it first went with, until one is answered: Redis counts of each number once. What a client may still ask for
//! is told as a whole each time. Bounded: what does not fit is dropped and counted.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Clients at most.
const MOST: usize = 65_536;
/// Requests without an answer whose part is told again; of more the oldest is not.
const MOST_IN_DOUBT: usize = 8;
/// What was told within this is counted as of one moment.
const SPAN: Duration = Duration::from_secs(180);
/// What was told longer ago counts no more.
const HOUR: Duration = Duration::from_secs(3600);

/// What a client was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) unknown: u32,
    pub(super) known: u32,
}

/// The same by when it was told, oldest first, for it counts for an hour from then on.
#[derive(Debug, Default)]
struct Deltas(Vec<(Instant, Delta)>);

/// One client.
#[derive(Debug, Default)]
struct Account {
    /// Recipients it has leave for and no answer to yet.
    leave: u32,
    /// What it was told and no request has told yet.
    new: Deltas,
    /// What was told by requests without an answer, by their number.
    doubtful: Vec<(u64, Deltas)>,
}

/// What a request says of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Statement {
    /// Its number; later ones are higher.
    pub(super) number: u64,
    /// What was told: `NUMBER:SPANS UNKNOWN KNOWN,…;…`, where `SPANS` is how many spans ago that was.
    pub(super) told: String,
    /// Recipients it has leave for and no answer to yet.
    pub(super) leave: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    books: Mutex<Books>,
    /// There is something to count.
    pub(super) due: Notify,
}

#[derive(Debug, Default)]
struct Books {
    clients: HashMap<u128, Account>,
    /// Clients of whom Redis is to be told.
    due: HashSet<u128>,
    requests: u64,
    dropped: u64,
}

impl Accounts {
    /// A client was told something, and has no leave any more for what was `returned`.
    pub(super) fn told(&self, client: u128, delta: Delta, returned: u32) {
        let mut books = self.books();
        if books.clients.len() >= MOST && !books.clients.contains_key(&client) {
            books.dropped += 1;
            return;
        }
        let account = books.clients.entry(client).or_default();
        account.leave = account.leave.saturating_sub(returned);
        account.new.add(delta);
        books.due.insert(client);
        drop(books);
        self.due.notify_one();
    }

    /// Some clients of whom Redis is to be told.
    pub(super) fn due(&self, most: usize) -> Vec<u128> {
        self.books().due.iter().take(most).copied().collect()
    }

    /// What the next request says of a client.
    pub(super) fn state(&self, client: u128) -> Statement {
        let mut books = self.books();
        books.due.remove(&client);
        books.requests += 1;
        let number = books.requests;
        let Some(account) = books.clients.get_mut(&client) else {
            return Statement { number, told: String::new(), leave: 0 };
        };
        let new = std::mem::take(&mut account.new);
        if !new.0.is_empty() {
            account.doubtful.push((number, new));
        }
        let told: Vec<String> =
            account.doubtful.iter().map(|(number, told)| format!("{number}:{}", told.argument())).collect();
        let statement = Statement { number, told: told.join(";"), leave: account.leave };
        if account.doubtful.len() > MOST_IN_DOUBT {
            account.doubtful.remove(0);
            books.dropped += 1;
        }
        statement
    }

    /// A request was answered, and gave leave for so many recipients. What does not fit Redis takes for given back a minute later.
    pub(super) fn settle(&self, client: u128, granted: u32) {
        let mut books = self.books();
        if !books.clients.contains_key(&client) && (granted == 0 || books.clients.len() >= MOST) {
            return;
        }
        let account = books.clients.entry(client).or_default();
        account.doubtful.clear();
        account.leave += granted;
        if account.leave == 0 && account.new.0.is_empty() {
            books.clients.remove(&client);
        }
    }

    /// A request had no answer. What it gave leave for is not taken, and Redis is to know.
    pub(super) fn unsettled(&self, client: u128) {
        self.told(client, Delta::default(), 0);
    }

    /// A request was not even sent.
    pub(super) fn unsent(&self, client: u128, number: u64) {
        let mut books = self.books();
        let Some(account) = books.clients.get_mut(&client) else { return };
        if account.doubtful.last().is_some_and(|(last, _)| *last == number)
            && let Some((_, told)) = account.doubtful.pop()
        {
            account.new.precede(told);
        }
        books.due.insert(client);
        drop(books);
        self.due.notify_one();
    }

    /// Clients of whom Redis is to be told, and what it was not told since too much waited.
    pub(super) fn account(&self) -> (usize, u64) {
        let books = self.books();
        (books.due.len(), books.dropped)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deltas {
    /// Told now.
    fn add(&mut self, told: Delta) {
        if told == Delta::default() {
            return;
        }
        match self.0.last_mut() {
            Some((since, waiting)) if since.elapsed() < SPAN => *waiting = waiting.plus(told),
            _ => self.0.push((Instant::now(), told)),
        }
        self.0.retain(|(at, _)| at.elapsed() < HOUR);
    }

    /// What was told before.
    fn precede(&mut self, earlier: Self) {
        self.0.splice(..0, earlier.0);
    }

    fn argument(&self) -> String {
        let told = self.0.iter().filter(|(at, _)| at.elapsed() < HOUR);
        let each = told.map(|(at, Delta { unknown, known })| {
            format!("{} {unknown} {known}", at.elapsed().as_secs() / SPAN.as_secs())
        });
        each.collect::<Vec<_>>().join(",")
    }
}

impl Delta {
    const fn plus(self, other: Self) -> Self {
        Self {
            unknown: self.unknown.saturating_add(other.unknown),
            known: self.known.saturating_add(other.known),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Delta = Delta { unknown: 1, known: 2 };

    fn said(accounts: &Accounts, client: u128) -> (String, u32) {
        let Statement { told, leave, .. } = accounts.state(client);
        (told, leave)
    }

    #[tokio::test(start_paused = true)]
    async fn what_clients_were_told_is_counted_where_it_belongs() {
        let accounts = Accounts::default();
        let minutes = |number: u64| tokio::time::advance(Duration::from_secs(number * 60));
        for pause in [10, 2, 40] {
            accounts.told(1, ONE, 0);
            minutes(pause).await;
        }
        assert_eq!(said(&accounts, 1).0, "1:17 1 2,14 2 4");
        // It could not be sent; meanwhile there was more, and the first is too old.
        accounts.told(1, ONE, 0);
        minutes(9).await;
        accounts.unsent(1, 1);
        assert_eq!(said(&accounts, 1).0, "2:17 2 4,3 1 2");
        accounts.settle(1, 0);
        assert_eq!((said(&accounts, 1).0, accounts.books().clients.len()), (String::new(), 0));
    }

    #[tokio::test]
    async fn what_a_request_without_an_answer_told_is_told_again_under_its_number() {
        let accounts = Accounts::default();
        accounts.told(1, ONE, 0);
        assert_eq!(said(&accounts, 1).0, "1:0 1 2");
        accounts.unsettled(1);
        accounts.told(1, ONE, 0);
        assert_eq!((accounts.due(9), said(&accounts, 1).0.as_str()), (vec![1], "1:0 1 2;2:0 1 2"));
        accounts.unsettled(1);
        assert_eq!(said(&accounts, 1).0, "1:0 1 2;2:0 1 2");
        accounts.settle(1, 0);
        assert_eq!(said(&accounts, 1).0, "");
    }

    #[tokio::test]
    async fn leave_is_what_was_granted_and_not_returned() {
        let accounts = Accounts::default();
        assert_eq!(said(&accounts, 1), (String::new(), 0));
        accounts.settle(1, 5);
        accounts.told(1, Delta { unknown: 2, known: 0 }, 2);
        assert_eq!(said(&accounts, 1), ("2:0 2 0".to_owned(), 3));
        accounts.settle(1, 0);
        assert!(accounts.due(9).is_empty());
        accounts.told(1, Delta::default(), 3);
        assert_eq!((accounts.due(9), said(&accounts, 1)), (vec![1], (String::new(), 0)));
        accounts.settle(1, 0);
        assert_eq!(accounts.books().clients.len(), 0);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_dropped_and_counted() {
        let accounts = Accounts::default();
        for client in 0..MOST as u128 + 5 {
            accounts.told(client, ONE, 0);
        }
        assert_eq!(accounts.account(), (MOST, 5));
        for _ in 0..MOST_IN_DOUBT + 2 {
            accounts.told(1, ONE, 0);
            accounts.state(1);
        }
        assert_eq!(accounts.account().1, 7);
    }
}
