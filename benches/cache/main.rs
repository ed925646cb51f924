//! What the verdict cache and its store cost: figures, nothing asserted.
//!
//! ```text
//! cargo bench --bench cache                      # everything, at 1 and 10 million entries: some minutes, 3 GB
//! cargo bench --bench cache -- memory 1000000    # one part, at so many entries
//! ```
//!
//! Parts:
//! * `memory`: resident octets an entry, in a process of its own; two thirds good, one third bad.
//! * `lookups`: entries found per second on one and on two threads, in random order, with and without hashing
//!   the address.
//! * `scan`: a cache of a million entries, its good share full, and ten million unknown names learnt: how many
//!   good ones are left.
//! * `store`: what learning costs while the store is written behind, the time until all of it is written, the
//!   size of the file, and the time a restart takes.
//!
//! Rates are given by the clock, and in brackets by the processor time this process had, which is what can be
//! compared where the machine has other work.

#![allow(missing_docs)]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench is a tool for people")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use backstop::config;
use backstop::proto::reply::Reply;
use backstop::store::{HashKey, Opened, Stamp};
use backstop::verify::{Cache, Guard, Key, Keyring, Known, Tally, bounds};
use tokio::time::Instant;

const PARTS: [&str; 4] = ["memory", "lookups", "scan", "store"];
const SIZES: [usize; 2] = [1_000_000, 10_000_000];
/// Names in a scan.
const SCAN: usize = 10_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {
            for part in PARTS {
                for size in SIZES {
                    // Memory that one part gave back is not to help another.
                    let own = std::env::current_exe().unwrap();
                    Command::new(own).args([part, &size.to_string()]).status().unwrap();
                    if part == "scan" {
                        break;
                    }
                }
            }
        }
        ["memory", size] => memory(size.parse().unwrap()),
        ["lookups", size] => lookups(size.parse().unwrap()),
        ["scan", _] => scan(),
        ["store", size] => store(size.parse().unwrap()),
        _ => println!("usage: cargo bench --bench cache [-- memory|lookups|scan|store ENTRIES]"),
    }
}

/// Lifetimes as configured by default, and room for so many good and bad entries together.
fn lifetimes(entries: usize) -> config::Cache {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    config::Cache {
        // A sixteenth is for temporary entries.
        max_entries: entries / 15 * 16 + 16,
        positive_ttl: hours(24),
        positive_refresh: hours(12),
        negative_ttl: hours(1),
        negative_ttl_max: hours(2),
        tempfail_ttl: Duration::from_secs(5),
        blind_ttl: hours(6),
        serve_stale: hours(24),
    }
}

/// Addresses by number.
struct Names(Keyring);

impl Names {
    fn new() -> Self {
        Self(Keyring::of(HashKey::of("bench")))
    }

    fn key(&self, number: usize) -> Key {
        self.0.key(&[b"10.0.0.5:25 <>", &0_u32.to_le_bytes(), address(number).as_bytes()])
    }
}

fn address(number: usize) -> String {
    format!("firstname.lastname{number}@mail.example.org")
}

fn refusal(number: usize) -> Reply {
    let text = format!("5.1.1 <{}>: Recipient address rejected: User unknown", address(number));
    Reply::new(550, text)
}

/// A cache with `entries`, and how many of them, from number 0, are good.
fn filled(entries: usize) -> (Cache, usize) {
    let cache = Cache::new(lifetimes(entries));
    let tally = cache.tally_of("exchange", "mail.example.org");
    let good = bounds(&lifetimes(entries)).0.records;
    fill(&cache, &tally, good, entries, |_| {});
    (cache, good)
}

fn fill(cache: &Cache, tally: &Tally, good: usize, entries: usize, mut learnt: impl FnMut(usize)) {
    let names = Names::new();
    for number in 0..entries {
        if number < good {
            cache.learn_good(names.key(number), tally);
        } else {
            cache.learn_bad(names.key(number), &refusal(number), &address(number));
        }
        learnt(number);
    }
}

fn resident() -> u64 {
    let status = procfs::process::Process::myself().unwrap().status().unwrap();
    status.vmrss.unwrap() * 1024
}

fn memory(entries: usize) {
    let before = resident();
    let (cache, _) = filled(entries);
    let sizes = cache.sizes();
    let held = sizes.good + sizes.bad;
    let octets = resident() - before;
    println!("memory    {entries:>9}: {held} entries in {octets} octets, {} each", octets / held as u64);
}

/// Numbers below `most` in an order nobody can foresee, the same each time.
fn shuffled(most: usize, seed: u64) -> impl Iterator<Item = usize> {
    let mut state = seed | 1;
    std::iter::from_fn(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % most as u64).ok()
    })
}

