//! The store through its doors: what was told comes back, whatever became of the file meanwhile.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(86_400);

/// A directory that goes away with the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("backstop-store-{}-{number}", std::process::id())))
    }

    fn open(&self) -> Result<Opened, StoreFault> {
        self.open_with(None, bounds(1000))
    }

    fn open_with(&self, secret: Option<&str>, bounds: Bounds) -> Result<Opened, StoreFault> {
        Opened::open(&self.0, secret, bounds, bounds)
    }

    fn file(&self) -> PathBuf {
        self.0.join("verdicts.redb")
    }

    fn asides(&self) -> usize {
        let names = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().contains(".aside-")).count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn bounds(records: usize) -> Bounds {
    Bounds { records, keeps: DAY }
}

const GOOD: Fact = Fact::Good { mark: 7 };
const BAD: Fact = Fact::Bad { text: 3, confirmed: 1 };

fn template() -> Template {
    Template { code: 550, text: b"5.1.1 <\0> unknown".as_slice().into() }
}

/// What is known in the end, by shelf and key.
fn known(store: &mut Opened) -> HashMap<(u8, u128), Fact> {
    let mut known = HashMap::new();
    store.recall_each(|shelf, record| {
        let place = (u8::from(shelf == Shelf::Bad), record.key);
        match record.fact {
            Fact::Gone => known.remove(&place),
            fact => known.insert(place, fact),
        };
    });
    known
}

/// Opens, tells and closes.
async fn tell(place: &Place, news: impl FnOnce(&Journal)) {
    let store = place.open().unwrap().start();
    news(&store.journal());
    store.close(PATIENCE).await;
    assert_eq!(store.account().fault, None);
}

#[tokio::test]
async fn what_was_learnt_and_forgotten_comes_back() {
    let place = Place::new();
    tell(&place, |journal| {
        for key in 0..5 {
            journal.learnt(Shelf::Good, key, GOOD);
        }
        journal.text(3, template());
        journal.learnt(Shelf::Bad, 9, BAD);
        journal.gone(Shelf::Good, 0);
    })
    .await;
    tell(&place, |journal| {
        journal.gone(Shelf::Good, 1);
        journal.learnt(Shelf::Good, 2, Fact::Good { mark: 8 });
        journal.forgot_domain(77, 4);
    })
    .await;
    let mut store = place.open().unwrap();
    let expected = [((0, 2), Fact::Good { mark: 8 }), ((0, 3), GOOD), ((0, 4), GOOD), ((1, 9), BAD)];
    assert_eq!(known(&mut store), expected.into());
    let Recalled { epoch, generations, texts, .. } = store.recall();
    assert_eq!((epoch, generations, texts), (0, vec![(77, 4)], vec![(3, template())]));
    store.forget_texts(&[3]);
    assert_eq!(store.recall().texts, []);
}

#[tokio::test]
async fn forgetting_all_leaves_the_epoch_and_what_was_learnt_since() {
    let place = Place::new();
    tell(&place, |journal| {
        journal.learnt(Shelf::Good, 1, GOOD);
        journal.learnt(Shelf::Bad, 2, BAD);
        journal.forgot_domain(77, 4);
    })
    .await;
    tell(&place, |journal| {
        journal.learnt(Shelf::Good, 3, GOOD);
        journal.forgot_all(6);
        journal.learnt(Shelf::Good, 4, GOOD);
    })
    .await;
    let mut store = place.open().unwrap();
    assert_eq!(known(&mut store), [((0, 4), GOOD)].into());
    let Recalled { epoch, generations, .. } = store.recall();
    assert_eq!((epoch, generations), (6, vec![]));
}

#[tokio::test]
async fn what_is_forgotten_is_written_at_once_and_what_is_learnt_soon() {
    let place = Place::new();
    let store = place.open().unwrap().start();
    store.journal().learnt(Shelf::Good, 1, GOOD);
    let written = async {
        while store.account().records == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, written).await.expect("nobody has to close it");
}

