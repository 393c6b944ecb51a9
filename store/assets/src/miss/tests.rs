#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::Condvar;

use ship_model::digest::ReleaseId;
use ship_model::release::ReleaseNumber;

use super::*;

/// Somebody who has `/static/…`, and is asked as often as it counts.
#[derive(Default)]
struct Other {
    asked: AtomicU64,
    fetched: AtomicU64,
    fails: bool,
    /// Answers to `find` wait while this is closed.
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Elsewhere for Other {
    fn find(&self, url: &str) -> Result<Standing, ElsewhereError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let closed = self.closed.lock().unwrap();
        drop(self.opened.wait_while(closed, |closed| *closed).unwrap());
        let release = Target {
            number: ReleaseNumber(7),
            id: ReleaseId::of(b"seven"),
        };
        Ok(match url.split('/').nth(1) {
            Some("static") => Standing::Promised(Promised {
                app: "web".parse().unwrap(),
                release,
                url: url.to_owned(),
                digest: BlobDigest::of(b"x"),
                size: 1,
            }),
            Some("old") => Standing::Expired,
            _ => Standing::Never,
        })
    }

    fn fetch(&self, _: &Promised) -> Result<(), ElsewhereError> {
        self.fetched.fetch_add(1, Ordering::SeqCst);
        match self.fails {
            true => Err("the store is away".into()),
            false => Ok(()),
        }
    }
}

fn misses(other: Other) -> (Arc<Misses>, Arc<Other>) {
    let other = Arc::new(other);
    (Misses::new(Arc::clone(&other) as Arc<dyn Elsewhere>), other)
}

#[tokio::test]
async fn of_many_that_ask_at_once_one_does_the_work() {
    let (misses, other) = misses(Other {
        closed: Mutex::new(true),
        ..Other::default()
    });
    let asking: Vec<_> = (0..100)
        .map(|n| {
            let misses = Arc::clone(&misses);
            let url = if n % 2 == 0 {
                "/static/a.js"
            } else {
                "/static/%61.js"
            };
            tokio::spawn(async move { misses.miss(url, misses.moment()).await })
        })
        .collect();
    while other.asked.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // Each has its turn before the answer comes.
    for _ in 0..asking.len() {
        tokio::task::yield_now().await;
    }
    // One that hangs up does not end it.
    asking[0].abort();
    *other.closed.lock().unwrap() = false;
    other.opened.notify_all();
    for (at, asked) in asking.into_iter().enumerate() {
        if let Ok(missed) = asked.await {
            assert_eq!(missed, Missed::Here, "{at}");
        }
    }
    assert_eq!(other.fetched.load(Ordering::SeqCst), 1);
    assert_eq!(misses.healed(), 1);
    assert!(misses.incidents().is_empty());
}

#[tokio::test]
async fn who_asks_when_the_work_is_done_does_not_begin_it_again() {
    let (misses, other) = misses(Other::default());
    let moment = misses.moment();
    for _ in 0..3 {
        assert_eq!(misses.miss("/static/a.js", moment).await, Missed::Here);
    }
    assert_eq!(other.fetched.load(Ordering::SeqCst), 1);
    // This one looked after it had landed, and somebody had taken it away.
    let moment = misses.moment();
    assert_eq!(misses.miss("/static/a.js", moment).await, Missed::Here);
    assert_eq!(other.fetched.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_nobody_published_is_remembered_for_a_while_and_no_incident() {
    let (misses, other) = misses(Other::default());
    for _ in 0..20 {
        assert_eq!(
            misses.miss("/wp-login.php", misses.moment()).await,
            Missed::Unknown
        );
    }
    assert_eq!(other.asked.load(Ordering::SeqCst), 1);
    assert_eq!(
        misses.miss("/static/%2e%2e/x", misses.moment()).await,
        Missed::Unknown
    );
    assert_eq!(other.asked.load(Ordering::SeqCst), 1, "no path of an asset");
    assert!(misses.incidents().is_empty());
}

#[tokio::test]
async fn what_was_promised_and_cannot_be_had_is_an_incident_of_its_release() {
    let (misses, other) = misses(Other {
        fails: true,
        ..Other::default()
    });
    for _ in 0..3 {
        assert_eq!(
            misses.miss("/static/a.js", misses.moment()).await,
            Missed::Incident
        );
    }
    let tries = other.fetched.load(Ordering::SeqCst);
    assert!((1..=3).contains(&tries), "{tries}");
    let incidents = misses.incidents();
    assert_eq!(incidents.len(), 1);
    assert_eq!((incidents[0].release.number.0, incidents[0].count), (7, 3));
    assert_eq!(incidents[0].url, "/static/a.js");
    // Each request counts, also those for a path that is not the last one.
    for url in ["/static/b.js", "/static/a.js", "/static/b.js"] {
        assert_eq!(misses.miss(url, misses.moment()).await, Missed::Incident);
    }
    assert_eq!(misses.incidents()[0].count, 6);
    assert_eq!(misses.repair("/static/a.js").await, Missed::Incident);
    assert_eq!(misses.incidents()[0].count, 6, "nobody asked");
}

#[tokio::test]
async fn more_than_a_few_paths_at_once_are_answered_without_looking() {
    let (misses, other) = misses(Other {
        closed: Mutex::new(true),
        ..Other::default()
    });
    let asking: Vec<_> = (0..AT_ONCE)
        .map(|n| {
            let misses = Arc::clone(&misses);
            tokio::spawn(async move { misses.miss(&format!("/static/{n}.js"), misses.moment()).await })
        })
        .collect();
    while lock(&misses.flights).len() < AT_ONCE {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        misses.miss("/static/more.js", misses.moment()).await,
        Missed::Unknown
    );
    *other.closed.lock().unwrap() = false;
    other.opened.notify_all();
    for asked in asking {
        assert_eq!(asked.await.unwrap(), Missed::Here);
    }
    assert_eq!(
        misses.miss("/static/more.js", misses.moment()).await,
        Missed::Here
    );
}