fn lookups(entries: usize) {
    const LOOKUPS: usize = 5_000_000;
    let (cache, good) = filled(entries);
    let cache = Arc::new(cache);
    let names = Names::new();
    // A small cache is full before it has as many: its parts fill unevenly.
    let is_held =
        |number: &usize| matches!(cache.known(names.key(*number), "", Guard::Second), Known::Good(_));
    let held: Vec<usize> = (0..good).filter(is_held).collect();
    let keys: Vec<Key> =
        shuffled(held.len(), 7).take(1_000_000).map(|place| names.key(held[place])).collect();
    for threads in [1, 2] {
        let rate = per_second(threads * LOOKUPS, || {
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    let (cache, keys) = (&cache, &keys);
                    scope.spawn(move || {
                        let found = shuffled(keys.len(), 11 + thread as u64)
                            .take(LOOKUPS)
                            .filter(|at| matches!(cache.known(keys[*at], "", Guard::Second), Known::Good(_)));
                        assert!(found.count() > LOOKUPS / 100 * 99);
                    });
                }
            });
        });
        println!("lookups   {entries:>9}: {rate} on {threads} threads");
    }
    let rate = per_second(LOOKUPS, || {
        let found = shuffled(held.len(), 13).take(LOOKUPS).filter(|place| is_held(&held[*place]));
        assert!(found.count() > LOOKUPS / 100 * 99);
    });
    println!("lookups   {entries:>9}: {rate} on 1 thread, address written and hashed too");
}

fn scan() {
    let entries = SIZES[0];
    let (cache, good) = filled(entries);
    let names = Names::new();
    let left = |cache: &Cache| {
        let known = (0..good)
            .filter(|number| matches!(cache.known(names.key(*number), "", Guard::Second), Known::Good(_)));
        known.count()
    };
    let before = left(&cache);
    let rate = per_second(SCAN, || {
        for number in entries..entries + SCAN {
            let key = names.key(number);
            if cache.known(key, "", Guard::Second) == Known::Nothing {
                cache.learn_bad(key, &refusal(number), &address(number));
            }
        }
    });
    let after = left(&cache);
    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    let share = after as f64 / before as f64 * 100.0;
    println!("scan      {SCAN:>9}: {before} good entries before, {after} after, {share:.2} %; {rate}");
}

/// How often a second, by the clock and by processor time.
fn per_second(times: usize, act: impl FnOnce()) -> String {
    let (began, spent) = (Instant::now(), processor());
    act();
    let rate = |time: Duration| times as u128 * 1_000_000 / time.as_micros().max(1);
    format!("{} ({}) a second", rate(began.elapsed()), rate(processor() - spent))
}

/// Processor time this process had.
fn processor() -> Duration {
    let stat = procfs::process::Process::myself().unwrap().stat().unwrap();
    // Ticks of a hundredth of a second, as everywhere on Linux.
    Duration::from_millis((stat.utime + stat.stime) * 10)
}

fn store(entries: usize) {
    let directory = std::env::temp_dir().join(format!("backstop-bench-{}", std::process::id()));
    let place = Place(directory);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (good, bad) = bounds(&lifetimes(entries));
    let open = || Opened::open(&place.0, None, good, bad).unwrap();

    let alone = per_second(entries, || drop(filled(entries)));
    let cache = Cache::new(lifetimes(entries));
    let tally = cache.tally_of("exchange", "mail.example.org");
    let written = open().start();
    cache.keep_in(written.journal());
    let (began, spent) = (Instant::now(), processor());
    let mut learning = Duration::ZERO;
    let mut round = Instant::now();
    fill(&cache, &tally, good.records, entries, |number| {
        // As fast as it is written: more would be dropped.
        if number % 32_768 == 32_767 {
            learning += round.elapsed();
            while written.account().records + 65_536 < number as u64 {
                std::thread::sleep(Duration::from_millis(1));
            }
            round = Instant::now();
        }
    });
    learning += round.elapsed();
    runtime.block_on(written.close(Duration::from_secs(600)));
    let account = written.account();
    let with = entries as u128 * 1_000_000 / learning.as_micros().max(1);
    println!(
        "store     {entries:>9}: {} records written in {:.1} s, {} dropped; learnt {with} a second beside it, \
         {alone} without a store; {:.1} s of processor time in all",
        account.records,
        began.elapsed().as_secs_f64(),
        account.dropped,
        (processor() - spent).as_secs_f64(),
    );
    drop((cache, written));

    let size = std::fs::metadata(place.0.join("verdicts.redb")).unwrap().len();
    let (began, spent) = (Instant::now(), processor());
    let mut opened = open();
    let checked = began.elapsed();
    let cache = Cache::new(lifetimes(entries));
    cache.recall(&mut opened, Stamp::now());
    let recalled = began.elapsed();
    let sizes = cache.sizes();
    println!(
        "restart   {entries:>9}: {} good and {} bad entries back in {:.2} s ({:.2} s), {:.2} s of them to check a \
         file of {size} octets",
        sizes.good,
        sizes.bad,
        recalled.as_secs_f64(),
        (processor() - spent).as_secs_f64(),
        checked.as_secs_f64(),
    );
}

/// A directory that goes away.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