#[tokio::test]
async fn nothing_of_ours_is_for_others_to_read_and_the_secret_stays() {
    let place = Place::new();
    let key = place.open().unwrap().key().octets();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(place.0.clone()), 0o700);
    assert_eq!((mode(place.file()), mode(place.0.join("secret"))), (0o600, 0o600));
    fs::set_permissions(place.file(), fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(place.0.join("secret"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(place.open().unwrap().key().octets(), key);
    assert_eq!((mode(place.file()), mode(place.0.join("secret"))), (0o600, 0o600));
    assert_ne!(Place::new().open().unwrap().key().octets(), key);
    let given = Place::new();
    let opened = given.open_with(Some("salt"), bounds(10)).unwrap();
    assert_eq!(opened.key().octets(), HashKey::of("salt").octets());
    assert!(!given.0.join("secret").exists());
}

#[tokio::test]
async fn a_secret_that_is_none_is_put_aside() {
    let place = Place::new();
    drop(place.open().unwrap());
    for garbage in [b"".as_slice(), b"short\n", &[0xff; 40]] {
        fs::write(place.0.join("secret"), garbage).unwrap();
        let asides = place.asides();
        let key = place.open().unwrap().key().octets();
        assert_eq!(place.asides(), asides + 1);
        assert_eq!(place.open().unwrap().key().octets(), key);
    }
}

#[tokio::test]
async fn another_secret_makes_old_entries_useless() {
    let place = Place::new();
    tell(&place, |journal| {
        journal.learnt(Shelf::Good, 1, GOOD);
        journal.forgot_domain(77, 1);
    })
    .await;
    let mut store = place.open_with(Some("other"), bounds(1000)).unwrap();
    assert_eq!(known(&mut store), HashMap::new());
    assert_eq!(store.recall().generations, []);
    drop(store);
    assert_eq!(known(&mut place.open().unwrap()), HashMap::new(), "nor do they come back with the old one");
    assert_eq!(place.asides(), 0, "the file itself is sound");
}

#[tokio::test]
async fn a_second_process_does_not_get_the_store() {
    let place = Place::new();
    let store = place.open().unwrap();
    assert!(matches!(place.open(), Err(StoreFault::InUse(_))));
    assert_eq!(place.asides(), 0);
    drop(store);
    assert!(place.open().is_ok());
}

/// Whether something of the file may be left.
#[derive(Clone, Copy, PartialEq)]
enum Left {
    Nothing,
    /// All of it, or an earlier state of it; but nothing that was never there.
    Something,
}

/// Writes something, spoils the file, and sees that the store begins anew, or still has what it had.
async fn spoilt(what: &str, left: Left, spoil: impl FnOnce(&Place)) {
    let place = Place::new();
    tell(&place, |journal| {
        for key in 0..5000 {
            journal.learnt(Shelf::Good, key, GOOD);
        }
    })
    .await;
    spoil(&place);
    let mut store = place.open().unwrap_or_else(|fault| panic!("{what}: {fault}"));
    let known_now = known(&mut store);
    let begun_anew = known_now.is_empty() && place.asides() == 1;
    let ours = |(place, fact): (&(u8, u128), &Fact)| place.0 == 0 && place.1 < 5000 && *fact == GOOD;
    let sound = left == Left::Something && place.asides() == 0 && known_now.iter().all(ours);
    assert!(begun_anew || sound, "{what}: {} left, {} aside", known_now.len(), place.asides());
    // And it works.
    let store = store.start();
    store.journal().learnt(Shelf::Good, 9999, GOOD);
    store.close(PATIENCE).await;
    assert_eq!(store.account().fault, None, "{what}");
    assert!(known(&mut place.open().unwrap()).contains_key(&(0, 9999)), "{what}");
}

/// Writes `octets` into the file at a share of its length.
fn overwrite(place: &Place, at: f64, octets: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(place.file()).unwrap();
    let length = fs::metadata(place.file()).unwrap().len();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let at = (length as f64 * at) as u64;
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(octets).unwrap();
}

#[tokio::test]
async fn a_file_that_is_none_of_ours_is_put_aside() {
    spoilt("text", Left::Nothing, |place| fs::write(place.file(), "To be or not to be").unwrap()).await;
    spoilt("zeros", Left::Nothing, |place| fs::write(place.file(), vec![0; 1 << 20]).unwrap()).await;
    spoilt("noise", Left::Nothing, |place| fs::write(place.file(), noise(1, 1 << 20)).unwrap()).await;
    spoilt("a directory", Left::Nothing, |place| {
        fs::remove_file(place.file()).unwrap();
        fs::create_dir(place.file()).unwrap();
        fs::write(place.file().join("file"), "x").unwrap();
    })
    .await;
    spoilt("a database of somebody else", Left::Nothing, |place| {
        fs::remove_file(place.file()).unwrap();
        let database = redb::Database::create(place.file()).unwrap();
        let transaction = database.begin_write().unwrap();
        let table = redb::TableDefinition::<u64, u64>::new("theirs");
        transaction.open_table(table).unwrap().insert(1, 1).unwrap();
        transaction.commit().unwrap();
    })
    .await;
    spoilt("a version to come", Left::Nothing, |place| {
        let database = redb::Database::create(place.file()).unwrap();
        let transaction = database.begin_write().unwrap();
        let table = redb::TableDefinition::<&str, u128>::new("meta");
        transaction.open_table(table).unwrap().insert("version", 2).unwrap();
        transaction.commit().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_missing_or_empty_file_is_begun_anew() {
    for spoil in [(|place| fs::remove_file(place.file()).unwrap()) as fn(&Place), |place| {
        fs::write(place.file(), "").unwrap();
    }] {
        let place = Place::new();
        tell(&place, |journal| journal.learnt(Shelf::Good, 1, GOOD)).await;
        spoil(&place);
        let mut store = place.open().unwrap();
        assert_eq!((known(&mut store).len(), place.asides()), (0, 0));
    }
}

#[tokio::test]
async fn a_file_that_is_cut_off_is_put_aside() {
    for share in [1, 10, 25, 50, 75, 90, 99] {
        spoilt(&format!("cut at {share} %"), Left::Nothing, |place| {
            let file = fs::OpenOptions::new().write(true).open(place.file()).unwrap();
            let length = file.metadata().unwrap().len();
            file.set_len(length * share / 100).unwrap();
        })
        .await;
    }
}

/// Octets by chance, the same each time.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test]
async fn a_file_that_was_written_into_is_put_aside_or_still_sound() {
    for (number, at) in
        [0.0, 0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.9].iter().enumerate()
    {
        for length in [1, 512] {
            let octets = noise(number as u64 * 1000 + length as u64, length);
            // What nothing refers to may be anything.
            spoilt(&format!("{length} octets at {at}"), Left::Something, |place| {
                overwrite(place, *at, &octets);
            })
            .await;
            spoilt(&format!("{length} zeros at {at}"), Left::Something, |place| {
                overwrite(place, *at, &vec![0; length]);
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_said_so() {
    let place = Place::new();
    fs::write(&place.0, "a file").unwrap();
    let fault = place.open().unwrap_err();
    assert!(matches!(fault, StoreFault::Unusable(..)), "{fault}");
    assert!(examine(&place.0).is_err());
    fs::remove_file(&place.0).unwrap();
    examine(&place.0).unwrap();
    assert!(!place.0.exists(), "looking makes nothing");
    fs::create_dir(&place.0).unwrap();
    examine(&place.0).unwrap();
    assert_eq!(fs::read_dir(&place.0).unwrap().count(), 0, "and leaves nothing");
    // Where nobody writes, root neither.
    assert!(examine(Path::new("/proc/1/nowhere")).is_err());
}

#[tokio::test]
async fn the_oldest_leave_when_there_are_too_many() {
    let place = Place::new();
    for batch in 0..20_u32 {
        let store = place.open_with(None, bounds(500)).unwrap().start();
        for key in 0..200 {
            store.journal().learnt(Shelf::Bad, (batch * 200 + key).into(), BAD);
        }
        store.journal().learnt(Shelf::Good, batch.into(), GOOD);
        store.close(PATIENCE).await;
    }
    let mut store = place.open_with(None, bounds(500)).unwrap();
    let known = known(&mut store);
    let bad = known.keys().filter(|(shelf, _)| *shelf == 1).count();
    assert_eq!(bad, 1000, "twice what the cache holds");
    assert!(known.contains_key(&(1, 3999)) && !known.contains_key(&(1, 0)));
    assert_eq!(known.len() - bad, 20, "bad ones do not push out good ones");
}

#[tokio::test]
async fn a_flood_is_bounded_and_what_is_forgotten_is_not_lost_in_it() {
    let queue = Arc::new(Queue::default());
    let journal = Journal::new(Arc::clone(&queue));
    for key in 0..200_000 {
        journal.learnt(Shelf::Bad, key, BAD);
    }
    journal.gone(Shelf::Good, 5);
    journal.learnt(Shelf::Bad, 7, Fact::Bad { text: 1, confirmed: 9 });
    assert_eq!(queue.dropped(), 200_000 - 65_536);
    let (batch, _) = queue.take(Duration::ZERO);
    assert_eq!((batch.bad.len(), batch.good[&5].fact), (65_536, Fact::Gone));
    assert_eq!(
        batch.bad[&7].fact,
        Fact::Bad { text: 1, confirmed: 9 },
        "a later word of a key has its place"
    );
    // It could not be written, and meanwhile more came.
    journal.learnt(Shelf::Good, 5, GOOD);
    queue.give_back(batch);
    let (batch, _) = queue.take(Duration::ZERO);
    assert_eq!(batch.good[&5].fact, GOOD, "what was said since counts");
    queue.give_back(batch);
    for key in 0..200_000 {
        journal.gone(Shelf::Good, key);
    }
    let (batch, _) = queue.take(Duration::ZERO);
    assert!(batch.emptied, "where even that does not fit, everything is forgotten");
}

#[tokio::test]
async fn what_is_stored_holds_no_text_that_was_asked_about() {
    let place = Place::new();
    tell(&place, |journal| journal.learnt(Shelf::Good, 1, GOOD)).await;
    let mut octets = Vec::new();
    fs::File::open(place.file()).unwrap().read_to_end(&mut octets).unwrap();
    assert!(
        memchr::memmem::find(&octets, b"good").is_some(),
        "the table's name, so this looks in the right place"
    );
    assert!(
        memchr::memchr(b'@', &octets).is_none_or(|_| memchr::memmem::find(&octets, b"example").is_none())
    );
}

#[tokio::test]
async fn what_random_names_have_shown_comes_back_and_is_of_one_secret() {
    let place = Place::new();
    let seen = |sight| Some(Seen { sight, age: Duration::ZERO });
    let marks = Marks { recipient: seen(Sight::Truthful), data: None, delivery: seen(Sight::Blind) };
    let store = place.open().unwrap().start();
    store.journal().marked(7, &Marks { delivery: None, ..marks });
    store.journal().marked(7, &marks);
    store.close(PATIENCE).await;
    let stored = place.open().unwrap().recall().marks;
    let [(7, stored)] = stored.as_slice() else { panic!("{stored:?}") };
    assert_eq!(
        stored.each().map(|seen| seen.map(|seen| seen.sight)),
        marks.each().map(|seen| seen.map(|s| s.sight))
    );
    let mut other = place.open_with(Some("another"), bounds(1000)).unwrap();
    assert!(other.recall().marks.is_empty());
}
